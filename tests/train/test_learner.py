"predict_table and what is made of it: every line has to be about the row it names, whatever the loader did."
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from fasttransform import Transform
from torch import nn

import tsmeta.data.open
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.train.predict import score_by
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.data.ids import series_type
from tsmeta.train.plots import plot_confusion, plot_confusions, plot_row, plot_scores, plot_worst, worst_rows


class First(nn.Module):
    "Gives back the first number of each row, which says where the row is from."
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.zeros(1))
    def forward(self, x): return x[:, 0, :1] + self.w


class Classes(nn.Module):
    "Is sure of the class that the first number of each row names."
    def __init__(self, c): super().__init__(); self.c, self.w = c, nn.Parameter(torch.zeros(1))
    def forward(self, x): return 3.*torch.nn.functional.one_hot(x[:, 0, 0].long() % self.c, self.c) + self.w


LENS = [7, 0, 31, 1, 20]


def tell(ds, row): return 100*np.asarray(ds) + np.asarray(row)


def numbered(y=True, **kwargs):
    "Five datasets, one of them empty, whose rows hold 100 times their dataset plus their row; so do the targets, plus a half."
    X = {f'd{d}': np.broadcast_to(tell(d, np.arange(n))[:, None, None], (n, 2, 4)).astype(np.float32) for d, n in enumerate(LENS)}
    return TSMetaDataset({k: (x, x[:, 0, 0] + .5) if y else x for k, x in X.items()}, **kwargs)


def learner(meta, splits=None, model=None, bs=8, **kwargs):
    splits = splits or [range(0, len(meta), 2), range(1, len(meta), 2)]
    learn = Learner(TSMetaDatasets(meta, splits, leak='allow').dataloaders(bs=bs, seed=3), model or First(), **kwargs)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    return learn


def right(table, n):
    assert len(table) == n and np.array_equal(table.prediction, tell(table.dataset, table.row))
    assert np.array_equal(table.target, table.prediction + .5) and np.allclose(table.loss, .25)
    assert table.name.tolist() == [f'd{d}' for d in table.dataset]
    return table


@pytest.mark.parametrize('workers', [0, 1, 2])
def test_every_line_is_about_its_row(workers):
    meta = numbered()
    learn = learner(meta)
    assert right(learn.predict_table(num_workers=workers), 29)[['dataset', 'row']].to_numpy().tolist() == meta.mapping[1::2].tolist()
    assert right(learn.predict_table(ds_idx=0, num_workers=workers), 30)[['dataset', 'row']].to_numpy().tolist() == meta.mapping[::2].tolist()
    shuffled = learn.dls.valid.new(shuffle=True, seed=9)
    got = right(learn.predict_table(dl=shuffled, num_workers=workers), 29)
    ids = np.concatenate([shuffled.ids.copy() for _ in shuffled])
    assert np.array_equal(meta.index.ids(got.dataset, got.row), ids) and not (np.diff(ids) > 0).all()


def test_a_training_loader_is_whole_and_stays_as_it_is():
    learn = learner(numbered())
    dl = learn.dls.train
    assert dl.plan.dropped and len(list(dl)) == 3
    before = dl.epoch, dl.ids.copy(), dl.seed
    right(learn.predict_table(dl=dl), 30)
    assert dl.epoch == before[0] and np.array_equal(dl.ids, before[1]) and dl.seed == before[2]
    got = learn.predict_table(dl=dl)
    coming = np.concatenate([dl.ids.copy() for _ in dl])
    ids = dl.dataset.index.ids(got.dataset, got.row)
    assert np.array_equal(ids[:len(coming)], coming) and len(np.unique(ids)) == 30


def test_unseeded_training_is_not_disturbed():
    meta, orders = numbered(), []
    for look in (False, True):
        torch.manual_seed(0)
        learn = Learner(TSMetaDatasets(meta, [range(59), range(9)], leak='allow').dataloaders(bs=8), First())
        learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
        first = [learn.dls.train.ids.tolist() for _ in learn.dls.train]
        if look: learn.predict_table(dl=learn.dls.train), learn.predict_table(num_workers=1), learn.predict_table(ds_idx=0)
        orders.append([first] + [learn.dls.train.ids.tolist() for _ in learn.dls.train] + [torch.rand(1).item()])
    assert orders[0] == orders[1]


def test_rows_in_any_order_and_more_than_once():
    meta = numbered()
    ids = np.array([58, 3, 3, 0, 40, 7, 7, 7, 12])
    got = right(learner(meta, [range(20), ids]).predict_table(bs=4), 9)
    assert np.array_equal(meta.index.ids(got.dataset, got.row), ids)


def test_new_data():
    learn = learner(numbered())
    new = numbered()
    right(learn.predict_table(data=new), 59)
    right(learn.predict_table(data=new.subset([40, 2, 50])), 3)
    bare = learn.predict_table(data=numbered(y=False))
    assert 'target' not in bare and 'loss' not in bare and np.array_equal(bare.prediction, tell(bare.dataset, bare.row))
    X = np.arange(5, dtype=np.float32)[:, None, None]*np.ones((1, 2, 4), np.float32)
    for data in (X, (X, np.arange(5) + .5)):
        got = learn.predict_table(data=data)
        assert got.prediction.tolist() == [0, 1, 2, 3, 4] and ('target' in got) == isinstance(data, tuple)
    none = learn.predict_table(data=new.subset([]))
    assert len(none) == 0 and {'dataset', 'name', 'row', 'target', 'prediction'} <= set(none)


def test_windows_know_their_steps_and_info_travels():
    recs = {k: np.arange(n, dtype=np.float32)[None] + 1000*i for i, (k, n) in enumerate([('a', 95), ('b', 9), ('c', 60)])}
    info = pd.DataFrame({'person': ['Ann', 'Bob', 'Cem'], 'target': [1, 2, 3], 'loss': 'x', 'name': 'y'})
    meta = TSMetaDataset.from_recordings(recs, 10, 7, y=[1., 2., 3.], info=info)
    learn = learner(meta)
    t = learn.predict_table(dl=learn.dls.valid.new(shuffle=True, seed=2))
    assert np.array_equal(t.prediction, t.start + 1000*t.dataset) and (t.end == t.start + 10).all() and (t.start == 7*t.row).all()
    assert t.person.tolist() == [{0: 'Ann', 2: 'Cem'}[d] for d in t.dataset] and np.array_equal(t.info_target, t.dataset + 1)
    assert np.array_equal(t.target, t.dataset + 1.) and list(t)[:7] == ['dataset', 'name', 'row', 'start', 'end', 'person', 'info_target']


@pytest.mark.parametrize('labels', [['x', 'y', 'z'], [3, 5, 9], [.5, 1.5, 2.5]])
def test_labels_come_back_as_they_were(labels):
    X = np.arange(30, dtype=np.float32)[:, None, None]*np.ones((1, 1, 4), np.float32)
    y = np.array(labels)[np.arange(30) % 3]
    wrong = y.copy()
    wrong[7] = labels[0]
    meta = TSMetaDataset({'a': (X[:10], wrong[:10]), 'b': (X[10:], wrong[10:])}, vocab=labels)
    for loss in (None, nn.CrossEntropyLoss()):
        t = learner(meta, [range(30)]*2, Classes(3), loss_func=loss or CrossEntropyLossFlat()).predict_table(probs=True)
        assert list(t.prediction) == list(y) and list(t.target) == list(wrong)
        p = np.exp(3)/(np.exp(3) + 2)
        assert np.allclose(t.probability, p) and np.allclose(t[[f'p_{v}' for v in labels]].sum(1), 1)
        assert np.allclose(t.loss.drop(7), -np.log(p)) and np.isclose(t.loss[7], 3 - np.log(p))
        assert score_by(t).name.tolist() == ['a', 'b'] and score_by(t).accuracy.tolist() == [.9, 1.]
        assert score_by(t).mistaken_for[0] == labels[1] and pd.isna(score_by(t).mistaken_for[1])


def test_the_vocabulary_of_the_learner_counts():
    X = np.zeros((4, 1, 4), np.float32)
    X[:, 0, 0] = [0, 1, 2, 2]
    learn = learner(TSMetaDataset((X, list('abcc'))), [range(4), range(4)], Classes(3))
    other = TSMetaDataset((X[2:], list('cb')))
    t = learn.predict_table(data=other)
    assert list(t.prediction) == ['c', 'c'] and list(t.target) == ['c', 'b']
    t = learn.predict_table(dl=TSMetaDataLoader(other))
    assert list(t.prediction) == ['c', 'c'] and list(t.target) == ['c', 'b']
    unlabelled = learn.predict_table(dl=TSMetaDataLoader(TSMetaDataset(X[:2])))
    assert list(unlabelled.prediction) == ['a', 'b']
    with pytest.raises(ValueError, match='unknown label'): learn.predict_table(data=(X[:2], list('az')))
    short = learner(TSMetaDataset((X, list('abcc'))), [range(4), range(4)], Classes(2))
    with pytest.raises(ValueError, match='gives 2 numbers per row, but there are 3 labels'): short.predict_table()


def test_several_labels_per_row():
    X = np.zeros((6, 1, 4), np.float32)
    X[:, 0, :3] = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]]
    class Multi(First):
        def forward(self, x): return 8*x[:, 0, :3] - 4 + self.w
    y = [['a'], ['a', 'b'], [], ['a', 'b', 'c'], ['c'], ['c']]
    meta = TSMetaDataset((X, y))
    t = learner(meta, [range(6)]*2, Multi(), loss_func=BCEWithLogitsLossFlat()).predict_table(probs=True)
    assert list(t.target) == [tuple(o) for o in y] and list(t.prediction) == [*map(tuple, y[:4]), ('b',), ('c',)]
    assert np.allclose(t.probability, 1/(1 + np.exp(-4))) and t[['p_a', 'p_b', 'p_c']].shape == (6, 3)
    assert np.isclose(score_by(t).accuracy[0], 5/6) and t.loss.argmax() == 4


def test_several_numbers_per_row():
    X = np.random.default_rng(0).normal(size=(12, 1, 4)).astype(np.float32)
    class Two(First):
        def forward(self, x): return x[:, 0, :2] + self.w
    t = learner(TSMetaDataset({'a': (X[:6], X[:6, 0, :2] + 1), 'b': (X[6:], X[6:, 0, :2] + 2)}), [range(12)]*2, Two()).predict_table()
    assert np.allclose(np.stack(t.prediction), X[:, 0, :2]) and np.allclose(t.loss, [1]*6 + [4]*6)
    s = score_by(t)
    assert s.name.tolist() == ['b', 'a'] and np.allclose(s.mae, [2, 1])


def test_augmentation_stays_in_training():
    x_type = series_type()
    class Shift(Transform):
        split_idx = 0
        def encodes(self, x: x_type): return x + 1000
    meta = numbered()
    dls = TSMetaDatasets(meta, [range(59), range(59)], leak='allow').dataloaders(bs=8, seed=0, batch_tfms=[Shift()])
    learn = Learner(dls, First())
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    for kw in (dict(ds_idx=0), dict(dl=dls.train), dict()): right(learn.predict_table(**kw), 59)
    assert dls.train.one_batch()[0].min() >= 1000 and dls.train.dataset.split_idx == 0


def test_loaders_that_do_not_know_their_rows():
    dl = torch.utils.data.DataLoader([(torch.zeros(2, 4), 0.)]*4)
    learn = Learner(DataLoaders(dl, dl), First(), loss_func=MSELossFlat())
    for kw in (dict(), dict(dl=dl), dict(data=np.zeros((1, 2, 4)))):
        with pytest.raises(TypeError, match='Only a TSMetaDataLoader or a TSStreamLoader knows'): learn.predict_table(**kw)
    dls = DataLoaders(dl, dl)
    dls._device = torch.device('cpu')
    learn = Learner(dls, First(), loss_func=MSELossFlat())
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    right(learn.predict_table(dl=TSMetaDataLoader(numbered())), 59)


FRESH = '''
import sys
sys.modules['tsai'] = None
import numpy as np
from fastai.learner import load_learner
from tsmeta.train.predict import *
from tsmeta.data.dataset import TSMetaDataset
learn = load_learner(sys.argv[1])
X = np.arange(6, dtype=np.float32)[:, None, None]*np.ones((1, 1, 4), np.float32)
with learn.no_bar(): print(*learn.predict_table(data=TSMetaDataset({'p': X[:2], 'q': X[2:]}))[['name', 'row', 'prediction']].to_numpy().ravel())
'''


def test_loaded_in_a_fresh_process_without_tsai(tmp_path):
    X = np.arange(30, dtype=np.float32)[:, None, None]*np.ones((1, 1, 4), np.float32)
    dls = TSMetaDatasets(TSMetaDataset((X, np.array(list('xyz'))[np.arange(30) % 3])), [range(20), range(20, 30)]).dataloaders(bs=4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with torch.no_grad(): model[1].weight.zero_(), model[1].bias.copy_(torch.tensor([0., 0., 1.]))
    Learner(dls, model, path=tmp_path).export('l.pkl')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', FRESH, str(tmp_path/'l.pkl')], capture_output=True, text=True)
    assert done.stdout.split() == 'p 0 z p 1 z q 0 z q 1 z q 2 z q 3 z'.split(), done.stderr


def made_up(n, per=20, seed=0):
    rng = np.random.default_rng(seed)
    ds = np.repeat(np.arange(n), per)
    y = rng.choice(['a', 'b', 'c'], n*per)
    p = np.where(rng.random(n*per) < np.repeat(rng.uniform(.2, 1, n), per), y, rng.choice(['a', 'b', 'c'], n*per))
    return pd.DataFrame(dict(dataset=ds, name=[f'n{d}' for d in ds], row=np.tile(np.arange(per), n), town=np.array(['O', 'R'])[ds % 2], target=y, prediction=p,
                             probability=rng.random(n*per), loss=rng.random(n*per)))


def test_scores_agree_with_counting():
    t = made_up(40)
    s = score_by(t)
    assert (np.diff(s.accuracy) >= 0).all() and len(s) == 40 and s.rows.sum() == len(t)
    for _, r in s.iterrows():
        mine = t[t.dataset == r.dataset]
        wrong = mine[mine.target != mine.prediction].prediction.value_counts()
        assert np.isclose(r.accuracy, (mine.target == mine.prediction).mean()) and np.isclose(r.loss, mine.loss.mean()) and r.town == mine.town.iloc[0]
        assert wrong[r.mistaken_for] == wrong.max() if len(wrong) else pd.isna(r.mistaken_for)
    assert list(score_by(t, ['town', 'target']).columns[:2]) == ['town', 'target'] and len(score_by(t, 'town')) == 2
    assert score_by(t.sample(frac=1, random_state=0)).dataset.tolist()[:5] == s.dataset.tolist()[:5]


def test_pictures_for_few_and_many():
    import matplotlib.pyplot as plt
    for n in (1, 2, 42, 10_000):
        ax = plot_scores(score_by(made_up(n, 3)), 'town')
        assert sum(len(c.get_offsets()) for c in ax.collections if hasattr(c, 'get_offsets') and c.get_label()[0] != '_') == n
        ax.figure.canvas.draw()
    plot_confusion(made_up(5))
    meta = numbered()
    t = made_up(3, 1).assign(dataset=[0, 2, 4], row=0)
    assert len(plot_worst(t, meta, 2).axes) == 2
    assert [a.get_title('left') for a in [plot_row(t.iloc[1], meta)]] == ['n1, row 0']
    plt.close('all')


def test_worst_rows_without_a_loss_are_the_surest_mistakes():
    t = made_up(6).drop(columns='loss')
    worst = worst_rows(t, 4, each=2)
    assert (worst.target != worst.prediction).all() and (np.diff(worst.probability) <= 0).all() and worst.dataset.value_counts().max() <= 2


def test_models_that_answer_otherwise_are_refused():
    class Pair(First):
        def forward(self, x): return x[:, 0, :1] + self.w, x
    with pytest.raises(TypeError, match='answers with one tensor, this one gives a tuple'): learner(numbered(), model=Pair()).predict_table()


@pytest.mark.parametrize('loss', [nn.MSELoss(), nn.functional.mse_loss, lambda p, y: (p[:, 0] - y).pow(2).mean(), MSELossFlat()])
def test_the_loss_of_a_row_is_its_own(loss):
    "A plain loss would compare outputs (n, 1) with targets (n,) each with each."
    assert right(learner(numbered(), loss_func=loss).predict_table(), 29).loss.max() < .26


def test_confusions_of_the_worst_groups():
    import matplotlib.pyplot as plt
    t = made_up(9)
    fig = plot_confusions(t, n=4)
    assert [a.get_title('left') for a in fig.axes if a.images] == [f'{r["name"]}: {r.accuracy:.0%} of 20' for _, r in score_by(t).head(4).iterrows()]
    assert [tuple(o.get_text() for o in a.get_xticklabels()) for a in fig.axes if a.images] == [(), *[('a', 'b', 'c')]*3]
    assert len([a for a in plot_confusions(t, 'town').axes if a.images]) == 2
    with pytest.raises(ValueError, match='needs targets that are labels'): plot_confusions(t.drop(columns='target'))
    plt.close('all')


def test_windows_of_a_store_are_drawn_in_their_recording(tmp_path):
    rec = {f'r{k}': np.sin(np.arange(90)/5 + k)[None].astype(np.float32) for k in range(3)}
    meta = TSMetaDataset.from_recordings(rec, 30, 15, y=['a', 'b', 'a'])
    meta.pack(tmp_path/'store')
    packed = TSMetaDataset.open(tmp_path/'store')
    for m in (meta, packed):
        table = m.where(np.arange(len(m))).assign(target='a', prediction='b', probability=.9, loss=np.arange(len(m)))
        fig = plot_worst(table, m, 1)
        grey, window = fig.axes[0].lines
        assert len(grey.get_xdata()) == 90 and window.get_xdata().tolist() == list(range(60, 90))
        np.testing.assert_allclose(window.get_ydata(), rec['r2'][0, 60:], rtol=1e-6)
        plt.close(fig)
