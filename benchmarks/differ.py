"Rows per second where datasets differ: padded, cropped, lined up by name, filled, beside equal rows of the shape that comes out"
import argparse
import numpy as np
from tsmeta.lengths import Ragged
from tsmeta.load import TSMetaDataLoader
from tsmeta.meta import TSMetaDataset
from tsmeta.policies import Vars
from common import interleaved, reached, save, setting, table, throughput

VARS, STEPS, SIZES = 5, 50, (64, 512)


def metas(n, rows):
    "name → (metadataset under a policy, plain metadataset whose rows have the shape that the policy makes)"
    rng = np.random.default_rng(0)
    full = [rng.standard_normal((rows, VARS, STEPS), dtype=np.float32) for _ in range(n)]
    short = [np.ascontiguousarray(x[:, :, :k]) for x, k in zip(full, rng.integers(30, STEPS+1, n))]
    other = [list('abcde') if i % 2 else list('bacdf') for i in range(n)]
    holes = [np.where(rng.random(x.shape) < .05, np.nan, x).astype(np.float32) for x in full]
    y = [np.arange(rows) % 2]*n
    plain = lambda nv, nl: TSMetaDataset(list(zip([np.ones((rows, nv, nl), np.float32) for _ in range(n)], y)))
    cases = {"ragged='pad'": (short, dict(ragged='pad')), "Ragged('pad', mask=True)": (short, dict(ragged=Ragged('pad', mask=True))),
             "Ragged('crop', side='center')": (short, dict(ragged=Ragged('crop', side='center'))),
             "var_names, other order": (full, dict(var_names=[list('abcde') if i % 2 else list('bacde') for i in range(n)])),
             "vars='union'": (full, dict(vars='union', var_names=other)),
             "Vars('union', mask=True)": (full, dict(vars=Vars('union', mask=True), var_names=other)),
             'missing=0': (holes, dict(missing=0)), "missing='mask'": (holes, dict(missing='mask'))}
    for name, (X, how) in cases.items():
        meta = TSMetaDataset(list(zip(X, y)), **how)
        yield name, meta, plain(meta.vars, meta.len)


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
    head = ['policy', 'rows', *(f'{what}, bs {bs}' for bs in SIZES for what in ('M rows/s', 'plain', 'share'))]
    save('differ.md', '\n\n'.join(['# Datasets that differ', f'{n:,} datasets of 20 rows in memory, {VARS} variables, up to {STEPS} steps, float32. *Plain* is a metadataset of '
         'equal rows of the shape that the policy makes, read in the same run.', table(head, lines), reached('the slowest policy, as a share of the plain rate', worst, .7),
         setting('numpy', 'numba', 'torch')]))


if __name__ == '__main__': main()
