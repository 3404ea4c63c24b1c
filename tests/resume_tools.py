"A small training with everything that could differ after a stop: dropout, batch normalisation, random transforms, one cycle, metrics."
import hashlib

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import no_bar  # noqa: F401
from fastai.callback.schedule import fit_one_cycle  # noqa: F401
from fastai.learner import Learner
from fastai.metrics import RocAucBinary, accuracy
from fastai.vision.augment import RandTransform
from torch import nn
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.train.resume import SaveResume


class Noise(RandTransform):
    "Add noise while training"
    split_idx = 0
    def encodes(self, x: torch.Tensor): return x + torch.randn_like(x)*.2 if x.is_floating_point() else x


class Stopped(Exception): pass


class StopAfter(Callback):
    "Stand for a power cut after so many batches"
    order = 2000
    def __init__(self, left): self.left = left
    def after_batch(self):
        self.left -= 1
        if not self.left: raise Stopped('lights out')


class Trace(Callback):
    "Keep the counters that each batch sees"
    def __init__(self): self.seen = []
    def after_batch(self): self.seen.append((self.epoch, self.training, self.iter, self.n_iter, self.train_iter, self.pct_train))


def meta(n=(30, 10, 41)):
    rng = np.random.default_rng(0)
    return TSMetaDataset({f'd{k}': (rng.normal(size=(m, 2, 12)).astype(np.float32), rng.integers(0, 2, m).astype(str)) for k, m in enumerate(n)})


def learner(init=0, workers=0, hidden=8, cbs=None, data=None, **kwargs):
    mds = (meta() if data is None else data).split('train[:75%]', 'train[75%:]', per='dataset')
    dls = mds.dataloaders(**{**dict(bs=8, seed=3, batch_tfms=Noise(), num_workers=workers, device='cpu'), **kwargs})
    torch.manual_seed(init)
    net = nn.Sequential(nn.Conv1d(2, hidden, 3), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(.4), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(hidden, 2))
    return Learner(dls, net, metrics=[accuracy, RocAucBinary()], cbs=cbs)


def fit(learn, folder=None, n=2, every=1, how='fit_one_cycle', cbs=(), **kwargs):
    "Train, without output; returns the callback"
    resume = None if folder is None else SaveResume(folder, every=every, **kwargs)
    with learn.no_bar(), learn.no_logging(): getattr(learn, how)(n, 1e-2, cbs=[*cbs, *([resume] if resume else [])])
    return resume


def digest(learn):
    "Everything a training leaves behind, in one hash: weights, optimizer, curve"
    h = hashlib.sha256()
    for v in learn.model.state_dict().values(): h.update(v.numpy().tobytes())
    for s in learn.opt.state_dict()['state']: h.update(repr({k: v.tolist() if hasattr(v, 'tolist') else v for k, v in sorted(s.items())}).encode())
    rec = learn.recorder
    h.update(repr(([float(v) for v in rec.losses], [list(v) for v in rec.values], rec.iters, [float(v) for v in rec.lrs])).encode())
    return h.hexdigest()
