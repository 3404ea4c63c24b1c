"The training stream: mixing, seeds and workers; cost per batch by number of members; first batch of a billion rows; resuming: `python benchmarks/order.py`"
import time
import numpy as np
from fastai.vision.augment import RandTransform
from tsmeta.batches.plan import BucketPlan
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.ids import TensorSeries
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.batches.mix import Mix
from tsmeta.batches.plan import MixPlan
from tsmeta.batches.plan import BlockPlan, WithinPlan
from tsmeta.batches.plan import Plan
import tsmeta.data.dataset, tsmeta.load.loader
from common import clock, interleaved, reached, seconds, table

BS = 64


class Sign(RandTransform):
    "As cheap as a random transform can be"
    split_idx = 0
    def encodes(self, x:TensorSeries): return x


def members(n=10_000, rows=100):
    "A metadataset of 10,000 members of 100 rows, 5 × 50"
    return TSMetaDataset(np.split(np.random.default_rng(0).normal(size=(n*rows, 5, 50)).astype(np.float32), n), names=[f'm{k}' for k in range(n)])


def wall(dl, batches=300):
    "Rows per second of wall time through a loader, after its start"
    it = iter(dl)
    for _ in range(20): next(it)
    start = time.perf_counter()
    n = sum(len(next(it)[0]) for _ in range(batches))
    return n/(time.perf_counter() - start)


def streams(meta):
    "Throughput by what is asked and by number of workers"
    asked = {'seed': dict(), "mix=('temperature', 2)": dict(mix=('temperature', 2)), 'stratified mix': dict(mix=Mix('equal', batching='stratified')),
             "batching='per_dataset'": dict(batching='per_dataset'), "shuffle='within'": dict(shuffle='within'), "shuffle='block'": dict(shuffle='block'),
             'mix and a keyed random transform': dict(mix='equal', batch_tfms=Sign())}
    make = {(name, w): (lambda kw=kw, w=w: wall(TSMetaDataLoader(meta, **{**dict(bs=BS, shuffle=True, seed=0, num_workers=w, device='cpu'), **kw}))) for name, kw in asked.items()
            for w in (0, 1, 2)}
    found = {k: v.max() for k, v in interleaved(make, rounds=2).items()}
    return table(['rows per second (wall time, best of 2)', '0 workers', '1 worker', '2 workers'], [[n, *(f'{found[n, w]:,.0f}' for w in (0, 1, 2))] for n in asked])


def per_batch():
    "Microseconds of processor time per batch, of a million short rows in more and more members"
    data, rows = np.random.default_rng(0).normal(size=(1_000_000, 1, 50)).astype(np.float32), []
    for n in (10, 1_000, 100_000):
        meta = TSMetaDataset(np.split(data, n), names=[f'm{k}' for k in range(n)])
        costs = [seconds(lambda dl=dl, it=[None]: _step(dl, it), .3)*1e6 for dl in (TSMetaDataLoader(meta, bs=BS, shuffle=True, seed=0, device='cpu', **kw) for kw in ({}, dict(mix='equal')))]
        rows.append([f'{n:,}', *(f'{c:.0f}' for c in costs)])
    return table(['members that hold a million rows', 'µs per batch of 64', 'with a mix'], rows)


def _step(dl, it):
    try: next(it[0])
    except (TypeError, StopIteration):
        it[0] = iter(dl)
        next(it[0])


def first_batches():
    "Milliseconds until the first batch of a billion rows"
    makers = {'Plan': lambda: Plan(10**9, BS, True), 'WithinPlan, 10,000 members': lambda: WithinPlan(np.full(10_000, 10**5), BS), 'BlockPlan': lambda: BlockPlan(10**9, BS),
              'MixPlan, 10,000 members': lambda: MixPlan(np.full(10_000, 10**5), BS, 'equal'), 'BucketPlan, 10,000 members': lambda: BucketPlan(np.full(10_000, 10**5), np.arange(10_000) % 9, BS)}
    times = {k: v.min()*1e3 for k, v in interleaved({k: (lambda f=f: _timed(lambda: f()[0, 0])) for k, f in makers.items()}, rounds=5).items()}
    return times, table(['a billion rows', 'ms to the first batch'], [[k, f'{v:.2f}'] for k, v in times.items()])


def _timed(f):
    start = clock()
    f()
    return clock() - start


def resuming():
    "Seconds from a state to the next batch, at ten million windows"
    recs = [np.zeros((4, 10_049), np.float32)]*1000
    meta = TSMetaDataset.from_recordings(recs, window=50, stride=1, y=['a', 'b']*500, names=[f'r{k}' for k in range(1000)])
    def again(part, state):
        dl = TSMetaDataLoader(part, bs=BS, shuffle=True, seed=0, mix='equal', device='cpu')
        dl.load_state_dict(state)
        next(iter(dl))
    out = {}
    for name, part in {'all rows': meta, 'a part given as an array of ids': meta.subset(np.random.default_rng(0).permutation(len(meta))[:9_000_000])}.items():
        dl = TSMetaDataLoader(part, bs=BS, shuffle=True, seed=0, mix='equal', device='cpu')
        it = iter(dl)
        for _ in range(100): next(it)
        state = dl.state_dict()
        out[name] = min(_timed(lambda: again(part, state)) for _ in range(2))
    return len(meta), out


def main():
    print(f'{members.__doc__}, batches of {BS}\n')
    print(streams(members()), end='\n\n')
    print(per_batch(), end='\n\n')
    times, text = first_batches()
    print(text, end='\n\n')
    n, resume = resuming()
    print(table([f'{n:,} windows', 's from a state to the next batch'], [[k, f'{v:.3f}'] for k, v in resume.items()]), end='\n\n')
    print(reached('first batch of a billion rows', max(times.values())/1e3, .1, False, ' s'))
    print(reached('resuming at ten million windows', max(resume.values()), .5, False, ' s'))


if __name__ == '__main__': main()
