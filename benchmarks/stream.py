"""How much time a background stream costs, beside torch's DataLoader (and Grain, where it is installed) doing the same work with the same workers.

`python benchmarks/stream.py [rounds]`. Rounds are interleaved and medians are shown. Batches are 64×5×50 float32 with labels.
"""
import statistics, sys, time
import numpy as np
from tsmeta.load.stream import Stream

SHAPE, WORKERS = (64, 5, 50), 2
X, Y = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), np.arange(SHAPE[0])

def light(item): return dict(item, x=item['x'] + 1)
def five_ms(item):
    time.sleep(.005)
    return dict(item, x=item['x'] + 1)
def batch(i): return dict(x=X.copy(), y=Y.copy(), i=np.full(len(Y), i))
def source(n): return lambda: (batch(i) for i in range(n))

class Work:
    "The same work as a map-style dataset of batches"
    def __init__(self, fn, n): self.fn, self.n = fn, n
    def __len__(self): return self.n
    def __getitem__(self, i): return self.fn(batch(i))

def clock(items, consumer=0., warm=60):
    "Seconds per item once all workers are at work: their start is not counted"
    it = iter(items)
    for _ in range(warm): next(it)
    t, n = time.perf_counter(), 0
    for _ in it:
        n += 1
        if consumer: time.sleep(consumer)
    return (time.perf_counter() - t) / n

def stream(fn, n, consumer=0., **options):
    with Stream.of(source(n), seed=0).map(fn, num_workers=WORKERS, **options) as s:
        sum(1 for _ in s)
        return clock(s, consumer)

def torch_loader(fn, n, consumer=0.):
    from torch.utils.data import DataLoader
    dl = DataLoader(Work(fn, n), batch_size=None, num_workers=WORKERS, persistent_workers=True, collate_fn=as_tensors)
    sum(1 for _ in dl)
    return clock(dl, consumer)
def as_tensors(item):
    import torch
    return {k: torch.from_numpy(v) for k, v in item.items()}

def grain_prefetch(fn, n, consumer=0.):
    import grain
    ds = grain.MapDataset.source(Work(fn, n)).to_iter_dataset().mp_prefetch(grain.MultiprocessingOptions(num_workers=WORKERS, per_worker_buffer_size=2))
    return clock(ds, consumer)

def plain(fn, n):
    t = time.perf_counter()
    for item in source(n)(): fn(item)
    return (time.perf_counter() - t) / n
def pause(n):
    t = time.perf_counter()
    for _ in range(n): time.sleep(.0025)
    return (time.perf_counter() - t) / n

PEERS = dict(threads=lambda *a: stream(*a, worker='thread'), processes=stream, torch=torch_loader, grain=grain_prefetch)
# title, function, items, consumer (s), what to show of (seconds per item, seconds of the function, seconds of the consumer)
CASES = [('light function: overhead per item (µs)', light, 1500, 0, lambda t, fn, c: (t - fn) * 1e6),
         ('function of 5 ms: part of the ideal speed of 2 workers', five_ms, 300, 0, lambda t, fn, c: fn / WORKERS / t),
         ('consumer as slow as 2 workers (2.5 ms): part that overlaps', five_ms, 300, .0025, lambda t, fn, c: (fn / WORKERS + c - t) / min(c, fn / WORKERS))]

def main(rounds=5):
    "Rows of (case, peer, median, least, most)"
    rows = []
    for title, fn, n, consumer, value in CASES:
        found = {k: [] for k in PEERS}
        for _ in range(rounds):
            own, c = plain(fn, n // 3), pause(n // 3)
            for name, run in PEERS.items():
                try: found[name].append(value(run(fn, n, consumer), own, c))
                except ImportError: pass
        rows += [(title, k, statistics.median(v), min(v), max(v)) for k, v in found.items() if v]
    for title, name, mid, least, most in rows: print(f'{title:60} {name:10} {mid:8.3g} ({least:.3g} … {most:.3g})')
    return rows

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
