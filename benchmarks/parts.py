"What each part costs: gather, lookup, permutation, first batch, one transform, export, memory"
import subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from fastai.learner import Learner
from fastai.vision.augment import RandTransform
from tsai.data.preprocessing import TSStandardize
from tsmeta.batches.gather import Gather
import tsmeta.load.loader
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.batches.permutation import perm_keys, permute
from tsmeta.sources.base import ArraySource
from common import interleaved, reached, save, seconds, setting, table, throughput

RNG = np.random.default_rng(0)
COUNTS = 10, 1_000, 10_000, 100_000


def walk(order, n):
    "A function that gives the next `n` of `order` each time"
    at = 0
    def step():
        nonlocal at
        at = at + n if at + 2*n <= len(order) else 0
        return order[at:at+n]
    return step


def gather_alone():
    "256 rows of 128 float32 out of 5,000 separate arrays"
    g = Gather([ArraySource(RNG.standard_normal((60, 1, 128), dtype=np.float32)) for _ in range(5_000)])
    one, ids = RNG.standard_normal((len(g.index), 1, 128), dtype=np.float32), walk(RNG.permutation(len(g.index)), 256)
    found = interleaved({'gather': lambda: seconds(lambda: g(ids())), 'take': lambda: seconds(lambda: np.take(one, ids(), axis=0))}, 9)
    us = {k: float(np.median(v))*1e6 for k, v in found.items()}
    return [reached('256 rows of 128 float32 out of 5,000 separate arrays', us['gather'], 15, False, ' µs'),
            f'- as many rows out of one array by `numpy.take`: {us["take"]:.1f} µs']


def flat(rows=200_000):
    "Cost of a batch by number of members: one block of memory cut into members, and members that are arrays of their own"
    x, y, head, lines, targets = RNG.standard_normal((rows, 5, 50), dtype=np.float32), RNG.integers(0, 3, rows), ['µs per batch'], [], []
    cut = lambda n: list(zip(np.array_split(x, n), np.array_split(y, n)))
    apart = lambda n: [(a.copy(), b.copy()) for a, b in cut(n)]
    for what, members in [('members cut from one array', cut), ('separate arrays', apart)]:
        metas = {n: TSMetaDataset(members(n)) for n in COUNTS}
        for bs in (64, 512):
            dls = {n: TSMetaDataLoader(m, bs=bs, shuffle=True, drop_last=True, seed=n) for n, m in metas.items()}
            found = interleaved({n: (lambda dl=dl: bs/throughput(dl, bs, .08)*1e6) for n, dl in dls.items()}, 9)
            us = {n: float(np.median(v)) for n, v in found.items()}
            lines.append([f'{what}, bs {bs}', *(f'{v:.1f}' for v in us.values())])
            spread = max(us.values())/min(us.values())
            targets.append(reached(f'{what}, bs {bs}: dearest batch to cheapest', spread, 1.5, False, ' x'))
    return ['', table([*head, *(f'{n:,} datasets' for n in COUNTS)], lines), '', *targets,
            '', '(1.5 x is ±20 %. Where members are arrays of their own, the processor looks up more memory pages the more arrays there are: '
            'large arrays get large pages, small ones do not.)', '']


def index_bytes(n=100_000):
    "Memory that finds rows, per member"
    meta = TSMetaDataset([np.zeros((3, 1, 4), np.float32)]*n)
    part = meta.part(np.concatenate([np.arange(3*d, 3*d+2) for d in range(n)]))
    return [reached('index, bytes per member', meta.index.nbytes/n, 64, False), f'- table of addresses for the gather, bytes per member: {meta.gather.table.nbytes/n:.0f}',
            f'- a split inside every member, bytes per member: {part.selection.nbytes/n:.0f}']


def export_size():
    "A learner exported with 10⁴ and with 10⁶ rows"
    model, sizes = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), {}
    with tempfile.TemporaryDirectory() as folder:
        for rows in (10_000, 1_000_000):
            meta = TSMetaDataset([(np.zeros((rows//100, 1, 4), np.float32), np.arange(rows//100) % 2) for _ in range(100)])
            learn = Learner(meta.dataloaders(device='cpu'), model, path=folder)
            learn.export('learner.pkl')
            sizes[rows] = (Path(folder)/'learner.pkl').stat().st_size/1e3
    return [reached('export of 10⁴ rows, model of 10 weights', sizes[10_000], 100, False, ' KB'),
            reached('the same with 10⁶ rows', sizes[1_000_000], 100, False, ' KB'),
            reached('difference', abs(sizes[1_000_000] - sizes[10_000]), 1, False, ' KB')]


def permutation():
    "Nanoseconds per id of the seeded permutation"
    out = []
    for n in (10**6, 10**9):
        keys, pos = perm_keys(n, 1), np.arange(16_384)
        out.append(reached(f'permutation of {n:,}, per id', seconds(lambda: permute(pos, n, keys))/len(pos)*1e9, 15, False, ' ns'))
    return out


def first_batch():
    "From recordings to the first shuffled batch, everything counted but the compiler"
    def run(recs):
        t = time.perf_counter()
        meta = TSMetaDataset.from_recordings(recs, 50, 1, y=[d % 2 for d in range(len(recs))])
        next(iter(TSMetaDataLoader(meta, bs=64, shuffle=True)))
        return len(meta), time.perf_counter() - t
    run([np.zeros((1, 99), np.float32)]*2)
    out = []
    for steps in (10**5 + 49, 10**7 + 49):
        n, s = run([np.broadcast_to(np.float32(0), (1, steps))]*100)
        out.append(reached(f'first batch of {n:,} windows', s, .5, False, ' s'))
    return out


class Shake(RandTransform):
    "A random transform with little to do"
    def encodes(self, x: torch.Tensor): return x


def one_transform():
    "What a batch transform costs beyond its own work, and what it costs to make a random one repeatable"
    meta, plain = TSMetaDataset([(RNG.standard_normal((1000, 5, 50), dtype=np.float32), RNG.integers(0, 3, 1000)) for _ in range(200)]), TSStandardize(torch.zeros(1), torch.ones(1))
    kinds = {'none': dict(seed=1), 'one': dict(seed=1, batch_tfms=[plain]), 'free': dict(batch_tfms=[Shake()]), 'seeded': dict(seed=1, batch_tfms=[Shake()])}
    dls = {k: TSMetaDataLoader(meta, bs=64, shuffle=True, drop_last=True, **kw) for k, kw in kinds.items()}
    b = dls['none'].one_batch()
    torch.set_num_threads(1)
    found = interleaved({**{k: (lambda dl=dl: 64/throughput(dl, 64, .1)*1e6) for k, dl in dls.items()}, 'alone': lambda: seconds(lambda: plain(b))*1e6}, 9)
    med = {k: float(np.median(v)) for k, v in found.items()}
    return [reached('`TSStandardize`, loader with it less loader without, less the transform called by hand', med['one'] - med['none'] - med['alone'], 25, False, ' µs'),
            f'- `TSStandardize` called by hand: {med["alone"]:.1f} µs',
            reached('one random transform, loader with a seed less loader without', med['seeded'] - med['free'], 20, False, ' µs')]


MEMORY = '''
import numpy as np
from tsmeta.data.dataset import TSMetaDataset
import tsmeta.load.loader
from tsmeta.load.loader import TSMetaDataLoader
def peak(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])*1024
def loader(steps, n): return TSMetaDataLoader(TSMetaDataset.from_recordings([np.ones((2, steps), np.float32) for _ in range(n)], 100, 10), bs=512, shuffle=True, seed=0)
for b in loader(2000, 2): pass
before = peak()
dl = loader(500_000, 60)
size = sum(s.time*8 for s in dl.dataset.datasets)
rows = sum(len(b[0]) for b in dl)
print(rows, (peak() - before)/(size + 512*2*100*4))
'''


def memory():
    "Peak memory of going through all windows, shuffled, against the recordings and one batch"
    if not Path('/proc/self/status').exists(): return []
    rows, ratio = subprocess.run([sys.executable, '-c', MEMORY], capture_output=True, text=True, check=True).stdout.split()
    return [reached(f'peak memory of {int(rows):,} shuffled windows, to recordings and a batch', float(ratio), 1.2, False, ' x')]


def main():
    parts = [('Gather', gather_alone), ('Number of members', flat), ('Bytes', index_bytes), ('Export', export_size), ('Shuffling', permutation),
             ('Starting', first_batch), ('Transforms', one_transform), ('Memory', memory)]
    text = ['# What each part costs', '', setting('torch', 'numpy', 'fastai', 'tsai', 'numba'), '', 'Times per call and per batch are processor time, medians of interleaved rounds.', '']
    for name, f in parts: text += [f'## {name}', '', *f(), '']
    save('parts.md', '\n'.join(text).replace('\n\n\n', '\n\n'))


if __name__ == '__main__': main()
