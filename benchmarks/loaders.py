"Rows per second through the train loader, by number of datasets and batch size: tsmeta beside its peers"
import argparse
import numpy as np, torch
from fastcore.foundation import L
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset
from tsai.basics import TSClassification, TSDataLoaders, TSDatasets
from tsai.data import metadatasets as tsai_meta
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.data.dataset import TSMetaDataset
from common import RESULTS, interleaved, reached, save, setting, table, throughput

COUNTS, SIZES, VARS, STEPS = (10, 1_000, 10_000, 100_000), (64, 512), 5, 50
LIMIT, TSAI_META, OURS = 'numpy.take, one array (the limit)', 'tsai TSMetaDatasets', 'tsmeta'


class Rows:
    "One tensor as a torch dataset that answers whole batches"
    def __init__(self, x, y): self.x, self.y = x, y
    def __len__(self): return len(self.x)
    def __getitems__(self, idxs): return self.x[idxs], self.y[idxs]


def taken(x, order, bs):
    "Bare `numpy.take`, a new array for each batch as every loader must make"
    for i in range(0, len(order)-bs+1, bs): yield np.take(x, order[i:i+bs], axis=0)


def threaded(loader, bs):
    "The better of one thread and all threads for torch's own indexing"
    n, rates = torch.get_num_threads(), []
    for k in {1, n}:
        torch.set_num_threads(k)
        rates.append(throughput(loader, bs, .08))
    torch.set_num_threads(n)
    return max(rates)


def as_is(b): return b


def tsai_loader(ds, bs):
    "tsai's train loader over a dataset"
    return TSDataLoaders.from_dsets(ds, ds, bs=bs, num_workers=0, device='cpu').train


def one_array(x, y):
    "A function bs → peers that hold all rows in one array"
    order, rows = np.random.default_rng(1).permutation(len(x)), Rows(torch.from_numpy(x), torch.from_numpy(y))
    ts = TSDatasets(x, y, tfms=[None, TSClassification()])
    def peers(bs):
        torch_dl, tsai_dl = DataLoader(rows, bs, shuffle=True, drop_last=True, collate_fn=as_is), tsai_loader(ts, bs)
        return {LIMIT: lambda: throughput(taken(x, order, bs), bs), 'torch DataLoader, one tensor, `__getitems__`': lambda: threaded(torch_dl, bs),
                'tsai, one array': lambda: threaded(tsai_dl, bs)}
    return peers


def many_arrays(members):
    "A function bs → peers that take many datasets"
    concat = ConcatDataset([TensorDataset(torch.from_numpy(x), torch.from_numpy(y)) for x, y in members])
    theirs = tsai_meta.TSMetaDataset([TSDatasets(x, y, tfms=[None, TSClassification()]) for x, y in members])
    split = L(np.random.default_rng(2).permutation(len(theirs)).tolist())
    theirs = tsai_meta.TSMetaDatasets(theirs, splits=(split, split[:1000])).train
    ours = TSMetaDatasets(TSMetaDataset(members, tfms=[None, TSClassification()]), {'train': np.array(split)}).train
    def peers(bs):
        dls = DataLoader(concat, bs, shuffle=True, drop_last=True), tsai_loader(theirs, bs), TSMetaDataLoaders.from_dsets(ours, bs=bs, device='cpu').train
        names = 'torch ConcatDataset + DataLoader', TSAI_META, OURS
        return {name: (lambda dl=dl: threaded(dl, bs)) for name, dl in zip(names, dls)}
    return peers


def measure(total, counts, rounds):
    "(count, bs) → peer → rows per second in each round"
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((total, VARS, STEPS), dtype=np.float32), rng.integers(0, 3, total)
    one, found = one_array(x, y), {}
    for n in counts:
        many = many_arrays([(a.copy(), b.copy()) for a, b in zip(np.array_split(x, n), np.array_split(y, n))])
        for bs in SIZES:
            found[n, bs] = interleaved({**one(bs), **many(bs)}, rounds)
            print(f'{n:,} datasets, bs {bs}: tsmeta {np.median(found[n, bs][OURS])/1e6:.2f} M rows/s', flush=True)
        del many
    return found


def ratio(cell, to):
    "tsmeta to another peer: the median over rounds of the ratio within a round"
    return float(np.median(cell[OURS]/cell[to]))


def report(found, total):
    "The table for each batch size, then the targets"
    parts = ['# Rows per second through the train loader', setting('torch', 'numpy', 'fastai', 'tsai', 'numba'),
             f'{total:,} in-memory float32 rows of {VARS} x {STEPS} in all, however many datasets they are in; shuffled; `device="cpu"`, no `batch_tfms`, '
             'no workers; millions of rows per second, medians of interleaved rounds; ratios are medians of the ratios within a round. '
             'Time is the processor time of the thread that loads; starting an epoch is not counted; each peer has one thread or all, whichever is faster for it. tsmeta delivers typed tensors and the ids of their rows.']
    counts = sorted({n for n, _ in found})
    for bs in SIZES:
        cells = [found[n, bs] for n in counts]
        rows = [[f'**{p}**' if p == OURS else p, *(f'{np.median(c[p])/1e6:.3g}' for c in cells)] for p in cells[0]]
        rows += [['tsmeta / tsai TSMetaDatasets', *(f'{ratio(c, TSAI_META):.0f} x' for c in cells)],
                 ['tsmeta / the limit', *(f'{ratio(c, LIMIT):.2f}' for c in cells)]]
        parts += [f'## Batches of {bs}', table(['datasets', *(f'{n:,}' for n in counts)], rows)]
    at = max(n for n in counts if n <= 10_000)
    parts += [f'## Targets, at {at:,} datasets', '\n'.join(line for bs, times, floor, goal in [(64, 50, .25, .5), (512, 100, .5, .7)] for line in [
        reached(f'bs {bs}, times the speed of tsai TSMetaDatasets', ratio(found[at, bs], TSAI_META), times),
        reached(f'bs {bs}, part of the limit', ratio(found[at, bs], LIMIT), floor),
        reached(f'bs {bs}, part of the limit, the goal', ratio(found[at, bs], LIMIT), goal)])]
    return '\n\n'.join(parts)


def draw(found, path):
    "Rows per second by number of datasets, one panel per batch size"
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    looks = dict(zip(next(iter(found.values())), [('#000000', 's'), ('#56B4E9', 'v'), ('#CC79A7', '^'), ('#E69F00', 'D'), ('#D55E00', 'X'), ('#0072B2', 'o')]))
    counts = sorted({n for n, _ in found})
    fig, axs = plt.subplots(1, len(SIZES), figsize=(11, 4.6), sharey=True)
    for ax, bs in zip(axs, SIZES):
        for name, (color, marker) in looks.items():
            ours = name == OURS
            ax.plot(counts, [np.median(found[n, bs][name]) for n in counts], color=color, marker=marker, ms=9 if ours else 6, lw=2.5 if ours else 1.2,
                    ls='--' if name == LIMIT else '-', label=name.replace('`', ''), zorder=3 if ours else 2)
        ax.set(xscale='log', yscale='log', xlabel='datasets', title=f'batches of {bs}')
        ax.set_xticks(counts, [f'{n:,}' for n in counts])
        ax.minorticks_off()
        ax.grid(alpha=.3)
        ax.spines[['top', 'right']].set_visible(False)
    low, high = axs[0].get_ylim()
    ticks = [t for t in 10.**np.arange(3, 9) if low <= t <= high]
    axs[0].set_yticks(ticks, [f'{t/1e6:g} M' if t >= 1e6 else f'{t/1e3:g} k' for t in ticks])
    axs[0].set_ylabel('rows per second')
    fig.legend(*axs[0].get_legend_handles_labels(), loc='lower center', ncols=3, frameon=False)
    fig.tight_layout(rect=(0, .13, 1, 1))
    fig.savefig(path, dpi=110)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--rows', type=int, default=500_000, help='rows in all')
    p.add_argument('--rounds', type=int, default=5, help='rounds per cell, at least 3')
    p.add_argument('--counts', type=int, nargs='+', default=COUNTS, help='numbers of datasets')
    a = p.parse_args()
    found = measure(a.rows, a.counts, max(3, a.rounds))
    save('loaders.md', report(found, a.rows))
    draw(found, RESULTS/'loaders.png')


if __name__ == '__main__': main()
