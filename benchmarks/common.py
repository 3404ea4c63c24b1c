"What the benchmarks share: interleaved rounds, tables, and a line that says what was run with what"
import datetime, gc, importlib.metadata, os, platform, time
from itertools import islice
from pathlib import Path
import numpy as np

RESULTS = Path(__file__).parent/'results'
clock = time.thread_time # processor time: what other programs on the machine do does not count, however slow a peer is


def setting(*packages):
    "One line: cores, Python, package versions and date; no machine, no path"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    found = [f'{p} {importlib.metadata.version(p)}' for p in packages]
    return f'*{", ".join([f"{cores} cores", f"Python {platform.python_version()}", *found, f"{datetime.date.today():%Y-%m-%d}"])}*'


def table(head, rows):
    "A markdown table; the first column is text, the others are numbers"
    line = lambda cells: f'| {" | ".join(map(str, cells))} |'
    return '\n'.join([line(head), line(['---'] + ['---:']*(len(head)-1)), *map(line, rows)])


def save(name, text):
    "Print a result and write it to the folder of results"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS/name).write_text(text.rstrip() + '\n', encoding='utf-8')
    print(text, flush=True)


def interleaved(
    peers, # name → function without arguments that returns a figure
    rounds=5, # How often each is measured, in turns: noise then falls on all alike
): # name → array of figures, one per round
    "Measure A, B, C, … then again, so that figures of one round may be compared"
    out = {name: [] for name in peers}
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for name, f in peers.items():
            out[name].append(f())
    return {name: np.array(v) for name, v in out.items()}


def seconds(f, least=.05):
    "Seconds of processor time per call of `f`, over as many calls as take `least` seconds"
    f()
    n, spent = 0, 0.
    while spent < least:
        t, k = clock(), max(1, n)
        for _ in range(k): f()
        spent, n = spent + clock() - t, n + k
    return spent/n


def throughput(
    loader, # Anything that yields batches
    bs, # Rows per batch
    budget=.15, # Seconds to measure, about
    stretch=32, # Batches between two looks at the clock
): # Rows per second
    "Rows per second of processor time through a loader, the median stretch of batches; starting an epoch is not counted, for any peer"
    batches, times, spent = iter(loader), [], 0.
    next(batches)
    while spent < budget:
        start = clock()
        n = sum(1 for _ in islice(batches, stretch))
        if n < stretch: break
        times.append(clock() - start)
        spent += times[-1]
    return stretch*bs/np.median(times)


def reached(what, found, target, at_least=True, unit=''):
    "One line of a report: the figure, the target, and whether it was reached"
    ok = found >= target if at_least else found <= target
    show = lambda v: f'{v:.0f}' if v >= 100 or v == int(v) else f'{v:.3g}'
    return f'- {what}: **{show(found)}{unit}** (asked: {"≥" if at_least else "≤"} {show(target)}{unit}) — {"reached" if ok else "NOT reached"}'
