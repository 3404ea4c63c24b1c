"Scores by dataset: whatever the loader does, each dataset gets the score of its own rows."
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import AvgMetric, Learner, Metric
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat, MSELossFlat
from fastai.metrics import AccumMetric, BalancedAccuracy, F1Score, Perplexity, RocAucBinary, accuracy, error_rate, mae, mse, rmse, skm_to_fastai
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef, roc_auc_score
from torch import nn

from tsmeta.train.callbacks import RowSums, intervals, row_losses
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.data.dataset import TSMetaDataset
import tsmeta.train.plots
from tsmeta.train.callbacks import DatasetHistory, Scores
from tsmeta.train.metrics import DatasetMetrics

LENS = [40, 0, 61, 1, 25]
INFO = pd.DataFrame({'person': ['Ann', 'Ann', 'Bob', 'Cem', None], 'site': [1, 1, 2, 2, 2]})


def classes(seed=0, c=3):
    rng = np.random.default_rng(seed)
    return TSMetaDataset({f'd{d}': (rng.normal(size=(n, 2, 4)).astype(np.float32), rng.integers(0, c, n)) for d, n in enumerate(LENS)},
                         vocab=list(range(c)), info=INFO)


def numbers(seed=0):
    rng = np.random.default_rng(seed)
    return TSMetaDataset({f'd{d}': (rng.normal(size=(n, 2, 4)).astype(np.float32), rng.normal(size=n)) for d, n in enumerate(LENS)}, info=INFO)


def learner(meta, c=3, bs=16, loss_func=None, parts=None, metrics=None, **kwargs):
    torch.manual_seed(1)
    n = len(meta)
    dls = TSMetaDatasets(meta, parts or [range(0, n, 2), range(n)], leak='allow').dataloaders(bs=bs, seed=3, **kwargs)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(8, c)), loss_func=loss_func, metrics=metrics, lr=.01)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    return learn


def fit(learn, *cbs, epochs=1):
    with learn.no_logging(): learn.fit(epochs, cbs=list(cbs))
    found = learn.dataset_metrics
    found.attrs['columns'] = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1]))
    return found


def truth(learn, func):
    "The value of a metric for each dataset with rows, computed from get_preds."
    p, y = learn.get_preds(act=lambda o: o)
    ds = learn.dls.valid.dataset.mapping[:, 0]
    return {int(d): float(func(p[ds == d], y[ds == d])) for d in np.unique(ds)}


def of(table, metric, by='dataset', part='valid'):
    t = table[(table.metric == metric) & (table.by == by) & (table.part == part) & (table.epoch == table.epoch.max())]
    return dict(zip(t.dataset if by == 'dataset' else t.name, t.value))


def same(a, b):
    assert a.keys() == b.keys() and all(np.isclose(a[k], b[k], 1e-4, 1e-6, equal_nan=True) for k in a), (a, b)


@pytest.mark.parametrize('how', ['plain', 'workers', 'shuffled', 'weighted'])
def test_any_loader(how):
    more = dict(plain={}, workers=dict(num_workers=2), shuffled={}, weighted=dict(weights=np.linspace(.1, 1, 64)))[how]
    learn = learner(classes(), **more)
    if how == 'shuffled': learn.dls.loaders[1] = learn.dls.valid.new(shuffle=True, seed=8)
    t = fit(learn, DatasetMetrics(accuracy, error_rate, F1Score(average='macro'), train=True), epochs=2)
    learn.dls.loaders[1] = learn.dls.valid.new(shuffle=False)
    same(of(t, 'accuracy'), truth(learn, accuracy))
    same(of(t, 'error_rate'), truth(learn, error_rate))
    same(of(t, 'loss'), truth(learn, nn.functional.cross_entropy))
    same(of(t, 'f1_score'), truth(learn, lambda p, y: f1_score(y, p.argmax(1), average='macro')))
    assert t[(t.metric == 'loss') & (t.by == 'dataset') & (t.part == 'valid')].groupby('epoch').rows.sum().tolist() == [127, 127]
    assert t[(t.metric == 'loss') & (t.by == 'dataset') & (t.part == 'train')].groupby('epoch').rows.sum().tolist() == [64, 64]
    assert set(t.dataset) == {0, 2, 3, 4}


def test_training_rows_are_those_drawn():
    learn = learner(classes(), weights=np.r_[np.ones(20), np.zeros(44)])
    t = fit(learn, DatasetMetrics(accuracy, train=True))
    assert dict(t[(t.part == 'train') & (t.metric == 'loss')][['dataset', 'rows']].to_numpy().tolist()) == {0: 64}


def test_groups_and_columns():
    learn = learner(classes(), metrics=accuracy)
    t = fit(learn, DatasetMetrics('loss', accuracy, BalancedAccuracy(), groups=['person', 'site'], watch=['d2', 'Ann']), epochs=2)
    rec, names = t.attrs['columns'], learn.recorder.metric_names
    p, y = learn.get_preds(act=lambda o: o)
    ds = learn.dls.valid.dataset.mapping[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        balanced = {k: balanced_accuracy_score(y[on], p[on].argmax(1)) for k, on in [('1', ds < 2), ('2', ds >= 2)]}
    same(of(t, 'balanced_accuracy_score', 'site'), balanced)
    same(of(t, 'accuracy', 'person'), {k: float(accuracy(p[ds == d], y[ds == d])) for k, d in [('Ann', 0), ('Bob', 2), ('Cem', 3)]})
    acc = truth(learn, accuracy)
    assert np.isclose(rec['accuracy_mean'], np.mean(list(acc.values()))) and np.isclose(rec['accuracy_worst'], min(acc.values()))
    assert np.isclose(rec['accuracy_weighted'], rec['accuracy']) and np.isclose(rec['loss_weighted'], rec['valid_loss'], 1e-4)
    assert np.isclose(rec['loss_worst'], max(truth(learn, nn.functional.cross_entropy).values()), 1e-4)
    assert np.isclose(rec['accuracy/d2'], acc[2]) and np.isclose(rec['accuracy/Ann'], acc[0])
    assert np.isclose(rec['accuracy_worst_person'], min(of(t, 'accuracy', 'person').values()))
    assert len(names) == len(rec) + 2 and names[-1] == 'time'


def test_validate_scores_too():
    learn = learner(classes(), metrics=accuracy)
    for epochs in (0, 1):
        if epochs: fit(learn, DatasetMetrics(), epochs=1)
        record = learn.validate(cbs=DatasetMetrics('loss', accuracy))
        t = learn.dataset_metrics
        same(of(t, 'accuracy'), truth(learn, accuracy))
        assert len(record) == 2 + 6 and np.isclose(record[-1], record[1]) and [m.name for m in learn.metrics] == ['accuracy']


def test_few_rows_can_be_left_out_of_the_columns():
    learn = learner(classes())
    t = fit(learn, DatasetMetrics(accuracy, min_rows=25))
    rec = t.attrs['columns']
    assert np.isclose(rec['accuracy_mean'], np.mean([of(t, 'accuracy')[d] for d in (0, 2, 4)])) and 3 in of(t, 'accuracy')


def test_any_kind_of_metric():
    class Hits(Metric):
        def reset(self): self.n = 0
        def accumulate(self, learn): self.n += int((learn.pred.argmax(1) == learn.yb[0]).sum())
        @property
        def value(self): return self.n
    class Item: __name__ = 'item'; __call__ = lambda self, p, y: float((p.argmax(1) == y).float().mean())
    learn = learner(classes())
    mcc = skm_to_fastai(matthews_corrcoef)
    t = fit(learn, DatasetMetrics(Hits(), AvgMetric(accuracy), Item(), Perplexity(), mcc, AccumMetric(lambda p, y: (p.argmax(1) - y).float().std(), name='std', flatten=False)))
    same(of(t, 'hits'), {d: v for d, v in truth(learn, lambda p, y: (p.argmax(1) == y).sum()).items()})
    same(of(t, 'item'), of(t, 'accuracy'))
    same(of(t, 'matthews_corrcoef'), truth(learn, lambda p, y: matthews_corrcoef(y, p.argmax(1))))
    same(of(t, 'std'), truth(learn, lambda p, y: (p.argmax(1) - y).float().std()))
    same(of(t, 'perplexity'), truth(learn, lambda p, y: nn.functional.cross_entropy(p, y).exp()))


def test_a_metric_without_meaning_is_nan():
    learn = learner(classes(c=2), 2)
    t = fit(learn, DatasetMetrics(RocAucBinary()))
    got = of(t, 'roc_auc_score')
    p, y = learn.get_preds(act=lambda o: o.softmax(1)[:, 1])
    ds = learn.dls.valid.dataset.mapping[:, 0]
    same(got, {d: roc_auc_score(y[ds == d], p[ds == d]) if len(np.unique(y[ds == d])) > 1 else np.nan for d in np.unique(ds)})
    assert np.isnan(got[3]) and np.isfinite(t.attrs['columns']['roc_auc_score_worst'])


@pytest.mark.parametrize('loss', [None, nn.MSELoss(), nn.L1Loss(), nn.functional.mse_loss, lambda p, y: (p.squeeze() - y).pow(2).mean()])
def test_numbers(loss):
    learn = learner(numbers(), 1, loss_func=loss)
    t = fit(learn, DatasetMetrics(mae, rmse, mse))
    flat = lambda f: lambda p, y: f(p.flatten(), y)
    same(of(t, 'mae'), truth(learn, mae)); same(of(t, 'mse'), truth(learn, mse))
    same(of(t, '_rmse'), truth(learn, lambda p, y: mse(p, y)**.5))
    same(of(t, 'loss'), truth(learn, flat(nn.functional.l1_loss if isinstance(loss, nn.L1Loss) else nn.functional.mse_loss)))
    assert np.isclose(t.attrs['columns']['mae_worst'], max(of(t, 'mae').values()))


@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), LabelSmoothingCrossEntropyFlat(), nn.CrossEntropyLoss(), nn.functional.cross_entropy])
def test_losses_of_rows_average_to_the_loss(loss):
    p, y = torch.randn(9, 4), torch.randint(0, 4, (9,))
    assert row_losses(loss, p, y).shape == (9,) and torch.isclose(row_losses(loss, p, y).mean(), loss(p, y))
    assert torch.allclose(row_losses(loss, p, y)[3], loss(p[3:4], y[3:4]))
    assert getattr(loss, 'reduction', 'mean') == 'mean'


def test_losses_of_several_targets_per_row():
    p, y = torch.randn(5, 3), torch.rand(5, 3)
    for loss in (MSELossFlat(), nn.MSELoss(), BCEWithLogitsLossFlat()):
        assert torch.allclose(row_losses(loss, p, y), torch.stack([loss(p[k:k+1], y[k:k+1]) for k in range(5)]))
    steps, codes = torch.randn(5, 3, 7), torch.randint(0, 3, (5, 7))
    for loss in (CrossEntropyLossFlat(axis=1), nn.CrossEntropyLoss()):
        assert torch.allclose(row_losses(loss, steps, codes), torch.stack([loss(steps[k:k+1], codes[k:k+1]) for k in range(5)]))
    assert row_losses(MSELossFlat(), p[:1], y[:1]).shape == (1,) and row_losses(nn.CrossEntropyLoss(), p[:0], torch.zeros(0).long()).shape == (0,)


def test_collecting_changes_nothing():
    meta = classes()
    rng = np.random.default_rng(0)
    ids, p, y = rng.permutation(127), torch.randn(127, 3), torch.randint(0, 3, (127,))
    found = []
    for collect in (1, 100, 1 << 20):
        s = RowSums(dict(v=lambda p, y: p[:, 0]), meta.index, collect)
        for k in range(0, 127, 10): s.add(ids[k:k+10], p[k:k+10], y[k:k+10])
        found.append(s.totals())
    for f in found[1:]: assert all(np.allclose(a, b) for a, b in zip(f[:3], found[0][:3])) and (f[0] == found[0][0]).all()
    assert np.allclose(found[0][1][0], [p[meta.index.locate(ids)[0] == d, 0].sum() for d in range(5)])


def test_intervals_cover():
    rng = np.random.default_rng(0)
    n, p = np.full(4000, 30), .8
    k = rng.binomial(30, p, 4000).astype(float)
    mean, low, high = intervals(n, k, k, True)
    assert .92 < ((low <= p) & (p <= high)).mean() < .98 and (low >= 0).all() and (high <= 1).all()
    x = rng.normal(3, 2, (4000, 30))
    mean, low, high = intervals(n, x.sum(1), (x*x).sum(1), False)
    assert .92 < ((low <= 3) & (3 <= high)).mean() < .96
    assert np.isnan(intervals(np.array([0, 1]), np.zeros(2), np.zeros(2), False)[1]).all()


def test_wrong_questions():
    learn = learner(classes())
    with pytest.raises(ValueError, match='No dataset was scored yet'): learn.dataset_metrics
    for cb, error, text in [(DatasetMetrics(accuracy, accuracy), ValueError, 'same name'), (DatasetMetrics('losses'), ValueError, "only metric known by name"),
                            (DatasetMetrics(groups='town'), ValueError, "has \\['person', 'site'\\]"), (DatasetMetrics(watch='d9'), ValueError, 'no dataset')]:
        with pytest.raises(error, match=text): fit(learn, cb)
    sly = lambda p, y: (p.argmax(1) == y).float().max()
    class Odd: __name__ = 'odd'; __call__ = lambda self, p, y: (p.argmax(1)*0 + 1).float().mean() if len(p) != 127 else (p*0).mean()
    with pytest.raises(ValueError, match='Wrap it: AccumMetric\\(odd'): fit(learner(classes()), DatasetMetrics(Odd()))
    t = fit(learner(classes()), DatasetMetrics(AvgMetric(sly)))
    assert len(t)
    bad = learner(classes())
    bad.dls.loaders[1] = torch.utils.data.DataLoader([(torch.zeros(2, 4), 0)]*4)
    with pytest.raises(TypeError, match='needs loaders that know'): fit(bad, DatasetMetrics())
    class Pair(nn.Linear):
        def forward(self, x): return super().forward(x.flatten(1)), x
    pair = learner(classes(), loss_func=lambda p, y: p[0].mean())
    pair.model = Pair(8, 3)
    with pytest.raises(TypeError, match='answers with one tensor'): fit(pair, DatasetMetrics())


def test_a_failed_training_leaves_no_columns_behind():
    learn = learner(classes(), metrics=accuracy)
    class Stop(DatasetMetrics):
        def after_train(self): raise RuntimeError('stop')
    with pytest.raises(RuntimeError): fit(learn, Stop())
    fit(learn, DatasetMetrics())
    assert learn.recorder.metric_names == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'accuracy_mean', 'accuracy_worst', 'accuracy_weighted', 'time']
    assert [m.name for m in learn.metrics] == ['accuracy']


def test_history_stays_when_exported(tmp_path):
    from fastai.learner import load_learner
    meta = TSMetaDataset([(np.zeros((4, 1, 4), np.float32), np.arange(4) % 2) for _ in range(2000)])
    learn = Learner(TSMetaDatasets(meta, [range(8000), range(8000)], leak='allow').dataloaders(bs=512), nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),
                    cbs=DatasetMetrics(accuracy), path=tmp_path)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    assert len(fit(learn, epochs=2)) == 8000
    learn.export('l.pkl')
    assert (tmp_path/'l.pkl').stat().st_size < 60_000 and len(learn.dataset_metrics) == 8000
    with pytest.raises(ValueError, match='No dataset was scored yet'): load_learner(tmp_path/'l.pkl').dataset_metrics


@pytest.mark.parametrize('n', [2, 10, 10_000])
def test_pictures(n):
    learn = learner(classes())
    learn._dataset_history = h = DatasetHistory(['loss', 'accuracy'], [f'shop {d}' for d in range(n)], lower=['loss'])
    v = np.random.default_rng(0).beta(8, 2, (3, 2, n))
    v[2, 1, 0], v[:, :, 1] = .01, np.nan if n > 2 else .5
    h.records += [(e, 'valid', {'dataset': Scores(np.full(n, 9), v[e], v[e] - .1, v[e] + .1)}) for e in range(3)]
    ax = learn.plot_datasets()
    said = ' '.join(t.get_text() for t in [*ax.get_yticklabels(), *ax.texts])
    assert '0.01 at worst' in ax.get_title('left') and 'shop 0 ' in said and len(ax.collections[-1].get_offsets()) == n - (n > 2)
    assert len(learn.plot_dataset_history('loss').lines) == (n if n == 2 else n - 1 if n == 10 else 2) + 1
    plt.close('all')
