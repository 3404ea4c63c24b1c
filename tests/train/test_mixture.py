"Mixes that change by epoch: what was promised is what was seen, and a training that stops goes on as if it had not."
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import SchedCos, SchedExp, SchedLin, combine_scheds
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import nn

import tsmeta.load.loader
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.train.callbacks import DatasetHistory, Scores
from tsmeta.train.metrics import DatasetMetrics
from tsmeta.train.mixture import MixtureScheduler, TrackDatasets, planned_rows
import tsmeta.train.plots

LENS = [300, 60, 0, 40]


def learner(seed=3, bs=16, **kwargs):
    rng, noise = np.random.default_rng(0), [.1, .1, .1, 20.]
    X = [rng.normal(size=(n, 1, 6)).astype(np.float32) for n in LENS]
    meta = TSMetaDataset({f'd{d}': (x, (x.sum((1, 2)) + noise[d]*rng.normal(size=len(x)) > 0).astype(int)) for d, x in enumerate(X)}, vocab=[0, 1])
    torch.manual_seed(0)
    dls = TSMetaDatasets(meta, [range(400), range(0, 400, 3)], leak='allow').dataloaders(bs=bs, seed=seed, **kwargs)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), lr=.05)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    return learn


def fit(learn, epochs, *cbs):
    with learn.no_logging(): learn.fit(epochs, cbs=list(cbs))
    return learn


def table(learn, values='share'): return learn.mixture.pivot(index='epoch', columns='dataset', values=values).to_numpy()


@pytest.mark.parametrize('batching', ['random', 'stratified', 'per_dataset'])
@pytest.mark.parametrize('sched', [SchedLin(8, 1), SchedExp(8, 1), combine_scheds([.5, .5], [SchedCos(1, 5), SchedCos(5, 1)])])
def test_temperatures(sched, batching):
    learn = fit(learner(), 3, MixtureScheduler(temperature=sched, batching=batching), TrackDatasets())
    want = [np.where(np.array(LENS) > 0, np.maximum(1, np.array(LENS))**(1/sched(pos)), 0) for pos in (0, .5, 1)]
    assert np.allclose(table(learn), [w/w.sum() for w in want])
    seen = learn.datasets_seen
    assert np.array_equal(seen.seen, seen.planned) and np.array_equal(seen.seen, learn.mixture.rows)


def test_what_is_seen_is_what_was_planned():
    for kw in (dict(), dict(drop_last=False), dict(mix='equal'), dict(mix=('temperature', 2)), dict(num_workers=1)):
        seen = fit(learner(**kw), 2, TrackDatasets()).datasets_seen
        assert np.abs(seen.seen - seen.planned).max() <= (0 if kw.get('mix') or 'drop_last' in kw else 400 % 16 + 1)
        assert seen.groupby('epoch').seen.sum().tolist() == [400 if kw.get('drop_last') is False else 400]*2
    w = np.r_[np.full(300, 1.), np.full(60, 10.), np.full(40, 0.)]
    seen = fit(learner(weights=w), 4, TrackDatasets()).datasets_seen
    assert np.allclose(seen.planned[:4], [400/3, 800/3, 0, 0]) and np.allclose(seen.groupby('dataset').seen.mean(), seen.planned[:4], atol=25)
    assert (seen.seen[seen.dataset == 3] == 0).all()


def test_a_broken_epoch_is_counted_as_far_as_it_went():
    class Break(Callback):
        order = 46
        def after_loss(self):
            if self.training and self.iter == 2: raise CancelFitException
    learn = learner()
    cb = TrackDatasets()
    with learn.no_logging(), pytest.raises(ValueError, match='Rows were not counted'):
        learn.fit(1, cbs=[cb, Break()])
        learn.datasets_seen


def test_losses_decide():
    learn = fit(learner(), 5, MixtureScheduler(by_loss='proportional', floor=.25))
    p = table(learn)
    base = np.array(LENS)/400
    assert np.allclose(p[0], base) and (p >= .25*base - 1e-12).all() and np.allclose(p.sum(1), 1) and (p[:, 2] == 0).all()
    assert p[-1, 3] > .4 > base[3] and (table(learn, 'rows').sum(1) == 400).all()
    assert np.array_equal(p, table(fit(learner(num_workers=2), 5, MixtureScheduler(by_loss='proportional', floor=.25))))
    plain = fit(learner(), 5, MixtureScheduler(by_loss='proportional', floor=1.))
    assert np.allclose(table(plain), base)


def test_the_first_step_by_loss_is_what_the_losses_say():
    learn = learner()
    t = fit(learn, 2, DatasetMetrics(accuracy, train=True), MixtureScheduler(by_loss='equal', floor=.1)).dataset_metrics
    loss = t[(t.epoch == 0) & (t.part == 'train') & (t.metric == 'loss')].set_index('dataset').value.reindex(range(4)).fillna(0).to_numpy()
    base = np.array([1, 1, 0, 1])/3
    assert np.allclose(table(learn)[1], .9*loss/loss.sum() + .1*base, rtol=1e-5)


class StopAt(Callback):
    "Break off after some batches, and note the states as a checkpoint would."
    order = 70
    def __init__(self, epoch, batch): self.at = epoch, batch
    def after_step(self):
        if (self.epoch, self.iter) == self.at:
            dl, mix = self.learn.dls.train, self.learn.mixture_scheduler
            self.learn.saved = dict(dl=dl.state_dict(), mix=mix.state_dict(), model={k: v.clone() for k, v in self.learn.model.state_dict().items()},
                                    opt=self.learn.opt.state_dict())
            raise CancelFitException


class GoOn(Callback):
    "Begin in the middle of an epoch, as a checkpoint would."
    order = -5
    def __init__(self, saved): self.saved = saved
    def before_fit(self):
        self.learn.model.load_state_dict(self.saved['model'])
        self.learn.opt.load_state_dict(self.saved['opt'])


class Ids(Callback):
    def before_fit(self): self.seen = []
    def before_batch(self):
        if self.training: self.seen.append((self.epoch, self.learn.dl.ids.tolist()))


@pytest.mark.parametrize('at', [(0, 7), (1, 0), (2, 13)])
def test_stop_and_go_on(at):
    how = dict(by_loss='equal', floor=.2)
    whole, ids = learner(), Ids()
    fit(whole, 4, MixtureScheduler(**how), ids)
    broken = learner()
    fit(broken, 4, MixtureScheduler(**how), StopAt(*at))
    rest, more, mix = learner(), Ids(), MixtureScheduler(**how)
    rest.add_cb(mix)
    mix.load_state_dict(broken.saved['mix'])
    rest.dls.train.load_state_dict(broken.saved['dl'])
    rest.create_opt()
    with rest.no_logging(): rest.fit(4, cbs=[GoOn(broken.saved), more], start_epoch=at[0])
    assert more.seen == ids.seen[at[0]*25 + at[1] + 1:]
    assert np.allclose(table(whole), table(rest))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), rest.model.state_dict().values()))


def test_states_of_others_are_refused():
    a = learner()
    fit(a, 2, StopAt(0, 3), MixtureScheduler(by_loss='equal'))
    with pytest.raises(ValueError, match='not the state of a MixtureScheduler'): MixtureScheduler(by_loss='equal').load_state_dict({})
    with pytest.raises(ValueError, match='a mixture by_loss, but this one is mix'): MixtureScheduler(mix=lambda e: 'equal').load_state_dict(a.saved['mix'])
    cb = MixtureScheduler(by_loss='equal')
    cb.load_state_dict({**a.saved['mix'], 'names': ['x']})
    with pytest.raises(ValueError, match='about 1 other datasets'): fit(a, 1, cb)


def test_wrong_settings():
    for kw in (dict(), dict(temperature=SchedLin(2, 1), mix=lambda e: 'equal')):
        with pytest.raises(ValueError, match='Give exactly one of'): MixtureScheduler(**kw)
    with pytest.raises(ValueError, match='floor is from 0 to 1'): MixtureScheduler(by_loss='equal', floor=2)
    with pytest.raises(TypeError, match='a mix that stays|mix is a function'): MixtureScheduler(mix='equal')
    with pytest.raises(ValueError, match='did not change by a schedule'): learner().mixture
    with pytest.raises(ValueError, match="Dataset 'd2' \\(2\\) has a share of the mix but no rows"): fit(learner(), 1, MixtureScheduler(mix=lambda e: [1, 1, 1, 1]))


@pytest.mark.parametrize('n', [1, 3, 12, 41, 10_000])
def test_pictures(n):
    import matplotlib.pyplot as plt
    learn, rng = learner(), np.random.default_rng(0)
    h = DatasetHistory(['loss', 'accuracy'], [f'd{k}' for k in range(n)], lower=['loss'])
    for e in range(3):
        v = rng.random((2, n))
        if n > 3: v[:, 1] = np.nan
        h.records.append((e, 'valid', {'dataset': Scores(np.full(n, 9), v, v - .1, v + .1)}))
    learn._dataset_history = h
    for metric in ('loss', 'accuracy'):
        ax = learn.plot_datasets(metric)
        dots = ax.collections[-1].get_offsets()
        assert len(dots) == n - (n > 3) and (np.diff(dots[:, 0 if len(dots) <= 40 else 1]) >= 0).all() == (metric == 'accuracy' or n == 1)
        ax.figure.canvas.draw()
        learn.plot_dataset_history(metric).figure.canvas.draw()
    p = rng.random((3, n))
    learn._mixtures = [(e, r/r.sum(), r) for e, r in enumerate(p)]
    learn.dls.train.dataset.names = [f'd{k}' for k in range(n)]
    learn.plot_mixture().figure.canvas.draw()
    plt.close('all')
