"How long splitting 10 million rows in 10,000 datasets takes, and what the subsets hold in memory: `python benchmarks/split.py`"
import time, tracemalloc
from types import SimpleNamespace
import numpy as np, pandas as pd
from tsmeta.splits.index import Index
from tsmeta.splits.leakage import check_leakage, purge
from tsmeta.splits.splits import Splits, even_splits, select
from tsmeta.splits.splitters import EachSplitter, HoldoutSplitter, WalkForwardSplitter
from tsmeta.splits.splits import as_splits

def figures(members=10_000, rows=1_000, extent=8):
    "DataFrame: one line per way of splitting, with its seconds (best of 3), peak memory and the memory of what it returns"
    lens, ones = np.full(members, rows), np.ones(members, np.int64)
    y = np.random.default_rng(0).integers(0, 5, members*rows)
    meta = SimpleNamespace(index=Index(lens), lens=lens, names=[f'm{i}' for i in range(members)], info=pd.DataFrame(dict(person=np.arange(members) // 4)),
        stride=ones, extent=ones*extent, targets=lambda ids=None: y if ids is None else y[ids])
    leaky = [select(Splits(meta), s, per='dataset') for s in ('train[:80%]', 'train[80%:]')]
    ways = {'train[:80%]': lambda: [Splits(meta)['train[:80%]']], "train[:80%], per='dataset'": lambda: [select(Splits(meta), 'train[:80%]', per='dataset')],
        'one of 8 even shares': lambda: [Splits(meta)[even_splits('train', 8)[3]]], 'EachSplitter(.2, .1)': lambda: EachSplitter(.2, .1)(meta),
        "HoldoutSplitter(.2, groups='person')": lambda: HoldoutSplitter(.2, groups='person')(meta), 'HoldoutSplitter(.2, stratify=True)': lambda: HoldoutSplitter(.2, stratify=True)(meta),
        'WalkForwardSplitter(3, .1)': lambda: [v for f in WalkForwardSplitter(3, .1).folds(meta) for v in f], 'check_leakage': lambda: check_leakage(meta, leaky) is None or [],
        'purge': lambda: purge(meta, leaky)[0].values(), 'as_splits of two arrays': lambda: as_splits([np.arange(len(y)//2), np.arange(len(y)//2, len(y))], meta).values()}
    return pd.DataFrame([dict(way=w, **_measure(f)) for w, f in ways.items()]).set_index('way')

def _measure(f):
    seconds = []
    for _ in range(3):
        t = time.perf_counter(); f(); seconds.append(time.perf_counter() - t)
    tracemalloc.start()
    views = f()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return dict(seconds=round(min(seconds), 4), peak_MB=round(peak/1e6, 1), held_MB=round(sum(v.nbytes for v in views)/1e6, 2))

if __name__ == '__main__': print(figures().to_string())
