"Forecasts of scaled windows come back in the units of the recordings, whatever scaled them."
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner, load_learner
from torch import nn

import tsmeta.train.predict
from tsmeta.data.transforms import DatasetInput
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.train.export import make_arch, register_arch
from tsmeta.train.export import load_safe
from tsmeta.data.transforms import MinMaxScaleByDataset, RobustScaleByDataset, StandardizeByDataset
from tsmeta.splits.splitters import EachSplitter

RNG = np.random.default_rng(0)
RECORDINGS = {f's{k}': (10.**k*(5 + np.sin(np.arange(150)/4 + k) + RNG.normal(0, .1, (2, 150)))).astype(np.float32) for k in range(3)}


class Repeat(nn.Module):
    "Says that the last value stays; `flat` models answer without the axis of variables"
    def __init__(self, n, flat): super().__init__(); self.n, self.flat, self.w = n, flat, nn.Parameter(torch.zeros(1))
    def forward(self, x):
        out = x[..., -1:].as_subclass(torch.Tensor).repeat(1, 1, self.n) + self.w
        return out.flatten(1) if self.flat else out


class Mse(nn.Module):
    def forward(self, p, y): return nn.functional.mse_loss(p.reshape(y.shape), y)


def predicted(tfm, flat=False, data=None, **kwargs):
    meta = TSMetaDataset.from_recordings(RECORDINGS, 24, 12, horizon=3)
    learn = Learner(meta.split(EachSplitter()).dataloaders(bs=8, seed=0, batch_tfms=tfm), Repeat(3, flat), loss_func=Mse())
    learn.remove_cb(ProgressCallback)
    return learn.predict_table(data=data, **kwargs)


def cells(values): return np.array(values.tolist())


@pytest.mark.parametrize('flat', [False, True])
@pytest.mark.parametrize('tfm', [StandardizeByDataset, RobustScaleByDataset, MinMaxScaleByDataset])
@pytest.mark.parametrize('groups', [None, 'all', 'row'])
def test_units(tfm, groups, flat):
    plain, scaled = predicted(None, flat), predicted(tfm(groups=groups), flat)
    np.testing.assert_allclose(cells(scaled.prediction), cells(plain.prediction), rtol=1e-4)
    np.testing.assert_allclose(cells(scaled.target), cells(plain.target))
    assert (scaled.loss < plain.loss).sum() > len(plain)/2 and scaled.loss.max() < 50


def test_new_data_without_targets_and_files(tmp_path):
    rows = RECORDINGS['s2'][None, :, :24]
    last = np.repeat(rows[:, :, -1:], 3, 2).reshape(1, -1)
    for tfm in (None, StandardizeByDataset()): np.testing.assert_allclose(cells(predicted(tfm, data=rows).prediction), last, rtol=1e-4)
    saved = pd.read_parquet(predicted(StandardizeByDataset(), save=tmp_path/'t.parquet'))
    np.testing.assert_allclose(np.stack(saved.prediction), cells(predicted(None).prediction), rtol=1e-4)


def test_labels_are_left_alone():
    X = RNG.normal(5, 2, (40, 2, 24)).astype(np.float32)
    meta = TSMetaDataset([(X, np.arange(40) % 2)])
    table = []
    for tfm in (None, StandardizeByDataset()):
        torch.manual_seed(0)
        learn = Learner(meta.split(range(20), range(20, 40)).dataloaders(bs=8, seed=0, batch_tfms=tfm), nn.Sequential(nn.Flatten(), nn.Linear(48, 2)))
        learn.remove_cb(ProgressCallback)
        table.append(learn.predict_table(probs=True))
    assert table[1][['p_0', 'p_1']].sum(1).between(.999, 1.001).all() and not np.allclose(table[0].p_0, table[1].p_0)


@pytest.mark.parametrize('groups', [None, 'row'])
def test_loaded_learners_speak_the_same_units(groups, tmp_path):
    register_arch(lambda c_in, c_out, seq_len, d=None: Repeat(3, False), name='repeat')
    meta = TSMetaDataset.from_recordings(RECORDINGS, 24, 12, horizon=3)
    learn = Learner(meta.split(EachSplitter()).dataloaders(bs=8, seed=0, batch_tfms=StandardizeByDataset(groups=groups)), make_arch('repeat', 2, 3, 24), loss_func=nn.L1Loss(), path=tmp_path)
    learn.remove_cb(ProgressCallback)
    learn.export('l.pkl')
    new = TSMetaDataset.from_recordings({'s1': RECORDINGS['s1'], 'other': 5*RECORDINGS['s2']}, 24, 24, horizon=3)
    want = learn.predict_table(data=new)
    np.testing.assert_allclose(cells(want.prediction)[0], np.repeat(RECORDINGS['s1'][:, 23], 3), rtol=1e-4)
    np.testing.assert_allclose(cells(want.prediction)[-1], np.repeat(5*RECORDINGS['s2'][:, 24*5+23], 3), rtol=1e-4)
    for again in (load_learner(tmp_path/'l.pkl'), load_safe(learn.export_safe(tmp_path/'safe'))):
        again.remove_cbs([cb for cb in again.cbs if isinstance(cb, ProgressCallback)])
        pd.testing.assert_frame_equal(again.predict_table(data=new), want)


def test_models_that_know_the_dataset():
    meta = TSMetaDataset.from_recordings(RECORDINGS, 24, 12, horizon=3)
    class Rows(Repeat):
        def forward(self, x): return super().forward(x[0])
    learn = Learner(meta.split(EachSplitter()).dataloaders(bs=8, seed=0, batch_tfms=[StandardizeByDataset(), DatasetInput()]), Rows(3, False), loss_func=nn.L1Loss())
    learn.remove_cb(ProgressCallback)
    table = learn.predict_table(with_input=True)
    np.testing.assert_allclose(cells(table.prediction), cells(predicted(None).prediction), rtol=1e-4)
    assert table.input[0].shape == (2, 24)
