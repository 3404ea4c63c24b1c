"Trains in children of this process and kills them at random moments; prints what came of it as JSON: `python killed.py FOLDER KILLS`"
import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from resume_tools import digest, fit, learner

EPOCHS = 4


def child(folder, out, workers, seed):
    "Train in a process of its own"
    pid = os.fork()
    if pid: return pid
    os.setsid()
    torch.set_num_threads(1)
    learn = learner(seed, workers)
    fit(learn, folder, n=EPOCHS, every=2)
    Path(out).write_text(digest(learn))
    os._exit(0)


def ended(pid, seconds):
    "Wait so long for a child; whether it ended by itself"
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        got, status = os.waitpid(pid, os.WNOHANG)
        if got:
            if status: sys.exit(f'a child failed with status {status}')
            return True
        time.sleep(.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)  # workers that had just been forked do not notice that nobody needs them
    return False


def main(root, kills):
    rng, runs, killed = random.Random(0), [], 0
    start = time.monotonic()
    assert ended(child(None, f'{root}/whole', 0, 0), 120)
    usual = time.monotonic() - start
    while killed < kills:
        out, moments = f'{root}/{len(runs)}', []
        for attempt in range(1000):
            workers, begun = rng.choice([0, 2]), list(Path(root).glob(f'run{len(runs)}/[0-9]*'))
            left = rng.uniform(.05, 1.1)*usual*(1 + (workers > 0)) if killed < kills else 120
            if ended(child(f'{root}/run{len(runs)}', out, workers, attempt if begun else 0), left): break
            killed += 1
            moments.append(sorted(os.listdir(f'{root}/run{len(runs)}')) if os.path.isdir(f'{root}/run{len(runs)}') else [])
        runs.append(dict(same=Path(out).read_text() == Path(f'{root}/whole').read_text(), kills=len(moments), left=moments))
    print(json.dumps(runs))


if __name__ == '__main__': main(sys.argv[1], int(sys.argv[2]))
