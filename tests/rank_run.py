"What one process of several does; run by torchrun in test_ranks.py, and imported there for the process that is alone."
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import fastai.distributed
import tsmeta.load.loader
import tsmeta.train.predict
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fastai.metrics import F1Score, accuracy
from fasttransform import ItemTransform
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.splits.splits import split_for_process

BS, TRAIN = 64, 700


class Jitter(ItemTransform):
    "A random transform of single rows"
    def encodes(self, row): return row[0] + torch.randn(()), *row[1:]


def meta(n):
    "Thirty datasets of different lengths, with TRAIN + n rows in all, whose class shows in the rows"
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, TRAIN + n)
    X = rng.normal(size=(TRAIN + n, 2, 8)).astype(np.float32) + y[:, None, None]
    cuts = np.sort(rng.choice(np.arange(1, TRAIN + n), 29, replace=False))
    return TSMetaDataset([(a, b) for a, b in zip(np.split(X, cuts), np.split(y, cuts))])


def loaders(n, **kwargs):
    ids = np.random.default_rng(1).permutation(TRAIN + n)
    mds = TSMetaDatasets(meta(n), [ids[:TRAIN], ids[TRAIN:]])
    return mds.dataloaders(**{'bs': BS, 'seed': 7, 'device': 'cpu', **kwargs})


def learner(dls):
    torch.manual_seed(0)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)), metrics=[accuracy, F1Score()])
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    return learn


def results(learn, n, folder):
    "What a learner says about its rows, in all the ways there are"
    preds, targs = learn.get_preds()
    train_preds, train_targs = learn.get_preds(ds_idx=0)
    return dict(preds=preds, targs=targs, train_preds=train_preds, train_targs=train_targs, losses=learn.get_preds(with_loss=True)[2], validated=list(learn.validate()),
                table=learn.predict_table(probs=True), saved=pd.read_csv(learn.predict_table(save=folder/f'{n}.csv')) if folder else None,
                own=learn.predict_table(dl=learn.dls.train), weights=[p.detach().clone() for p in learn.model.parameters()])


def train(n, together, folder=None):
    "Two epochs, then everything that predicts"
    dls = loaders(n)
    learn = learner(dls)
    kept = list(dls)
    with learn.distrib_ctx(sync_bn=False, cpu=True) if together else nullcontext():
        learn.fit(2, lr=.05)
        recorded = [list(v) for v in learn.recorder.values]
        found = results(learn, n, folder)
    return dict(found, recorded=recorded, left_alone=all(a is b for a, b in zip(dls, kept)) and isinstance(dls.train, fastai.distributed.DistributedDL))


def order(**kwargs):
    "Ids and rows of two epochs of a loader with a random transform of rows, and the states on the way"
    dl = loaders(641, after_item=Jitter(), **kwargs).train
    got = [(dl.ids.copy(), x.as_subclass(torch.Tensor).clone(), dl.dataset.mapping_idxs.copy(), json.dumps(dl.state_dict())) for _ in range(2) for x, y in dl]
    return [list(o) for o in zip(*got)]


def refused(make):
    "What a loader says when its first batch is asked for"
    try: next(iter(make()))
    except ValueError as e: return str(e)


def main(folder):
    out = {n: train(n, True, Path(folder)) for n in (641, 675)}
    rank = torch.distributed.get_rank()
    out['order'] = order()
    out['workers'] = order(num_workers=1)
    whole = meta(641)
    out['share of a share'] = refused(lambda: TSMetaDataLoader(whole.select(split_for_process('train')), bs=BS, shuffle=True, seed=0))
    out['sharding off'] = refused(lambda: TSMetaDataLoader(whole.select(split_for_process('train')), bs=BS, shuffle=True, seed=0, world_size=1))
    out['other seeds'] = refused(lambda: TSMetaDataLoader(whole, bs=BS, shuffle=True, seed=rank))
    out['no seed'] = refused(lambda: TSMetaDataLoader(whole, bs=BS, shuffle=True))
    torch.save(out, Path(folder)/f'{rank}.pt')
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == '__main__': main(sys.argv[1])
