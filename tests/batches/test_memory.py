"Iterating windows takes no memory per row: no array of ids, of order, or of windows."
import subprocess
import sys
import textwrap

import pytest

RUN = """
import resource, sys
import numpy as np
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024
rng = np.random.default_rng(0)
small = TSMetaDataset.from_recordings([rng.normal(size=(4, 1000)).astype(np.float32)]*2, window=50, stride=1, y=['a', 'b'])
for _ in TSMetaDataLoader(small, bs=512, shuffle=True, seed=0): pass
before = peak()
recs = [np.ones((4, 500_000), np.float32) for _ in range(20)]
data = sum(r.nbytes for r in recs)
meta = TSMetaDataset.from_recordings(recs, window=50, stride=1, y=['a', 'b']*10)
dl = TSMetaDataLoader(meta.subset(slice(0, len(meta)-7)), bs=512, shuffle=SHUFFLE, seed=0)
n = 0
for k, (x, y) in enumerate(dl):
    n += len(x)
    if k == 4000: break
print(len(meta), n, (peak() - before)/data)
"""


@pytest.mark.parametrize('shuffle', [True, False])
def test_ten_million_windows_take_the_memory_of_their_recordings(shuffle):
    out = subprocess.run([sys.executable, '-c', textwrap.dedent(RUN.replace('SHUFFLE', str(shuffle)))], capture_output=True, text=True, check=True).stdout
    rows, seen, ratio = (float(v) for v in out.split())
    assert rows > 9_900_000 and seen > 2_000_000 and ratio < 1.2
