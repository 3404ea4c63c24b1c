"The callbacks beside those of fastai and tsai, in real trainings of a few steps."
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.progress import CSVLogger, ProgressCallback, ShowGraphCallback
import fastai.callback.schedule
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback
from fastai.callback.training import GradientAccumulation, GradientClip
import fastai.callback.hook
from fastai.learner import Learner
from fastai.metrics import F1Score, accuracy
from torch import nn

from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.train.metrics import DatasetMetrics
from tsmeta.train.mixture import MixtureScheduler, TrackDatasets
import tsmeta.train.plots


def learner(path='.', bs=16, y=None, c=2, **kwargs):
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(n, 2, 6)).astype(np.float32) for n in (90, 40, 30)]
    meta = TSMetaDataset({f'd{d}': (x, (x.sum((1, 2)) > 0).astype(int) if y is None else x.sum((1, 2))) for d, x in enumerate(X)}, info={'town': ['O', 'R', 'R']})
    torch.manual_seed(0)
    dls = TSMetaDatasets(meta, [range(0, 160, 2), range(1, 160, 2)]).dataloaders(bs=bs, seed=3, device='cpu')
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, c)), path=path, lr=.01, **kwargs)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    return learn


def ours(*more): return [DatasetMetrics(accuracy, F1Score(), groups='town', train=True, watch='d1'), MixtureScheduler(by_loss='equal'), TrackDatasets(), *more]


def check(learn, epochs):
    "All epochs were scored and counted, and nothing of it is in the way of the next training."
    t = learn.dataset_metrics
    assert sorted(t.epoch.unique()) == list(range(epochs)) and np.isfinite(t.value).all()
    assert (t[(t.by == 'dataset') & (t.part == 'valid') & (t.metric == 'loss')].groupby('epoch').rows.sum() == 80).all()
    seen = learn.datasets_seen
    assert np.array_equal(seen.seen, seen.planned) and len(learn.mixture) == 3*epochs and np.array_equal(seen.planned, learn.mixture.rows)
    return t


def quiet(learn, how, *args, **kwargs):
    with learn.no_logging(): return getattr(learn, how)(*args, **kwargs)


@pytest.mark.parametrize('more', [lambda: MixUp(.4), lambda: GradientAccumulation(32), lambda: GradientClip(.1), TerminateOnNaNCallback,
                                  lambda: ReduceLROnPlateau('accuracy_worst', patience=1)])
def test_beside_other_callbacks(more):
    learn = learner()
    quiet(learn, 'fit', 2, cbs=ours(more()))
    check(learn, 2)


def test_beside_mixup_on_numbers():
    learn = learner(y='numbers', c=1)
    quiet(learn, 'fit', 2, cbs=[DatasetMetrics(train=True), MixtureScheduler(by_loss='equal'), TrackDatasets(), MixUp(.4)])
    check(learn, 2)


def test_mixup_does_not_change_what_is_counted_as_loss():
    "Losses of rows are those of the loss of the learner, not of the one that mixing puts in its place."
    learn, found = learner(), {}
    class Look(Callback):
        order = 47
        def after_loss(self):
            if self.training:
                for d, l in zip(self.learn.dls.train.where.dataset, nn.functional.cross_entropy(self.pred.detach(), self.y, reduction='none')): found.setdefault(d, []).append(float(l))
    quiet(learn, 'fit', 1, cbs=[MixUp(.4), DatasetMetrics(train=True), Look()])
    t = learn.dataset_metrics
    got = t[(t.part == 'train') & (t.metric == 'loss')].set_index('dataset').value
    assert all(np.isclose(got[d], np.mean(v), 1e-5) for d, v in found.items())


def test_gradient_accumulation_sees_every_batch():
    learn = learner()
    quiet(learn, 'fit', 1, cbs=[DatasetMetrics(accuracy, train=True), TrackDatasets(), GradientAccumulation(48)])
    assert learn.datasets_seen.seen.sum() == 80


def test_stopping_and_saving_by_a_dataset(tmp_path):
    learn = learner(tmp_path)
    stop = EarlyStoppingCallback(monitor='accuracy/d1', min_delta=2., patience=2)
    quiet(learn, 'fit', 9, cbs=ours(stop, SaveModelCallback(monitor='accuracy_worst', fname='best')))
    t = learn.dataset_metrics
    assert t.epoch.max() == 2 and (tmp_path/'models'/'best.pth').exists()
    worst = t[(t.metric == 'accuracy') & (t.by == 'dataset') & (t.part == 'valid')].groupby('epoch').value.min()
    p, y = learn.get_preds()
    ds = learn.dls.valid.dataset.mapping[:, 0]
    assert np.isclose(min(float(accuracy(p[ds == d], y[ds == d])) for d in range(3)), worst.max())


def test_loggers_get_the_columns(tmp_path):
    class Board(Callback):
        "What loggers to dashboards do: names and values after each epoch, but not while searching a rate or predicting."
        order = 61
        def before_fit(self): self.run, self.sent = not hasattr(self.learn, 'lr_finder') and not hasattr(self.learn, 'gather_preds'), []
        def after_epoch(self): self.sent.append({n: s for n, s in zip(self.recorder.metric_names, self.recorder.log) if n not in ('train_loss', 'epoch', 'time')})
    learn, board = learner(tmp_path, metrics=accuracy), Board()
    with learn.no_bar(): learn.fit(2, cbs=ours(board, CSVLogger('log.csv')))
    csv = pd.read_csv(tmp_path/'log.csv')
    want = ['valid_loss', 'accuracy', 'accuracy_mean', 'accuracy_worst', 'accuracy_weighted', 'f1_score_mean', 'f1_score_worst', 'f1_score_weighted', 'accuracy_mean_town',
            'accuracy_worst_town', 'f1_score_mean_town', 'f1_score_worst_town', 'accuracy/d1', 'f1_score/d1']
    assert sorted(board.sent[-1]) == sorted(want) and set(want) < set(csv.columns) and len(csv) == 2
    t = check(learn, 2)
    last = t[(t.epoch == 1) & (t.part == 'valid') & (t.metric == 'accuracy')].set_index('name').value
    assert np.isclose(csv['accuracy/d1'].iloc[-1], last['d1']) and np.isclose(board.sent[-1]['accuracy_worst_town'], last[['O', 'R']].min())


def test_rates_are_found_without_a_trace(tmp_path, monkeypatch):
    monkeypatch.setenv('MPLBACKEND', 'agg')
    learn = learner(tmp_path, cbs=ours())
    mix, metrics = learn.dls.train.plan.fingerprint, list(learn.metrics)
    with learn.no_bar(): assert quiet(learn, 'lr_find', num_it=12, show_plot=False).valley > 0
    assert learn.dls.train.plan.fingerprint == mix and list(learn.metrics) == metrics
    with pytest.raises(ValueError, match='No dataset was scored yet'): learn.dataset_metrics
    quiet(learn, 'fit_one_cycle', 2, .01)
    check(learn, 2)
    before = len(learn.dataset_metrics)
    learn.get_preds()
    assert len(learn.dataset_metrics) == before


def test_fine_tuning_and_summary():
    from fastai.vision.all import params
    learn = learner(splitter=lambda m: [params(m[:2]), params(m[2:])], cbs=ours())
    assert 'Total params: 122' in str(learn.summary())
    quiet(learn, 'fine_tune', 2)
    check(learn, 2)
    assert [m.name for m in learn.metrics] == []


def test_graph():
    learn = learner()
    learn.add_cb(ProgressCallback())
    learn.fit(2, cbs=ours(ShowGraphCallback()))
    check(learn, 2)


@pytest.mark.parametrize('mode', AMPMode)
def test_half_precision(mode):
    learn = learner(cbs=MixedPrecision(amp_mode=mode))
    quiet(learn, 'fit', 2, cbs=ours())
    check(learn, 2)


def test_tsai_learner_and_its_callbacks(monkeypatch):
    pytest.importorskip('tsai')
    from tsai.basics import ts_learner, ShowGraph
    class Shown:
        def update(self, fig): pass
    monkeypatch.setattr('tsai.callback.core.display', lambda *args, **kwargs: Shown(), raising=False)
    learn = learner()
    new = ts_learner(learn.dls, arch='FCN', metrics=accuracy, cbs=[*ours(), ShowGraph()])
    with new.no_bar(), new.no_logging(): new.fit_one_cycle(2, 1e-3)
    check(new, 2)
