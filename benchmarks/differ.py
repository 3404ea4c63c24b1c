"Rows per second where datasets differ: padded, cropped, lined up by name, filled, beside equal rows of the shape that comes out; and statistics of them all in one pass"
import argparse
import numpy as np
from tsmeta.sources.align import Ragged
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.sources.policies import Vars
from tsmeta.data.transforms import moments
from common import clock, interleaved, reached, save, setting, table, throughput

VARS, STEPS, SIZES = 5, 50, (64, 512)


def spread(x, nv, nl):
    "Rows `(nv, nl)` as far apart in memory as those of `x`, if they are shorter"
    rows, size = len(x), nv*nl
    return np.ones((rows, max(size, x[0].size)), np.float32)[:, :size].reshape(rows, nv, nl)


def metas(n, rows):
    "name → (metadataset under a policy, plain metadataset whose rows have the shape that the policy makes, in at least as much memory); each has data of its own"
    rng = np.random.default_rng(0)
    full = [rng.standard_normal((rows, VARS, STEPS), dtype=np.float32) for _ in range(n)]
    short = [np.ascontiguousarray(x[:, :, :k]) for x, k in zip(full, rng.integers(30, STEPS+1, n))]
    other = [list('abcde') if i % 2 else list('bacdf') for i in range(n)]
    holes = [np.where(rng.random(x.shape) < .05, np.nan, x).astype(np.float32) for x in full]
    y = [np.arange(rows) % 2]*n
    cases = {"ragged='pad'": (short, dict(ragged='pad')), "Ragged('pad', mask=True)": (short, dict(ragged=Ragged('pad', mask=True))),
             "Ragged('crop', side='center')": (short, dict(ragged=Ragged('crop', side='center'))),
             "Ragged('crop', side='random')": (short, dict(ragged=Ragged('crop', side='random'))),
             "var_names, other order": (full, dict(var_names=[list('abcde') if i % 2 else list('bacde') for i in range(n)])),
             "vars='union'": (full, dict(vars='union', var_names=other)),
             "Vars('union', mask=True)": (full, dict(vars=Vars('union', mask=True), var_names=other)),
             'missing=0': (holes, dict(missing=0)), "missing='mask'": (holes, dict(missing='mask'))}
    for name, (X, how) in cases.items():
        shape = (meta := TSMetaDataset(list(zip(X, y)), **how)).vars, meta.len
        own, plain = zip(*((x.copy(), spread(x, *shape)) for x in X))
        yield name, TSMetaDataset(list(zip(own, y)), **how).part(slice(None), 0), TSMetaDataset(list(zip(plain, y)))


def one_pass(n, rows, rounds):
    "Lines of a table: bytes of values per second that `moments` goes through, beside numpy's sum and the mean and spread of each dataset in numpy"
    rng = np.random.default_rng(1)
    full = [rng.standard_normal((rows, 1, 100), dtype=np.float32) for _ in range(n)]
    ragged = [np.ascontiguousarray(x[:, :, :k]) for x, k in zip(full, rng.integers(60, 101, n))]
    holes = [np.where(rng.random(x.shape) < .05, np.nan, x).astype(np.float32) for x in full]
    lines = []
    for name, X, how in (('equal rows', full, {}), ("Ragged('pad', mask=True)", ragged, dict(ragged=Ragged('pad', mask=True))), ("missing='mask'", holes, dict(missing='mask'))):
        meta, size = TSMetaDataset(X, **how), sum(x.nbytes for x in X)
        def timed(f):
            t = clock()
            f()
            return size/(clock() - t)/1e9
        found = interleaved({'ours': lambda: timed(lambda: moments(meta)), 'sum': lambda: timed(lambda: [x.sum() for x in X]),
                             'numpy': lambda: timed(lambda: [(np.nanmean(x), np.nanstd(x)) if X is holes else (x.mean(), x.std()) for x in X])}, rounds)
        lines.append([f'`{name}`', *(f'{np.median(found[k]):.2f}' for k in ('ours', 'sum', 'numpy')), f'{np.median(found["ours"]/found["sum"]):.2f}', f'{np.median(found["ours"]/found["numpy"]):.1f}'])
    return lines, sum(x.size for x in full)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument('--quick', action='store_true', help='fewer datasets and rounds')
    quick = args.parse_args().quick
    n, rounds = (1000, 3) if quick else (10_000, 5)
    loader = lambda meta, bs: TSMetaDataLoader(meta, bs=bs, shuffle=True, seed=0, device='cpu')
    lines, worst = [], 1e9
    for name, meta, plain in metas(n, 20):
        cells = [f'`{name}`', f'{meta.vars} x {meta.len}']
        for bs in SIZES:
            found = interleaved({k: (lambda dl=loader(m, bs): throughput(dl, bs)) for k, m in (('policy', meta), ('plain', plain))}, rounds)
            share = float(np.median(found['policy']/found['plain']))
            worst = min(worst, share)
            cells += [f'{np.median(found["policy"])/1e6:.2f}', f'{np.median(found["plain"])/1e6:.2f}', f'{share:.2f}']
        lines.append(cells)
    passes, values = one_pass(n, 10 if quick else 100, rounds)
    told = ['rows', 'one pass, GB/s', '`sum` of numpy, GB/s', '`mean` and `std` of numpy, GB/s', 'share of the sum', 'times `mean` and `std`']
    head = ['policy', 'rows', *(f'{what}, bs {bs}' for bs in SIZES for what in ('M rows/s', 'plain', 'share'))]
    save('differ.md', '\n\n'.join(['# Datasets that differ', f'{n:,} datasets of 20 rows in memory, {VARS} variables, up to {STEPS} steps, float32. *Plain* is a metadataset of '
         'equal rows of the shape that the policy makes, read in turns with the policy. Both copy as many bytes per row, of as many rows, in the same order, from arrays of their own that were made in turns; plain rows lie as far apart '
         'as those of the policy where these are longer (cropped rows of 30 steps in rows of 30 to 50), so neither has less memory to go through than the other.', table(head, lines), reached('the slowest policy, as a share of the plain rate', worst, .7),
         f'## Statistics\n\nCount, mean, spread, least and greatest value of each of {n:,} datasets in one pass over {values:,} values, exact to float64; a sum is the least that a pass can cost.',
         table(told, passes),
         setting('numpy', 'numba', 'torch')]))


if __name__ == '__main__': main()
