"""What a batch costs that worker processes make, beside torch's DataLoader reading the same rows, and how soon a killed worker is noticed.

`python benchmarks/workers.py [rounds]`. Two workers, kept from epoch to epoch; rounds are interleaved and medians are shown.
"""
import multiprocessing, os, signal, statistics, sys, threading, time
import numpy as np, torch
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.load.workers import WorkerDied

WORKERS, DATASETS = 2, 20
CASES = {'64×5×50': (64, 5, 50), '512×5×50': (512, 5, 50), '64×5×1000': (64, 5, 1000), '64×12×1000': (64, 12, 1000)}

def metadataset(bs, c, steps, batches=200):
    rng = np.random.default_rng(0)
    rows = bs*batches//DATASETS
    return TSMetaDataset({f'd{k}': rng.normal(size=(rows, c, steps)).astype(np.float32) for k in range(DATASETS)})

class Batches:
    "The same batches as a map-style dataset"
    def __init__(self, ds, bs): self.ds, self.bs = ds, bs
    def __len__(self): return len(self.ds)//self.bs
    def __getitem__(self, i): return torch.from_numpy(self.ds.gather(np.arange(i*self.bs, (i+1)*self.bs))[0])

def clock(dl, warm=20):
    "Seconds per batch of the second epoch, once all workers are at work"
    for _ in dl: pass
    it = iter(dl)
    for _ in range(warm): next(it)
    start, n = time.perf_counter(), 0
    for _ in it: n += 1
    return (time.perf_counter() - start)/n

def ours(ds, bs): return TSMetaDataLoader(ds, bs=bs, num_workers=WORKERS, persistent_workers=True, device='cpu')
def theirs(ds, bs):
    return torch.utils.data.DataLoader(Batches(ds, bs), batch_size=None, num_workers=WORKERS, persistent_workers=True)

class Slow:
    def __len__(self): return 4000
    def __getitem__(self, i):
        time.sleep(.002)
        return np.zeros((1, 4), np.float32)

def notice():
    "Seconds from the kill of a worker to the error that names it"
    before, killed = multiprocessing.active_children(), []
    it = iter(TSMetaDataLoader(TSMetaDataset([Slow()]), bs=8, num_workers=WORKERS, device='cpu'))
    next(it)
    def kill():
        time.sleep(.2)
        worker = next(p for p in multiprocessing.active_children() if p not in before)
        killed.append(time.perf_counter())
        os.kill(worker.pid, signal.SIGKILL)
    threading.Thread(target=kill).start()
    try:
        for _ in it: pass
    except WorkerDied: return time.perf_counter() - killed[0]

def notice_elsewhere():
    "The same in a thread that is not the main one"
    found = []
    thread = threading.Thread(target=lambda: found.append(notice()))
    thread.start()
    thread.join()
    return found[0]

def main(rounds=3):
    "Rows of (what, median, least, most)"
    found = {}
    def add(what, value): found.setdefault(what, []).append(value)
    for name, (bs, c, steps) in CASES.items():
        ds = metadataset(bs, c, steps)
        for _ in range(rounds):
            for who, make in dict(tsmeta=ours, torch=theirs).items(): add(f'{name}, {who} (µs per batch)', clock(make(ds, bs))*1e6)
    for _ in range(rounds):
        add('a kill noticed (ms)', notice()*1e3)
        add('a kill noticed in another thread (ms)', notice_elsewhere()*1e3)
    rows = [(what, statistics.median(v), min(v), max(v)) for what, v in found.items()]
    for what, mid, least, most in rows: print(f'{what:45} {mid:8.0f} ({least:.0f} … {most:.0f})')
    return rows

if __name__ == '__main__': main(*map(int, sys.argv[1:]))
