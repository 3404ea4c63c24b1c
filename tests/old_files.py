"Set up loaders and learners that `golden/make_v0_1.py` saved with version 0.1.0 and `test_old_files.py` resumes."

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import fit_one_cycle  # noqa: F401
from fastai.learner import Learner
from torch import nn
from tsmeta.all import EachSplitter
from tsmeta.all import Mix
from tsmeta.all import SaveResume
from tsmeta.all import TSMetaDataLoader
from tsmeta.all import TSMetaDataset

SPLITTER = EachSplitter(0.25, gap=1)


def floats(a):
    "Return an array of numbers, rounded to float32, as nested lists of short numbers; others as they are"
    a = np.asarray(a)
    if a.dtype.kind == 'f':
        return [floats(o) for o in a] if a.ndim else float(str(np.float32(a)))
    return a.tolist()


def plain_table(df):
    return {c: floats(v.to_numpy()) if v.dtype.kind == 'f' else [str(o) for o in v] for c, v in df.items()}


def told(meta):
    "Return what a metadataset says: its rows, targets, vocabulary, names, info and where its rows come from"
    ids, s = np.arange(len(meta.index)), meta.schema
    x, y = meta.gather(ids)
    vocab = None if s.vocab is None else [[type(v).__name__, v] for v in s.vocab]
    return dict(
        x=floats(x),
        y=None if y is None else floats(y),
        vocab=vocab,
        kind=s.kind,
        names=list(meta.names),
        var_names=s.var_names,
        rows=meta.index.lens.tolist(),
        info=None if meta.info is None else plain_table(meta.info),
        where=plain_table(meta.where(ids)),
        stride=meta.stride.tolist(),
        extent=meta.extent.tolist(),
    )


# Loaders whose states were written: name → loader over a metadataset, batches delivered before

LOADERS = dict(
    plain=(lambda ds: TSMetaDataLoader(ds, bs=5, shuffle=True, seed=7, device='cpu'), 3),
    in_order=(lambda ds: TSMetaDataLoader(ds, bs=5, device='cpu'), 4),
    second_epoch=(lambda ds: TSMetaDataLoader(ds, bs=5, shuffle='within', seed=7, device='cpu'), 12),
    mixed=(
        lambda ds: TSMetaDataLoader(
            ds, bs=5, shuffle=True, seed=7, mix=Mix('equal', batching='stratified'), device='cpu'
        ),
        3,
    ),
    rank_1_of_2=(lambda ds: TSMetaDataLoader(ds, bs=6, shuffle=True, seed=7, rank=1, world_size=2, device='cpu'), 2),
    weighted=(lambda ds: TSMetaDataLoader(ds, bs=5, shuffle=True, seed=7, weights='balanced', device='cpu'), 3),
    bucket=(lambda ds: TSMetaDataLoader(ds, bs=5, shuffle=True, seed=7, batching='per_dataset', device='cpu'), 3),
)


def after(dl, n):
    "Return the state of a loader after `n` batches"
    while n >= len(dl):
        n -= len(list(dl))
    it = iter(dl)
    for _ in range(n):
        next(it)
    state = dl.state_dict()
    it.close()
    return state


def coming(dl, epochs=2):
    return [[dl.ids.tolist() for _ in dl] for _ in range(epochs)]


def streamed(ds):
    return ds.stream(bs=5, shuffle=True, seed=7).rebatch(3)


# A training that was stopped


class Stopped(Exception):
    pass


class StopAfter(Callback):
    "Stop a training after so many batches"

    order = 2000

    def __init__(self, left):
        self.left = left

    def after_batch(self):
        self.left -= 1
        if not self.left:
            raise Stopped('stopped')


class Seen(Callback):
    "Keep the ids of the batches trained on"

    def __init__(self):
        self.ids = []

    def before_batch(self):
        if self.training:
            self.ids.append(self.learn.dls.train.ids.tolist())


def net(n_vars, n_out):
    return nn.Sequential(
        nn.Conv1d(n_vars, 4, 3),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(4, n_out),
    )


def quiet(learn):
    learn.remove_cbs([cb for cb in learn.cbs if type(cb).__name__ == 'ProgressCallback'])
    return learn


def small_learner(ds, tfms=None, model=None, **kwargs):
    dls = ds.split(SPLITTER).dataloaders(bs=4, seed=3, batch_tfms=tfms, device='cpu')
    torch.manual_seed(0)
    return quiet(Learner(dls, net(ds.vars, ds.c) if model is None else model(dls), **kwargs))


def train(learn, folder, cbs=()):
    "Train two epochs with checkpoints after every second batch"
    with learn.no_logging():
        learn.fit_one_cycle(2, 1e-2, cbs=[SaveResume(folder, every=2, keep=1), *cbs])
    return learn


def weights(learn):
    return {k: floats(v.numpy()) for k, v in learn.model.state_dict().items()}


def predicted(learn, x):
    "Return probabilities (or numbers) and decoded predictions for new rows"
    probs = quiet(learn).get_preds(dl=learn.dls.test_dl(x))[0].numpy()
    table = learn.predict_table(data=x)
    return dict(probs=floats(probs), prediction=[str(o) if isinstance(o, str) else floats(o) for o in table.prediction])


def rows_for(name, x):
    "Return the rows that a learner is to predict, with names of datasets or variables where it was trained with some"
    if name == 'policies':
        return TSMetaDataset([x], names=['q'], var_names=['v', 'w', 'u'])
    if name == 'own_labels':
        return TSMetaDataset(dict(a=x, b=x))
    return x
