"What faster batches buy in training: an epoch over 10,000 datasets at batches of 64, tsai's metadataset beside tsmeta"
import argparse
import numpy as np, torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner
from fastcore.foundation import L
from tsai.basics import TSClassification, TSDatasets
from tsai.data import metadatasets as tsai_meta
from tsai.models.FCN import FCN
from tsai.models.InceptionTimePlus import InceptionTimePlus
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.data.dataset import TSMetaDataset
from common import clock, interleaved, save, setting, table
from loaders import tsai_loader

VARS, STEPS, CLASSES, BS = 5, 50, 3, 64
MODELS = {'linear model': lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(VARS*STEPS, CLASSES)),
          'FCN': lambda: FCN(VARS, CLASSES), 'InceptionTimePlus': lambda: InceptionTimePlus(VARS, CLASSES, STEPS)}


class Clock(Callback):
    "Stop after some seconds of training; `per_batch` is then seconds per batch, the first three left out"
    def __init__(self, budget): self.budget = budget
    def before_fit(self): self.n = 0
    def after_batch(self):
        self.n += 1
        if self.n == 3: self.start = clock()
        if self.n > 10 and (spent := clock() - self.start) > self.budget:
            self.per_batch = spent/(self.n - 3)
            raise CancelFitException


def by_learner(dls, model, budget):
    "Seconds per batch with a fastai `Learner`"
    clock = Clock(budget)
    learn = Learner(dls, model, loss_func=torch.nn.CrossEntropyLoss(), cbs=clock)
    with learn.no_bar(), learn.no_logging(): learn.fit(100)
    return clock.per_batch


def by_loop(dls, model, budget):
    "Seconds per batch with a plain training loop"
    opt, loss, n, start = torch.optim.SGD(model.parameters(), .01), torch.nn.CrossEntropyLoss(), 0, None
    while True:
        for x, y in dls.train:
            loss(model(x.as_subclass(torch.Tensor)), y.as_subclass(torch.Tensor)).backward()
            opt.step()
            opt.zero_grad()
            n += 1
            if n == 3: start = clock()
            if n > 10 and (spent := clock() - start) > budget: return spent/(n - 3)


def loaders(total, count):
    "tsai's and our loaders over the same datasets"
    from fastai.data.core import DataLoaders
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((total, VARS, STEPS), dtype=np.float32), rng.integers(0, CLASSES, total)
    members = [(a.copy(), b.copy()) for a, b in zip(np.array_split(x, count), np.array_split(y, count))]
    theirs = tsai_meta.TSMetaDataset([TSDatasets(a, b, tfms=[None, TSClassification()]) for a, b in members])
    split = L(rng.permutation(total).tolist())
    theirs = tsai_meta.TSMetaDatasets(theirs, splits=(split, split[:1000]))
    ours = TSMetaDataset(members)
    train = tsai_loader(theirs.train, BS)
    return {'tsai': DataLoaders(train, train), 'tsmeta': TSMetaDataLoaders.from_dsets(ours, ours, bs=BS, device='cpu')}


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--rows', type=int, default=500_000, help='rows in all')
    p.add_argument('--datasets', type=int, default=10_000, help='number of datasets')
    p.add_argument('--rounds', type=int, default=3, help='rounds per cell')
    p.add_argument('--seconds', type=float, default=.7, help='seconds per measurement')
    a = p.parse_args()
    torch.set_num_threads(1)
    dls, rows, batches = loaders(a.rows, a.datasets), [], a.rows//BS
    for name, make in MODELS.items():
        for how, run in [('plain loop', by_loop), ('fastai Learner', by_learner)]:
            torch.manual_seed(0)
            found = interleaved({k: (lambda d=d: run(d, make(), a.seconds)) for k, d in dls.items()}, a.rounds)
            theirs, ours = (np.median(found[k])*batches for k in ('tsai', 'tsmeta'))
            rows.append([f'{name}, {how}', f'{theirs:.1f} s', f'{ours:.1f} s', f'{np.median(found["tsai"]/found["tsmeta"]):.1f} x'])
    save('training.md', '\n\n'.join(['# An epoch of training', setting('torch', 'numpy', 'fastai', 'tsai', 'numba'),
        f'{a.rows:,} float32 rows of {VARS} x {STEPS} in {a.datasets:,} datasets, batches of {BS}, on the CPU, torch using one thread. Each figure is the processor time per batch over '
        f'{a.seconds:g} s of training (median of {a.rounds} interleaved rounds), multiplied by the {batches:,} batches of an epoch: whole epochs were not run. The last column is the median of the ratios within a round.',
        table(['model', 'tsai TSMetaDatasets', 'tsmeta', 'faster'], rows)]))


if __name__ == '__main__': main()
