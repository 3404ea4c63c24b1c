"Everything tsai and fastai ask of loaders, each with real training steps over tsmeta's loaders."
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

matplotlib.use('agg')
pytest.importorskip('tsai')
import matplotlib.pyplot as plt
import tsai.callback.core as tsai_core
import tsai.callback.PredictionDynamics as tsai_dynamics
import fastai.callback.all
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import SchedLin
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy, rmse
from fastai.tabular.core import Categorify
import tsai.analysis
from tsai.callback.core import BatchSubsampler, ShowGraph, TransformScheduler, WeightedPerSampleLoss
from tsai.callback.experimental import BatchLossFilter, SamplerWithReplacement, UBDAug
from tsai.callback.MVP import MVP
from tsai.callback.noisy_student import NoisyStudent
from tsai.callback.PredictionDynamics import PredictionDynamics
from tsai.data.core import TSMultiLabelClassification, get_subset_dl
from tsai.data.mixed import get_mixed_dls
from tsai.data.mixed_augmentation import CutMix1d, IntraClassCutMix1d, MixUp1d
from tsai.data.preprocessing import TSStandardize
from tsai.data.tabular import get_tabular_dls
from tsai.data.transforms import TSMagAddNoise, TSMagScale
from tsai.learner import load_all, ts_learner
from tsmeta.data.datasets import TSMetaDatasets
import tsmeta.load.loader
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset

NAMES, SIZES = ['hip', 'knee', 'toe'], (20, 7, 33)


@pytest.fixture(autouse=True)
def tidy(monkeypatch):
    "No figures left open, no long collections of garbage, and a display that only notebooks have"
    class Shown:
        def update(self, *args): pass
    for m in (tsai_core, tsai_dynamics): monkeypatch.setattr(m, 'display', lambda *a, **k: Shown(), raising=False)
    monkeypatch.setattr('gc.collect', lambda *a: 0)
    yield
    plt.close('all')


def arrays(k=3, sizes=SIZES, seed=0):
    "Rows whose class shows in the first half of variable 0 and nowhere else"
    rng, out = np.random.default_rng(seed), {}
    for name, n in zip(NAMES, sizes):
        X, y = rng.normal(size=(n, 2, 16)).astype(np.float32), rng.integers(0, k, n)
        X[:, 0, :8] += 4*(y[:, None] - (k-1)/2)
        out[name] = X, np.array(list('abcd'))[y]
    return out


def split(k=3, seed=0):
    meta = TSMetaDataset(arrays(k))
    ids = np.random.default_rng(seed).permutation(len(meta))
    return TSMetaDatasets(meta, [ids[:40], ids[40:]])


def loaders(k=3, **kwargs): return split(k).dataloaders(**{'bs': 16, 'seed': 1, 'device': 'cpu', **kwargs})


def learner(dls, tmp_path, quiet=True, metrics=accuracy, **kwargs):
    torch.manual_seed(0)
    learn = ts_learner(dls, arch='FCN', metrics=metrics, layers=[4, 4, 4], kss=[3, 3, 3], path=tmp_path, **kwargs)
    if quiet: learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    return learn


def linear(dls, tmp_path, epochs=30):
    "A model that learns these rows in a moment"
    torch.manual_seed(0)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(32, dls.c)), metrics=accuracy, path=tmp_path)
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    learn.fit(epochs, 2e-2)
    return learn


def plain(o): return torch.as_tensor(o).as_subclass(torch.Tensor)
def labels(ds): return np.array(ds.vocab)[ds.targets()]
def titles(): return [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]


# Predictions and new data

def test_get_X_preds(tmp_path):
    learn = learner(loaders(), tmp_path)
    learn.fit_one_cycle(1)
    ds = learn.dls.valid_ds
    X, y = ds[:][0].numpy(), labels(ds)
    probas, targets, decoded, losses = learn.get_X_preds(X, y, with_loss=True, bs=8)
    learn.model.eval()
    with torch.no_grad(): by_hand = learn.model(torch.from_numpy(X)).softmax(-1)
    assert torch.allclose(plain(probas), by_hand, atol=1e-6)
    assert np.array_equal(targets, ds.targets())
    assert list(decoded) == [ds.vocab[i] for i in by_hand.argmax(-1)]
    assert torch.allclose(plain(losses), -by_hand.log()[range(len(y)), ds.targets()], atol=1e-5)
    probas, targets, decoded = learn.get_X_preds(X[:3])
    assert targets is None and len(decoded) == 3
    flipped = learn.get_X_preds(X[:4], ['c', 'a', 'c', 'a'])[1]
    assert flipped.tolist() == [2, 0, 2, 0]


def test_new_data_of_every_form(tmp_path):
    dls = loaders()
    X, y = dls.valid_ds[:5][0].numpy(), labels(dls.valid_ds)[:5]
    made = [dls.valid_ds.add_dataset(X, y), dls.valid_ds.add_test(X, y), dls.new_dl(X, y).dataset, dls.valid.new_dl(X, y).dataset,
            dls.test_dl((X, list(y)), with_labels=True).dataset, dls.test_dl(dls.valid_ds.subset(range(5))).dataset]
    for ds in made:
        assert np.array_equal(ds[:][0], X) and np.array_equal(labels(ds), y) and ds.split_idx == 1
    bare = [dls.valid_ds.add_unlabeled(X), dls.test_dl(X).dataset, dls.test_dl(list(X)).dataset, dls.new_dl(X).dataset]
    for ds in bare: assert np.array_equal(ds[:][0], X) and len(ds[:]) == 1 and ds.c == 3
    dl = dls.train.new_dl(X, y)
    assert (dl.bs, dl.shuffle, dl.drop_last, len(dl)) == (64, False, False, 1)
    learn = learner(dls, tmp_path)
    learn.fit(1)
    for what in (X, dls.valid_ds.subset(range(5))):
        assert torch.allclose(learn.get_preds(dl=dls.test_dl(what))[0], learn.get_preds()[0][:5], atol=1e-6)
    label, code, probas = learn.predict(dls.valid_ds[0][0])
    assert label == dls.vocab[int(code)] and torch.allclose(probas, learn.get_preds()[0][0], atol=1e-6)


def test_loaders_made_of_loaders(tmp_path):
    dls = loaders(weights=np.arange(60.), batch_tfms=TSStandardize())
    learn = learner(dls, tmp_path)
    learn.fit(1)
    sub = get_subset_dl(dls.train, [3, 1, 4])
    assert sub.dataset.ids().tolist() == dls.train_ds.ids()[[3, 1, 4]].tolist() and sub.weights is None
    same, smaller, plainly = dls.new(), dls.train.new(bs=8), dls.train.new(shuffle=False, drop_last=False)
    assert np.array_equal(same.weights, dls.train.weights) and list(same.after_batch.fs) == list(dls.train.after_batch.fs) and list(same.vocab) == list('abc')
    assert smaller.weights is not None and len(smaller) == 5
    assert plainly.weights is None and np.array_equal(plainly.get_idxs(), np.arange(40))
    for dl in (sub, same, smaller, plainly):
        for x, y in dl: learn.model(x)


# Pictures

def test_show_batch():
    dls = loaders()
    dls.train.show_batch(max_n=4, nrows=2, ncols=2)
    w = dls.train.where.head(4)
    want = [f'{n} · row {r}\n{arrays()[n][1][r]}' for n, r in zip(w['name'], w['row'])]
    assert titles() == want
    dls.show_batch(max_n=4, show_title=False)
    assert titles() == []
    dls.show_batch(decode=True, figsize=(4, 4))
    assert len(titles()) == 9
    b = dls.train.one_batch()
    w = dls.train.where.head(2)
    places = [f'{n} · row {r}' for n, r in zip(w['name'], w['row'])]
    dls.train.show_batch(b, max_n=2)
    assert [t.splitlines()[0] for t in titles()] == places
    next(iter(dls.train))
    dls.train.show_batch(b, max_n=2)
    assert [t.splitlines()[0] for t in titles()] == places, 'an older batch was given the places of a newer one'


def test_show_batch_of_one_row():
    dls = loaders(batch_tfms=TSMagAddNoise(.5, p=1.))
    dls.train.show_batch(unique=True, max_n=3)
    assert len(set(titles())) == 1 and len(titles()) == 3
    drawn = [ax.lines[0].get_ydata() for ax in plt.gcf().axes]
    assert not np.array_equal(drawn[0], drawn[1])
    assert dls.train.epoch == 0


def test_show_results(tmp_path):
    dls = loaders()
    learn = linear(dls, tmp_path, 1)
    learn.show_results(max_n=6)
    assert len(titles()) == 6
    for t in titles():
        place, true, predicted = t.split('\n')
        name, row = place.split(' · row ')
        assert true == f'true: {arrays()[name][1][int(row)]}' and predicted.startswith('predicted: ')
    learn.show_batch(max_n=2)
    dls.show_dist()
    assert [round(p.get_height(), 3) for p in plt.gca().patches] == [round(float(p), 3) for p in dls.class_priors]


def test_top_losses(tmp_path):
    learn = linear(loaders(), tmp_path, 2)
    ds = learn.dls.valid_ds
    X, y = ds[:][0].numpy(), labels(ds)
    losses, idxs = learn.top_losses(X, y, k=3)
    by_hand = learn.get_preds(with_loss=True)[2]
    assert idxs == by_hand.argsort(descending=True)[:3].tolist() and torch.allclose(plain(losses), plain(by_hand[idxs]))
    learn.plot_top_losses(X, y, k=3)
    interp = ClassificationInterpretation.from_learner(learn)
    interp.plot_top_losses(3)
    assert [t.split('\n')[0] for t in titles()] == ds.titles(ds.ids(idxs))
    assert [f'true: {y[i]}' in t for i, t in zip(idxs, titles())] == [True]*3
    assert interp.top_losses(3, items=True)[2] == ds.ids(idxs).tolist()
    interp.show_results(idxs)
    assert [t.split('\n')[0] for t in titles()] == ds.titles(ds.ids(idxs))


@pytest.mark.parametrize('k', [2, 3])
def test_confusion_matrix(k, tmp_path):
    learn = linear(loaders(k), tmp_path, 1)
    learn.plot_confusion_matrix()
    preds = learn.get_preds()[0].argmax(1).numpy()
    want = pd.crosstab(learn.dls.valid_ds.targets(), preds).reindex(index=range(k), columns=range(k), fill_value=0).to_numpy()
    assert [int(t.get_text()) for t in plt.gca().texts] == want.flatten().tolist()
    assert np.array_equal(ClassificationInterpretation.from_learner(learn).confusion_matrix(), want)
    learn.show_probas()


def test_importance(tmp_path):
    learn = linear(loaders(drop_last=False), tmp_path)
    change = learn.feature_importance(show_chart=False, verbose=False).set_index('Feature')
    assert change['accuracy']['BASELINE'] > .9 and change['accuracy_change']['var_0'] > .3 > abs(change['accuracy_change']['var_1'])
    change = learn.step_importance(n_steps=8, show_chart=False, verbose=False, partial_n=.9).set_index('Step')['accuracy_change']
    assert change['0 to 7'] > .3 > abs(change['8 to 15'])
    ds = learn.dls.valid_ds
    X = ds[:][0].numpy()
    ablated = learn.feature_importance(X, labels(ds), method='ablation', sel_classes=['a', 'c'], show_chart=False, verbose=False)
    assert ablated.set_index('Feature')['accuracy_change']['var_0'] > .2


# Class balance and the choice of rows

def test_cws_and_priors():
    meta = TSMetaDataset(arrays())
    order = np.argsort(meta.targets(), kind='stable')
    n = np.bincount(meta.targets())
    dls = TSMetaDatasets(meta, [order[:n[0]+n[1]], order[n[0]+n[1]:]]).dataloaders(bs=16, device='cpu')
    assert torch.allclose(dls.class_priors, torch.tensor([n[0], n[1], 0])/(n[0]+n[1])) and dls.cws[2] == 0 and len(dls.cws) == 3
    assert torch.allclose(dls.valid.class_priors, torch.tensor([0., 0, 1])) and torch.allclose(dls.cws.sum(), torch.tensor(1.))
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(32, 3)), loss_func=nn.CrossEntropyLoss(weight=dls.cws))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    bare = TSMetaDataset([np.zeros((4, 1, 3))]).dataloaders(device='cpu')
    assert bare.cws is None and bare.class_priors is None


def test_agrees_with_tsai_about_class_balance():
    from tsai.data.core import TSClassification, get_ts_dls
    dls = loaders()
    X, y = dls.train_ds[:][0].numpy(), labels(dls.train_ds)
    theirs = get_ts_dls(X, y, tfms=[None, TSClassification()], splits=(list(range(40)), list(range(5))), path='.')
    assert torch.allclose(dls.cws, theirs.cws.cpu()) and torch.allclose(dls.class_priors, theirs.class_priors.cpu(), atol=1e-6)


@pytest.mark.parametrize('workers', [0, 2])
def test_rows_by_weight(workers, tmp_path):
    mds = split()
    w = (mds.metadataset.targets() == 1) + 0.
    dls = mds.dataloaders(bs=16, seed=3, weights=w, num_workers=workers, device='cpu')
    drawn = []
    for x, y in dls.train:
        assert (y == 1).all() and np.array_equal(x.numpy(), mds.metadataset[dls.train.ids][0].numpy())
        drawn.append(dls.train.ids.tolist())
    again = mds.dataloaders(bs=16, seed=3, weights=w[mds.train.ids()], device='cpu').train
    assert drawn == [again.ids.tolist() for _ in again]
    assert dls.valid.get_idxs().tolist() == list(range(20)) and dls.valid.weights is None
    learner(dls, tmp_path).fit(1)
    with pytest.raises(ValueError, match='shuffle=True'): mds.dataloaders(weights=w, shuffle_train=False)
    with pytest.raises(ValueError, match='60 rows, 40 of them in this part'): mds.dataloaders(weights=w[:7])
    with pytest.raises(ValueError, match="row 2 of dataset 'hip'"): mds.dataloaders(weights=np.where(mds.metadataset.ids() == 2, -1., 1.))


def test_part_of_the_rows(tmp_path):
    dls = loaders(partial_n=.5, drop_last=False)
    learn = learner(dls, tmp_path)
    learn.fit(2)
    epochs = [np.concatenate([dls.train.ids for _ in dls.train]) for _ in range(2)]
    assert all(len(np.unique(e)) == len(e) == 20 for e in epochs) and set(epochs[0]) != set(epochs[1])
    assert len(learn.get_preds(ds_idx=0)[0]) == 40
    some = TSMetaDataLoader(dls.valid_ds, bs=8, partial_n=10)
    assert some.get_idxs().tolist() == list(range(0, 20, 2)) and sum(len(x) for x, _ in some) == 10


def test_stratified_batches(tmp_path):
    mds = split()
    dls = mds.dataloaders(bs=10, seed=0, stratify=True, device='cpu')
    learner(dls, tmp_path).fit(1)
    counts = [np.bincount(y, minlength=3) for _, y in dls.train]
    assert np.ptp(counts, axis=0).max() <= 1
    by_dataset = mds.dataloaders(bs=10, stratify=mds.metadataset.mapping[:, 0], device='cpu').train
    assert np.ptp([np.bincount(by_dataset.where['dataset'], minlength=3) for _ in by_dataset], axis=0).max() <= 1
    with pytest.raises(ValueError, match='one class per row'):
        TSMetaDataset((np.zeros((4, 1, 3)), [.1, .2, .3, .4])).dataloaders(stratify=True)


def test_bs_per_part_and_many_parts(tmp_path):
    meta = TSMetaDataset(arrays())
    dls = TSMetaDatasets(meta, {'train': range(30), 'valid': range(30, 45), 'test': range(45, 55), 'late': range(55, 60)}).dataloaders(bs=[8, 16, 4, 2], seed=0)
    assert [dl.bs for dl in dls] == [8, 16, 4, 2] and [len(dl) for dl in dls] == [3, 1, 3, 3]
    learn = learner(dls, tmp_path)
    learn.fit(1)
    for i, n in enumerate((30, 15, 10, 5)): assert np.array_equal(learn.get_preds(ds_idx=i)[1], dls[i].dataset.targets()) and len(dls[i].dataset) == n
    with pytest.raises(ValueError, match='4 datasets but 2 batch sizes'): TSMetaDatasets(meta, [[0], [1], [2], [3]]).dataloaders(bs=[8, 4])
    with pytest.raises(TypeError, match='sampler'): loaders(sampler=[1, 2])


def test_settings_change_on_a_living_loader():
    dl = loaders().train
    dl.bs = 8
    assert len(dl) == 5 and [len(x) for x, _ in dl] == [8]*5
    dl.shuffle, dl.drop_last, dl.bs = False, False, 32
    assert dl.get_idxs().tolist() == list(range(40)) and [len(x) for x, _ in dl] == [32, 8]


# Callbacks

@pytest.mark.parametrize('workers', [0, 2])
def test_weighted_per_sample_loss(workers, tmp_path):
    mds = split()
    X, w = mds.metadataset[:][0], torch.arange(1., 61)
    seen = []

    class Check(Callback):
        order = WeightedPerSampleLoss.order + 1

        def before_batch(self):
            if self.training:
                rows = [int((X == x).all(-1).all(-1).nonzero()) for x in self.x]
                seen.extend(rows)
                assert torch.allclose(self.learn.loss_func.weights, (w/w.sum()*60)[rows])

    dls = mds.dataloaders(bs=16, seed=1, num_workers=workers, device='cpu')
    learn = learner(dls, tmp_path, cbs=[WeightedPerSampleLoss(w), Check()])
    learn.fit(2)
    assert len(seen) == 64 and set(seen) <= set(mds.train.ids())


def test_transform_scheduler(tmp_path):
    tfm, seen = TSMagScale(magnitude=.5), []

    class Look(Callback):
        def before_batch(self):
            if self.training: seen.append(tfm.magnitude)

    learn = learner(loaders(batch_tfms=[TSStandardize(), tfm]), tmp_path, cbs=[TransformScheduler(SchedLin(1, 0)), Look()])
    learn.fit(2)
    assert seen == sorted(seen, reverse=True) and seen[0] == .5 and seen[-1] < .2 and tfm.magnitude == .5


@pytest.mark.parametrize('cb', [MixUp1d, CutMix1d, IntraClassCutMix1d, lambda: BatchSubsampler(sample_pct=.5), BatchLossFilter,
                                lambda: UBDAug([TSMagScale()]), PredictionDynamics, ShowGraph, SamplerWithReplacement])
def test_callbacks_of_tsai(cb, tmp_path):
    learn = learner(loaders(), tmp_path, cbs=cb())
    before = [p.clone() for p in learn.model.parameters()]
    learn.fit(2)
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))
    assert np.array_equal(learn.get_preds()[1], learn.dls.valid_ds.targets())
    orders = [[learn.dls.train.ids.tolist() for _ in learn.dls.train] for _ in range(2)]
    assert orders[0] != orders[1], 'the order of the plan was lost'


@pytest.mark.parametrize('labelled', [True, False])
def test_mvp(labelled, tmp_path):
    given = arrays()
    meta = TSMetaDataset(given if labelled else {k: X for k, (X, _) in given.items()})
    dls = TSMetaDatasets(meta, [range(40), range(40, 60)]).dataloaders(bs=16, seed=0, device='cpu')
    learn = ts_learner(dls, arch='FCNPlus', layers=[4, 4, 4], kss=[3, 3, 3], cbs=MVP(target_dir=tmp_path), path=tmp_path)
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    learn.fit(1)
    learn.MVP.show_preds()
    assert (tmp_path/'MVP'/'model.pth').exists() or list(tmp_path.rglob('*.pth'))


def test_noisy_student(tmp_path):
    learn = learner(loaders(batch_tfms=TSStandardize()), tmp_path)
    learn.fit(1)
    more = TSMetaDataset(arrays(seed=5)).dataloaders(bs=16, seed=0, device='cpu').train
    seen = []

    class Look(Callback):
        order = 99

        def before_batch(self):
            if self.training: seen.append((len(self.x), len(self.learn.dls.train.ids)))

    learn.fit(1, cbs=[NoisyStudent(more), Look()])
    assert seen == [(16, 8)]*5 and learn.dls.train.bs == 16 and len(learn.dls.train) == 2


def test_mixed_with_a_tabular_loader(tmp_path):
    mds = split()
    meta = mds.metadataset
    df = pd.DataFrame({'row': np.arange(60, dtype=np.float32), 'side': np.random.default_rng(0).choice(['left', 'right'], 60), 'y': labels(meta)})
    splits = tuple(p.ids().tolist() for p in mds)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.x, self.t = nn.Linear(32, 3), nn.Linear(2, 3)

        def forward(self, o):
            x, (cat, cont) = o
            return self.x(x.flatten(1)) + self.t(torch.cat([cat.float(), cont/60], 1))

    ts = mds.dataloaders(bs=16, seed=1, device='cpu')
    dls = get_mixed_dls(ts, tabular(df, splits), bs=16, device='cpu')
    for dl in dls:
        orders = []
        for _ in range(2):
            orders.append([])
            for (x, (cat, cont)), y in dl:
                ids = dl.loaders[0].ids
                orders[-1] += ids.tolist()
                assert np.array_equal(cont.flatten(), ids) and np.array_equal(x.numpy(), meta[ids][0].numpy())
                assert np.array_equal(y.flatten(), meta.targets(ids))
        assert len(orders[0]) == (32 if dl is dls.train else 20)
        ts.train.one_batch(), list(ts.train)
    dls.c = 3
    learn = Learner(dls, Both(), loss_func=nn.CrossEntropyLoss(), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(learn.get_preds(dl=dls.valid, reorder=False)[0]) == 20
    with pytest.raises(ValueError, match='put the TSMetaDataLoader first'): get_mixed_dls(tabular(df, splits), mds.dataloaders(bs=16), bs=16)


def tabular(df, splits):
    return get_tabular_dls(df, procs=[Categorify], cat_names=['side'], cont_names=['row'], y_names='y', splits=splits, bs=16, device='cpu')


def test_mixed_refuses_workers():
    mds = split()
    dl = mds.dataloaders(bs=16, num_workers=1, device='cpu').train
    with pytest.raises(ValueError, match='num_workers=0'): list(_MultiProcessingDataLoaderIter(dl.fake_l))


# The learner's own tools

def test_fastai_tools(tmp_path):
    learn = learner(loaders(), tmp_path)
    assert learn.lr_find(num_it=5, show_plot=False).valley > 0
    learn.fine_tune(1)
    assert 'Input shape: 16 x 2 x 16' in str(learn.summary())
    learn.to_fp16().fit(1)
    learn.to_fp32().fit_one_cycle(1)
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())
    probas, targets = learn.tta(n=2)
    assert probas.shape == (20, 3) and np.array_equal(targets, learn.dls.valid_ds.targets())
    assert torch.allclose(plain(probas), plain(learn.get_preds()[0]), atol=1e-5)


def test_decoder():
    dls = loaders()
    x, y = dls.one_batch()
    want = [dls.vocab[i] for i in y]
    assert list(dls.decoder(y)) == want and dls.decoder(y[0]) == want[0]
    assert torch.equal(dls.decoder((x, y))[0], x.cpu())


def test_save_all(tmp_path):
    learn = learner(loaders(batch_tfms=TSStandardize()), tmp_path)
    learn.fit(1)
    learn.save_all(tmp_path/'all')
    again = load_all(tmp_path/'all')
    assert all(torch.equal(a, b) for a, b in zip(learn.model.parameters(), again.model.parameters()))
    assert torch.allclose(learn.get_preds()[0], again.get_preds()[0], atol=1e-6)
    assert list(again.dls.vocab) == list('abc') and np.array_equal(again.dls.train_ds.ids(), learn.dls.train_ds.ids())
    again.remove_cbs([cb for cb in again.cbs if isinstance(cb, ProgressCallback)])
    again.logger = lambda *args: None
    again.fit(1)
    assert again.dls.train.ids is not None


def test_train_only_transforms(tmp_path):
    tfm = TSMagAddNoise(1., p=1.)
    dls = loaders(batch_tfms=tfm)
    for dl, changed in zip(dls, (True, False)):
        raw = dl.dataset.part
        for x, y in dl: assert np.array_equal(x.numpy(), raw(dl.ids)[:][0].numpy()) != changed
    learner(dls, tmp_path).fit(1)


# Targets of every kind

def kinds():
    rng, rows = np.random.default_rng(0), (12, 20)
    X = [rng.normal(size=(n, 2, 16)).astype(np.float32) for n in rows]
    yield 'number', [(x, x[:, 0].mean(-1)) for x in X], None, 1, None, rmse
    yield 'numbers', [(x, x.mean(-1)) for x in X], None, 1, 2, rmse
    yield 'steps', [(x, x[:, 0]) for x in X], None, 1, 16, rmse
    yield 'grid', [(x, x[:, :, :3]) for x in X], None, 1, [2, 3], rmse
    yield 'tags', [(x, [['up'][:a] + ['wet', 'dry'][:b] for a, b in rng.integers(0, 3, (len(x), 2))]) for x in X], None, 3, None, None
    yield 'states', [(x, np.where(x[:, 0] > 0, 'up', 'down')) for x in X], None, 2, 16, None


@pytest.mark.parametrize('name,pairs,tfms,c,d,metric', kinds(), ids=lambda o: o if isinstance(o, str) else '')
def test_targets_of_every_kind(name, pairs, tfms, c, d, metric, tmp_path):
    meta = TSMetaDataset(pairs)
    dls = TSMetaDatasets(meta, [range(0, 32, 2), range(1, 32, 2)]).dataloaders(bs=8, seed=0, device='cpu')
    assert (dls.c, dls.d, dls.cat) == (c, d, name in ('tags', 'states'))
    learn = ts_learner(dls, arch='FCNPlus', layers=[4, 4, 4], kss=[3, 3, 3], metrics=metric, path=tmp_path)
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    learn.fit(1)
    preds, targets = learn.get_preds()
    assert np.array_equal(targets, meta.targets(range(1, 32, 2))) and len(preds) == 16
    dls.show_batch(max_n=2)
    learn.show_results(max_n=2)
    dls.show_dist()
    learn.export('m.pkl')
    again = load_learner(tmp_path/'m.pkl')
    assert torch.allclose(plain(again.get_X_preds(meta[1::2][0].numpy())[0]), plain(preds), atol=1e-5)
    assert (again.dls.vars, again.dls.len, again.dls.c, again.dls.d, again.dls.cat) == (2, 16, c, d, dls.cat)


def test_steps_that_follow(tmp_path):
    waves = {'pump': np.sin(np.arange(300)/8), 'fan': np.cos(np.arange(200)/5)}
    meta = TSMetaDataset.from_recordings(waves, window=16, stride=4, horizon=5)
    dls = TSMetaDatasets(meta, [range(60), range(60, len(meta))], leak='purge').dataloaders(bs=16, seed=0, device='cpu')
    assert (dls.c, dls.d, dls.vars, dls.len) == (1, [1, 5], 1, 16)
    learn = ts_learner(dls, arch='FCNPlus', layers=[4, 4, 4], kss=[3, 3, 3], metrics=rmse, path=tmp_path)
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    learn.fit(1)
    learn.show_results(max_n=3)
    assert all('steps' in t for t in titles()) and len(plt.gcf().axes[0].lines) == 2
    learn.export('m.pkl')
    assert load_learner(tmp_path/'m.pkl').get_X_preds(np.zeros((3, 1, 16), np.float32))[0].shape == (3, 1, 5)
