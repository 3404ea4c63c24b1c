"What goes wrong, or quietly goes astray, in tsai's metadataset and loaders, and goes right here: one test per fault."
import time
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('tsai')
import fastai.callback.progress
from fastai.learner import Learner, load_learner
from tsai.data.core import TSClassification, TSDataLoader, TSDatasets
from tsai.data.transforms import TSMagAddNoise
from tsai.data.validation import TimeSplitter
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.data.dataset import TSMetaDataset

SIZES = 40, 25, 35


def pairs(labels=('ab', 'ab', 'ab'), seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(n, 2, 6)).astype(np.float32), rng.choice(list(v), n)) for n, v in zip(SIZES, labels)]


def learner(dls, tmp_path):
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(12, dls.c)), path=tmp_path)
    learn.logger = lambda *args: None
    return learn


def test_01_transforms_for_training_alone_run_in_training_alone():
    mds = TSMetaDatasets(TSMetaDataset(pairs()), [range(70), range(70, 100)])
    dls = mds.dataloaders(bs=10, batch_tfms=TSMagAddNoise(1., p=1.), seed=0, device='cpu')
    assert (mds.train.split_idx, mds.valid.split_idx) == (0, 1)
    train, valid = ([not torch.equal(x, mds.metadataset[dl.ids][0]) for x, y in dl] for dl in dls)
    assert train == [True]*7 and valid == [False]*3


def test_02_an_unsplit_metadataset_and_splits_of_any_form():
    given = pairs()
    meta = TSMetaDataset([TSDatasets(X, y, tfms=[None, TSClassification()]) for X, y in given])
    X = np.concatenate([x for x, _ in given])
    for loader in (TSDataLoader, TSMetaDataLoader): assert np.array_equal(np.concatenate([x for x, _ in loader(meta, bs=16)]), X)
    ids = np.random.default_rng(0).permutation(100)[:60]
    for form in (ids, torch.from_numpy(ids), ids.tolist(), tuple(ids.tolist()), ids.astype(np.int8)):
        train = TSMetaDatasets(meta, [form]).train
        assert np.array_equal(train[:][0], X[ids]) and np.array_equal(train[5:9][0], X[ids[5:9]]) and np.array_equal(train[[3, 1]][0], X[ids[[3, 1]]])
    assert np.array_equal(TSMetaDatasets(meta, [range(5, 50), slice(50, 60)]).valid[:][0], X[50:60])


def test_03_rows_come_in_the_order_asked_for():
    meta = TSMetaDataset(pairs())
    X, y = meta[:]
    ids = np.random.default_rng(1).permutation(100)
    got = meta[ids]
    assert torch.equal(got[0], X[ids]) and torch.equal(got[1], y[ids])
    dls = TSMetaDatasets(meta, [ids[:60], ids[60:]]).dataloaders(bs=16, seed=0, device='cpu')
    for loader in (dls, TSMetaDataLoaders(*[TSDataLoader(p, bs=16) for p in TSMetaDatasets(meta, [ids[:60], ids[60:]])])):
        learn = learner(dls, '.')
        with learn.no_bar(): assert np.array_equal(learn.get_preds(dl=loader[1])[1], y[ids[60:]])


@pytest.mark.parametrize('workers', [0, 2])
def test_04_the_origin_of_a_batch_is_known_and_fresh(workers):
    meta = TSMetaDataset(pairs())
    X = meta[:][0]
    dls = meta.dataloaders(bs=16, num_workers=workers, seed=3, device='cpu')
    for x, y in dls.train:
        assert torch.equal(x, X[dls.train.ids]) and np.array_equal(dls.train_ds.mapping_idxs, meta.mapping[dls.train.ids])
        before = dls.train.ids.copy()
        dls.vars, dls.len, dls.c, dls.d, dls.cat, dls.cws
        assert np.array_equal(dls.train.ids, before)
    x, y = dls.one_batch()
    assert torch.equal(x, X[dls.train.ids])


def test_05_labels_keep_their_meaning():
    given = pairs(['ac', 'bd', 'ab'])
    meta = TSMetaDataset([TSDatasets(X, y, tfms=[None, TSClassification()]) for X, y in given])
    assert [meta.vocab[i] for i in meta[:][1]] == [v for _, y in given for v in y]
    with pytest.raises(ValueError, match="row 1: unknown label 'z'"): meta.add_dataset(given[0][0][:2], ['a', 'z'])
    with pytest.raises(ValueError, match="'1' \\(1\\), row .*unknown label 'b'"): TSMetaDataset(given, vocab=['a', 'c', 'd'])


@pytest.mark.parametrize('other', [lambda X, y: X, lambda X, y: (X, np.ones(len(X))), lambda X, y: (X[:, :1], y), lambda X, y: (X[..., 1:], y)],
                         ids=['unlabelled', 'numbers', 'variables', 'steps'])
def test_06_members_that_do_not_fit_are_named_before_training(other):
    given = pairs()
    with pytest.raises(ValueError, match=r"'1' \(1\)"): TSMetaDataset([given[0], other(*given[1]), given[2]])


def test_06_unlabelled_members_train():
    dls = TSMetaDatasets(TSMetaDataset([X for X, _ in pairs()]), [range(60), range(60, 100)]).dataloaders(bs=16, device='cpu')
    learn = Learner(dls, nn.Linear(6, 6), loss_func=lambda p: (p**2).mean())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)


def test_07_no_row_is_lost_to_narrow_integers():
    X = np.arange(32_768, dtype=np.float32)[:, None, None]
    meta = TSMetaDataset([X[:100], X[100:]])
    for n in (65, 100, 127, 128, 255, 257, 32_705, 32_767):
        dl = TSMetaDatasets(meta, [[32_767], range(n)]).dataloaders(bs=64, device='cpu').valid
        assert np.array_equal(np.concatenate([x for x, in dl]).ravel(), np.arange(n))


def test_08_an_export_is_small_and_still_knows_its_facts(tmp_path):
    n = 2_000_000
    X = np.lib.stride_tricks.as_strided(np.zeros(8, np.float32), (n//100, 1, 8), (0, 0, 4))
    meta = TSMetaDataset([(X, np.broadcast_to(np.array(['a', 'b'][k % 2]), len(X))) for k in range(100)])
    ids = np.random.default_rng(0).permutation(n)
    dls = TSMetaDatasets(meta, [ids[:n//2], ids[n//2:]]).dataloaders(bs=512, device='cpu')
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), path=tmp_path)
    learn.export('m.pkl')
    assert (tmp_path/'m.pkl').stat().st_size < 100_000
    again = load_learner(tmp_path/'m.pkl').dls
    assert (again.vars, again.len, again.c, list(again.vocab), again.d, again.cat) == (1, 8, 2, ['a', 'b'], None, True)


def test_09_a_batch_costs_the_same_from_few_and_from_many_members():
    def cost(n):
        rows = np.zeros((n, 100_000//n, 5, 50), np.float32)
        dl = TSMetaDataLoader(TSMetaDataset(list(rows)), bs=512, shuffle=True, seed=0)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            for _ in dl: pass
            times.append(time.perf_counter() - start)
        return min(times)
    assert cost(10_000) < 3*cost(10) + .05


def test_09_splits_of_more_than_a_million_rows():
    X = np.zeros((1_100_000, 1, 1), np.float32)
    mds = TSMetaDatasets(TSMetaDataset([X[:600_000], X[600_000:]]), TimeSplitter(100, show_plot=False))
    assert (len(mds.train), len(mds.valid)) == (1_099_900, 100) and len(mds.valid[[99]][0]) == 1 and len(mds.train[5][0]) == 1


def test_10_the_end_of_each_series_is_what_validates():
    meta = TSMetaDataset.from_recordings([np.arange(100.)[None] + 1000*k for k in range(3)], window=10, stride=5)
    mds = meta.split('train[:75%]', 'train[75%:]', per='dataset', leak='purge')
    train, valid = mds[0], mds[1]
    assert (train.lens > 0).all() and (valid.lens > 0).all()
    for d in range(3):
        last = train[:][0][train.mapping[:, 0] == d].max()
        first = valid[:][0][valid.mapping[:, 0] == d].min()
        assert last < first


def test_11_samplers_give_the_rows_they_promise():
    given = pairs(['aaab', 'ab', 'b'])
    mds = TSMetaDatasets(TSMetaDataset(given), [range(0, 100, 2), range(1, 100, 2)])
    y = mds.metadataset.targets()
    def order(**kw):
        dl = mds.dataloaders(bs=10, seed=5, device='cpu', **kw).train
        return np.concatenate([dl.ids for _ in dl])
    stratified = order(stratify=True).reshape(-1, 10)
    assert np.ptp([y[b].sum() for b in stratified]) <= 1 and set(stratified.ravel()) == set(range(0, 100, 2))
    weighted = order(weights=y)
    assert y[weighted].all() and np.array_equal(weighted, order(weights=y)) and not np.array_equal(weighted, order(weights=y + 1e-9)[::-1])
    with pytest.raises(ValueError, match='shuffle=True'): order(weights=y, shuffle_train=False)
    dl = TSMetaDataLoader(mds.train, bs=10, partial_n=20)
    assert torch.equal(torch.cat([x for x, _ in dl]), mds.train[dl.get_idxs()][0])


def test_12_a_mapped_file_stays_on_disk(tmp_path):
    np.save(tmp_path/'x.npy', np.ones((20_000, 1, 500), np.float32))
    mapped = np.load(tmp_path/'x.npy', mmap_mode='r')
    tracemalloc.start()
    for meta in (TSMetaDataset([(mapped, np.zeros(20_000, int))]), TSMetaDataset([tmp_path/'x.npy'])):
        TSMetaDatasets(meta, [range(0, 20_000, 2), range(1, 64, 2)]).dataloaders(bs=64, device='cpu').one_batch()
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 8e6, f'{used:,} bytes for batches out of 40 MB'


def test_13_a_new_loader_keeps_what_the_old_one_had():
    mds = TSMetaDatasets(TSMetaDataset(pairs()), [range(60), range(60, 100)])
    w = np.arange(100.)
    for kw in (dict(weights=w), dict(stratify=True), dict(partial_n=30)):
        dl = mds.dataloaders(bs=10, seed=4, device='cpu', **kw).train
        new = dl.new()
        assert [dl.ids.tolist() for _ in dl] == [new.ids.tolist() for _ in new] and list(new.vocab) == list(dl.vocab)
        assert new.new(shuffle=False, drop_last=False).get_idxs().tolist() == list(range(60))


def test_14_five_million_rows_are_shuffled_at_once():
    meta = TSMetaDataset([np.zeros((1_000_000, 1, 1), np.float32)]*5)
    next(iter(TSMetaDataLoader(meta, bs=64, shuffle=True, seed=0)))
    start = time.perf_counter()
    tracemalloc.start()
    next(iter(TSMetaDataLoader(meta, bs=64, shuffle=True, seed=1)))
    assert tracemalloc.get_traced_memory()[1] < 1e6 and time.perf_counter() - start < 1
    tracemalloc.stop()
