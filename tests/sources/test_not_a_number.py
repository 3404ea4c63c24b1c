"What a model cannot predict is shown as such, and spoils nothing else"
import numpy as np
import pandas as pd
import pytest
import torch
import fastai.callback.progress # learn.no_bar
from fastai.learner import Learner
from torch import nn

from tsmeta.all import *
from tsmeta.train.predict import join_steps, join_windows

SAID = "no prediction for .* rows, such as dataset 'b' "


class Means(nn.Module):
    "Outputs that are means of the inputs, so that one NaN of a row makes all of its outputs NaN"
    def __init__(self, n): super().__init__(); self.n, self.w = n, nn.Parameter(torch.ones(1))
    def forward(self, x): return torch.stack([x.mean((1, 2))*(k - .5)*self.w for k in range(self.n)], 1)


def recordings(y=('up', 'down', 'up', 'down')):
    "Four recordings of 40 steps; parts of 'b' and the whole of 'c' are missing"
    recs = np.random.default_rng(0).normal(size=(4, 2, 40)).astype(np.float32)
    recs[1, 0, 12:19], recs[2, 1] = np.nan, np.nan
    return TSMetaDataset.from_recordings(dict(zip('abcd', recs)), window=10, stride=5, y=list(y))


def learner(meta, n=2):
    return Learner(TSMetaDatasets(meta, dict(train=range(len(meta)), valid=range(len(meta))), leak='allow').dataloaders(bs=8, device='cpu'), Means(n))


@pytest.fixture(scope='module')
def learn(): return learner(recordings())


def predicted(learn, **kwargs):
    with pytest.warns(UserWarning, match=SAID), learn.no_bar(): return learn.predict_table(**kwargs)


def test_rows_without_a_prediction(learn):
    t = predicted(learn, probs=True)
    lost = np.isnan(learn.dls.valid_ds[:][0].numpy()).any((1, 2))
    assert 0 < lost[t.name == 'b'].sum() < 7 and lost[t.name == 'c'].all()
    assert (t.prediction.isna() == lost).all() and (t.probability.isna() == lost).all()
    assert set(t.prediction[~lost]) <= {'up', 'down'} and (t.target != t.prediction)[lost].all()
    assert score_by(t).set_index('name').accuracy['c'] == 0


@pytest.mark.parametrize('how', ['mean', 'vote'])
def test_windows_without_a_prediction_have_no_say(learn, how):
    t = predicted(learn, probs=True)
    told = t[t.prediction.notna()]
    want = join_windows(told, how=how).set_index('name')
    for out in (join_windows(t, how=how), predicted(learn, by='dataset', how=how)):
        out = out.set_index('name')
        assert out.rows.tolist() == [7, (told.name == 'b').sum(), 0, 7] and pd.isna(out.prediction['c'])
        for n in 'abd': assert out.prediction[n] == want.prediction[n] and out.probability[n] == want.probability[n]


def test_steps_of_such_windows_are_left_to_the_others(learn):
    t = predicted(learn, probs=True)
    want = join_steps(t[t.prediction.notna()])
    for out in (join_steps(t), predicted(learn, by='step', probs=True)):
        pd.testing.assert_frame_equal(out, want)
        assert np.isfinite(out.probability).all() and set(out.name) == set('abd')


@pytest.mark.parametrize('end', ['parquet', 'csv'])
def test_in_files(learn, end, tmp_path):
    t, path = predicted(learn), predicted(learn, save=tmp_path/f't.{end}')
    found = pd.read_parquet(path) if end == 'parquet' else pd.read_csv(path)
    assert found.prediction.isna().tolist() == t.prediction.isna().tolist()
    assert (found.prediction.dropna().astype(str) == t.prediction.dropna().astype(str)).all()


def test_labels_that_are_numbers_stay_numbers(tmp_path):
    learn = learner(recordings([3, 7, 3, 7]))
    t = predicted(learn)
    assert set(t.prediction.dropna()) <= {3, 7} and t.prediction.isna().any()
    assert set(pd.read_parquet(predicted(learn, save=tmp_path/'t.parquet')).prediction.dropna()) <= {3, 7}


def test_several_labels_and_numbers():
    X = np.random.default_rng(0).normal(size=(6, 2, 5)).astype(np.float32)
    X[4] = np.nan
    many = learner(TSMetaDataset(dict(a=(X[:3], [['p'], ['p', 'q'], []]), b=(X[3:], [['q'], ['p'], ['q']]))))
    assert predicted(many).prediction.isna().tolist() == [False]*4 + [True, False]
    numbers = learner(TSMetaDataset(dict(a=(X[:3], np.arange(3.)), b=(X[3:], np.arange(3.)))), 1)
    t = predicted(numbers)
    assert t.prediction.isna().tolist() == [False]*4 + [True, False]
    out = predicted(numbers, by='dataset').set_index('name')
    assert out.rows.tolist() == [3, 2] and np.isclose(out.prediction['b'], t.prediction[[3, 5]].mean())


def test_nothing_is_said_where_all_is_well(learn, recwarn):
    with learn.no_bar(): learn.predict_table(data=np.ones((3, 2, 10), np.float32))
    assert not [w for w in recwarn if 'no prediction' in str(w.message)]
