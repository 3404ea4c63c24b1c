"The flow of tsai's metadataset page, with tsmeta's classes in tsai's own loaders and in tsmeta's."
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip('tsai')
from fastai.callback.core import Callback
from fastai.learner import load_learner
from fastai.metrics import accuracy
from tsai.data.core import TSClassification, TSDataLoader, TSDataLoaders, TSDatasets, TSTensor
from tsai.data.preprocessing import TSStandardize
from tsai.data.validation import TimeSplitter
from tsai.learner import ts_learner
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.data.dataset import TSMetaDataset


def make(seed=0, sizes=(70, 45, 85), pairs=False):
    "Three datasets of different sizes, as tsai datasets or as pairs"
    rng, out = np.random.default_rng(seed), []
    for n in sizes:
        X, y = rng.normal(size=(n, 4, 20)).astype(np.float32), rng.choice(['a', 'b', 'c'], n)
        out.append((X, y) if pairs else TSDatasets(X, y, tfms=[None, TSClassification()]))
    return out


def concatenated(dsets): return torch.cat([torch.as_tensor(d[:][0]) for d in dsets]).numpy()


@pytest.mark.parametrize('loaders', [TSDataLoaders, TSMetaDataLoaders])
def test_the_page(loaders, tmp_path):
    dsets = make()
    meta = TSMetaDataset(dsets)
    splits = TimeSplitter(show_plot=False)(meta)
    mds = TSMetaDatasets(meta, splits)
    dls = loaders.from_dsets(mds.train, mds.valid, bs=16, path=tmp_path)
    assert (dls.vars, dls.len, dls.c, list(dls.vocab)) == (4, 20, 3, ['a', 'b', 'c'])
    learn = ts_learner(dls, arch='TSTPlus', metrics=accuracy, d_model=16, n_layers=1, n_heads=2, d_ff=16)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    learn.export('m.pkl')
    X = concatenated(dsets)
    for xb, yb in dls.train:
        assert isinstance(xb, TSTensor)
        ids = meta.index.ids(*dls.train.dataset.mapping_idxs.T)
        assert np.array_equal(xb.cpu().numpy(), X[ids])
    new = TSMetaDataset(make(1, (30, 11)))
    learn = load_learner(tmp_path/'m.pkl')
    for dl in (TSDataLoader(new), TSMetaDataLoader(new)):
        with learn.no_bar(): preds, targs = learn.get_preds(dl=dl)
        assert preds.shape == (41, 3) and np.array_equal(targs.numpy(), new.targets())
        with learn.no_bar(): part = learn.get_preds(dl=TSMetaDataLoader(new.subset([40])))[0]
        assert torch.allclose(preds[-1:], part, atol=1e-5)


@pytest.mark.parametrize('bs', [16, 32, 64, 128])
def test_every_validation_size(bs):
    X = np.arange(33_000, dtype=np.float32)[:, None, None]
    meta = TSMetaDataset([X[:17], X[17:20_000], X[20_000:]])
    for n in [*range(1, 301), *range(32_700, 32_801)]:
        dl = TSMetaDataLoaders.from_dsets(meta, meta.subset(range(n)), bs=bs, device='cpu').valid
        sizes = [len(x) for x, in dl]
        assert sum(sizes) == n and min(sizes) > 0 and len(sizes) == len(dl) and max(sizes) <= bs
        assert dl.ids[-1] == n-1


@pytest.mark.parametrize('workers', [0, 1, 2])
@pytest.mark.parametrize('shuffle', [False, True])
def test_provenance_with_workers(workers, shuffle):
    meta = TSMetaDataset(make(pairs=True))
    X = meta[:][0].numpy()
    dl = TSMetaDataLoader(meta, bs=16, shuffle=shuffle, seed=3, num_workers=workers)
    for xb, yb in dl:
        ids = dl.ids.copy()
        assert (dl.vars, dl.len, dl.c, dl.d, len(dl.dataset.types)) == (4, 20, 3, None, 2)
        assert np.array_equal(dl.ids, ids) and np.array_equal(meta.index.ids(*dl.dataset.mapping_idxs.T), ids)
        assert np.array_equal(xb.numpy(), X[ids])
        assert dl.where['dataset'].tolist() == dl.dataset.mapping_idxs[:, 0].tolist()
    first = dl.one_batch()[0].numpy()
    assert np.array_equal(first, X[dl.ids]) and len(dl.ids) == 16


def test_one_batch_and_facts_do_not_disturb_the_order():
    meta = TSMetaDataset(make(pairs=True))
    plain, probed = (TSMetaDataLoader(meta, bs=32, shuffle=True, seed=9) for _ in range(2))
    for _ in range(2):
        probed.one_batch()
        probed.get_idxs()
        a = [plain.ids.tolist() for _ in plain]
        b = []
        for _ in probed:
            b.append(probed.ids.tolist())
            probed.one_batch(), probed.get_idxs(), probed.vars, probed.c
        assert a == b
    assert plain.epoch == probed.epoch == 2


def test_standardize_from_a_batch_and_from_everything():
    meta = TSMetaDataset(make(pairs=True))
    X = meta[:][0]
    mds = TSMetaDatasets(meta, [range(150), range(150, 200)])
    dls = mds.dataloaders(bs=200, batch_tfms=TSStandardize(by_var=True, use_single_batch=False), seed=0, device='cpu')
    tfm = dls.train.after_batch.fs[0]
    assert torch.allclose(torch.as_tensor(tfm.mean).flatten(), torch.as_tensor(X[:150]).mean((0, 2)).as_subclass(torch.Tensor), atol=1e-6)
    assert dls.valid.after_batch.fs[0] is tfm
    x, y = dls.train.one_batch()
    assert abs(float(x.mean())) < 1e-4 and abs(float(x.std()) - 1) < 1e-2
    single = mds.dataloaders(bs=64, batch_tfms=TSStandardize(), seed=0, device='cpu')
    assert abs(float(single.train.one_batch()[0].mean())) < 1e-4


@pytest.mark.parametrize('shuffle', [False, True])
def test_get_preds_follows_the_set_for_every_loader(shuffle):
    mds = TSMetaDatasets(TSMetaDataset(make(pairs=True)), [list(range(0, 200, 2)), list(range(199, 0, -2))])
    dls = mds.dataloaders(bs=16, seed=1, device='cpu', shuffle_train=shuffle)
    learn = ts_learner(dls, arch='FCN', layers=[8, 8, 8], kss=[3, 3, 3])
    with learn.no_bar():
        for i in (0, 1):
            assert np.array_equal(learn.get_preds(ds_idx=i)[1].numpy(), mds[i].targets())
            assert np.array_equal(learn.get_preds(dl=dls[i])[1].numpy(), mds[i].targets())
        by_hand = torch.cat([learn.model(x) for x, _ in dls.valid]).softmax(-1)
        learn.model.eval()
        with torch.no_grad(): by_hand = torch.cat([learn.model(x) for x, _ in dls.valid]).softmax(-1)
        assert torch.allclose(learn.get_preds()[0], torch.as_tensor(by_hand).as_subclass(torch.Tensor), atol=1e-6)


def test_training_equals_training_over_the_concatenated_array():
    pairs = make(pairs=True)
    meta = TSMetaDataset(pairs)
    X, y = np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])
    dsets = TSDatasets(X, y, tfms=[None, TSClassification()], splits=(list(range(200)), list(range(10))))

    start = {}

    def train(dls, cbs=None):
        learn = ts_learner(dls, arch='FCN', layers=[8, 8, 8], kss=[3, 3, 3])
        if start: learn.model.load_state_dict(start)
        else: start.update({k: v.clone() for k, v in learn.model.state_dict().items()})
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3, cbs=cbs)
        return [p.detach().clone() for p in learn.model.parameters()]

    class Order(Callback):
        "Gives tsai's loader the order of a plan, epoch by epoch, however often it is asked in between"
        def __init__(self, plan): self.plan, self.at = plan, 0
        def before_train(self): self.at = self.learn.epoch
        def __iter__(self): return iter(self.plan.rows(0, self.plan.n_rows, self.at))
        def __len__(self): return self.plan.n

    ours = TSMetaDataLoaders.from_dsets(meta, meta.subset(range(10)), bs=16, seed=5, device='cpu')
    order = Order(ours.train.plan)
    theirs = TSDataLoaders(TSDataLoader(dsets.train, bs=16, drop_last=True, sampler=order), TSDataLoader(dsets.valid, bs=16))
    a, b = train(ours), train(theirs, [order])
    assert all(torch.equal(p, q) for p, q in zip(a, b))


def test_export_is_small_and_says_what_it_was_trained_on(tmp_path):
    sizes = {}
    for rows in (20, 2000):
        meta = TSMetaDataset([(np.zeros((rows, 2, 10), np.float32), ['a', 'b']*(rows//2))]*300)
        dls = TSMetaDatasets(meta, [range(len(meta)-50), range(len(meta)-50, len(meta))]).dataloaders(path=tmp_path, device='cpu')
        learn = ts_learner(dls, arch='FCN', layers=[8, 8, 8], kss=[3, 3, 3])
        learn.export('m.pkl')
        sizes[rows] = (tmp_path/'m.pkl').stat().st_size
    assert sizes[20] == sizes[2000] < 100_000
    code = ("import warnings; warnings.simplefilter('ignore'); from fastai.learner import load_learner; import numpy as np; "
            f"l = load_learner({str(tmp_path/'m.pkl')!r}); d = l.dls; print(d.vars, d.len, d.c, list(d.vocab), len(d.train_ds)); "
            "p = l.get_preds(dl=d.test_dl(np.zeros((5, 2, 10))))[0]; print(p.shape)")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert "2 10 2 ['a', 'b'] 0" in out.stdout and 'torch.Size([5, 2])' in out.stdout, out.stderr
