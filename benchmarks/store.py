"How fast a store opens and reads, beside a bare `numpy.take` on the same numbers: `python benchmarks/store.py`"
import tempfile, time, tracemalloc
from pathlib import Path
import numpy as np, pandas as pd
from tsmeta.batches.gather import Gather
from tsmeta.data.dataset import TSMetaDataset
import tsmeta.data.open
from tsmeta.store.pack import pack

def figures(members=100_000, rows=5, shape=(5, 50), bs=512, batches=400):
    "DataFrame: rows per second of random batches, seconds to pack and open, and memory held by what was opened"
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(members*rows, *shape)).astype('float32')
    y = rng.integers(0, 5, len(whole))
    meta = TSMetaDataset([(whole[i:i+rows], y[i:i+rows]) for i in range(0, len(whole), rows)])
    with tempfile.TemporaryDirectory() as folder:
        packing, store = _timed(lambda: pack(meta, Path(folder)/'s', part_rows=len(whole)), 1)
        array = store.part(0)
        opening, opened = _timed(lambda: TSMetaDataset.open(Path(folder)/'s'))
        tracemalloc.start()
        again = TSMetaDataset.open(Path(folder)/'s')
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        ids = rng.integers(0, len(whole), (batches, bs))
        xo = np.empty((bs, *shape), np.float32)
        ways = {'numpy.take, one memory-mapped array': lambda i: np.take(array, i, 0), 'the same into one buffer again and again': lambda i: np.take(array, i, 0, out=xo, mode='clip'),
                f'store of {members:,} datasets': opened.gather, f'the same {members:,} arrays in memory': meta.gather}
        out = [dict(what=w, rows_per_second=round(batches*bs / _timed(lambda: [f(i) is None for i in ids], 7)[0])) for w, f in ways.items()]
        size = sum(f['bytes'] for f in store.manifest['files'].values())
        out += [dict(what='pack: seconds', seconds=round(packing, 3), MB=round(size/1e6, 1)), dict(what='open: seconds, MB held', seconds=round(opening, 3), MB=round(held/1e6, 1))]
        del again, array, opened, store
    return pd.DataFrame(out).set_index('what')

def _timed(f, times=3):
    seconds = []
    for _ in range(times):
        t = time.perf_counter(); made = f(); seconds.append(time.perf_counter() - t)
    return min(seconds), made

if __name__ == '__main__': print(figures().to_string())
