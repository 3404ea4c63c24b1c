"A million rows in ten thousand members: what each worker adds, and that nothing grows from epoch to epoch."
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import json, os, sys
import numpy as np
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
def private(pid='self'):
    with open(f'/proc/{pid}/smaps_rollup') as f: return sum(int(line.split()[1]) for line in f if line.startswith('Private_'))/1024
def children(): return [int(p) for t in os.listdir('/proc/self/task') for p in open(f'/proc/self/task/{t}/children').read().split()]
data = np.random.default_rng(0).normal(size=(1_000_000, 1, 8)).astype(np.float32)
meta = TSMetaDataset([data[k*100:(k+1)*100] for k in range(10_000)])
make = lambda workers: TSMetaDataLoader(meta, bs=512, shuffle=True, seed=0, mix=('temperature', 2), num_workers=workers)
for k, _ in enumerate(make(0)):
    if k == 50: break
out, before = {}, private()
for n in (1, 2):
    it = iter(make(n))
    for _ in range(400): next(it)
    out[f'{n} workers'] = [private(p) for p in children()]
    del it
dl = make(0)
peaks = []
for _ in range(10):
    for _ in dl: pass
    peaks.append(private())
print(json.dumps(dict(out, before=before, epochs=peaks)))
"""


@pytest.mark.skipif(not Path('/proc/self/smaps_rollup').exists(), reason='needs Linux, which tells the private memory of a process')
def test_workers_share_the_data_and_epochs_leave_nothing_behind():
    found = json.loads(subprocess.run([sys.executable, '-W', 'ignore', '-c', RUN], capture_output=True, text=True, check=True, timeout=240, cwd=ROOT).stdout)
    per_worker = found['2 workers']
    assert len(found['1 workers']) == 1 and len(per_worker) == 2
    assert max(per_worker) < 15, f'{per_worker} MB of their own'
    assert found['epochs'][-1] - found['epochs'][0] < 3, found['epochs']
