"Batches of torch's own tensors, for any loop: the same values, with ids"
import numpy as np
import pytest
import torch
from torch import nn

from tsmeta.all import *

rng = np.random.default_rng(0)
META = TSMetaDataset({n: (rng.normal(size=(20, 2, 8)).astype('f4'), rng.choice(['rest', 'walk'], 20)) for n in 'abc'})


def loaders(**kwargs):
    return META.split('train[:80%]', 'train[80%:]').dataloaders(bs=8, seed=0, **kwargs)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_plain_batches_hold_the_same(num_workers):
    typed = [(np.asarray(x), np.asarray(y), np.asarray(x.ids)) for x, y in loaders().train]
    dl = loaders(tensors='plain', num_workers=num_workers).train
    for (x, y), (wx, wy, ids) in zip(dl, typed, strict=True):
        assert type(x) is type(y) is torch.Tensor
        assert (x.numpy() == wx).all() and (y.numpy() == wy).all() and (np.asarray(dl.ids) == ids).all()
    for b, (wx, wy, ids) in zip(loaders(tensors='dict', num_workers=num_workers).train, typed, strict=True):
        assert list(b) == ['x', 'y', 'ids'] and {type(v) for v in b.values()} == {torch.Tensor} and b['ids'].dtype == torch.int64
        assert (b['x'].numpy() == wx).all() and (b['y'].numpy() == wy).all() and (b['ids'].numpy() == ids).all()


def test_a_plain_loop_trains_with_transforms_by_dataset():
    dls = loaders(tensors='plain', batch_tfms=[StandardizeByDataset()])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    for x, y in dls.train: nn.functional.cross_entropy(model(x), y).backward()
    assert model[1].weight.grad.isfinite().all()
    wanted = loaders(batch_tfms=[StandardizeByDataset()])
    fresh = loaders(tensors='plain', batch_tfms=[StandardizeByDataset()])
    for (x, _), (w, _) in zip(fresh.train, wanted.train): assert (x.numpy() == np.asarray(w)).all()


def test_new_loaders_keep_the_kind_of_tensors():
    dls = loaders(tensors='plain')
    assert type(next(iter(dls.valid.new(bs=4)))[0]) is torch.Tensor
    assert type(dls.train.one_batch()[0]) is torch.Tensor
    with pytest.raises(ValueError, match="'plain'"): loaders(tensors='numpy')
