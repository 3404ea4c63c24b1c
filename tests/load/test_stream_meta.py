"Streams over a metadataset: the loader's order, its ids, its mix, its state; and training on what comes out."
import json

import fastai.callback.progress  # brings no_bar
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.augment import RandTransform
from fastai.learner import Learner, load_learner
from fastcore.test import test_eq as check_eq
from torch import nn
import tsmeta.train.predict
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.batches.mix import Mix
from tsmeta.load.stream import Stream, check_stream_resume
from tsmeta.load.stream_loader import TSStreamLoader

WORKERS = [(0, 'thread'), (2, 'thread'), (2, 'process')]


@pytest.fixture(scope='module')
def mds():
    rng = np.random.default_rng(0)
    meta = TSMetaDataset({f'p{d}': (rng.normal(size=(n, 2, 16)).astype(np.float32), rng.choice(['a', 'b', 'c'], n)) for d, n in enumerate([9, 30, 1, 21])},
                         info=pd.DataFrame(dict(site=list('uvuv'))))
    return TSMetaDatasets(meta, dict(train=rng.permutation(61)[:45], valid=range(3, 15)), leak='allow')


def halved(b): return {**b, 'x': b['x']/2}
def noisy(b, rng): return {**b, 'x': b['x'] + rng.normal(size=b['x'].shape).astype(np.float32)}
def uids(stream): return [b['sample_uid'].tolist() for b in stream]


@pytest.mark.parametrize('how', [dict(), dict(shuffle=True), dict(shuffle=True, drop_last=True), dict(shuffle=True, mix='equal'), dict(shuffle=True, mix=('temperature', 2))])
def test_a_stream_has_the_order_of_a_loader(mds, how):
    loader = TSMetaDataLoader(mds.train, bs=8, seed=5, **how)
    with mds.train.stream(bs=8, seed=5, **how).map(halved, num_workers=2, worker='thread', fan_out=1) as stream:
        assert len(stream) == len(loader)
        for _ in range(3):
            want = [(loader.ids.tolist(), b) for b in loader]
            got = list(stream)
            assert [b['sample_uid'].tolist() for b in got] == [ids for ids, _ in want]
            for b, (_, (x, y)) in zip(got, want):
                np.testing.assert_array_equal(b['x'], x.numpy()/2)
                np.testing.assert_array_equal(b['y'], y.numpy())


def test_order_is_asked_where_the_stream_is_made(mds):
    with pytest.raises(ValueError, match=r'\.stream\(shuffle='): mds.train.stream().shuffle(8)
    with pytest.raises(ValueError, match=r'\.stream\(mix='): mds.train.stream().sampler('random')


def test_uids_are_global_ids_or_pairs(mds):
    meta, ids = mds.metadataset, mds.train.ids()
    d, r = (o.tolist() for o in meta.index.locate(ids[[4, 0]]))
    for asked in (ids[[4, 0]].tolist(), list(zip(d, r)), [(meta.names[k], i) for k, i in zip(d, r)]):
        got = list(mds.train.stream(bs=4).subsample_uids(asked))
        assert np.concatenate([b['sample_uid'] for b in got]).tolist() == ids[[4, 0]].tolist()
        np.testing.assert_array_equal(np.concatenate([b['x'] for b in got]), meta[ids[[4, 0]]][0].numpy())


@pytest.mark.parametrize('workers,worker', WORKERS)
def test_random_work_is_the_same_for_any_workers(mds, workers, worker):
    def make(n, w): return mds.train.stream(bs=8, shuffle=True, seed=2).map(noisy, num_workers=n, worker=w, fan_out=1)
    with make(0, 'thread') as a, make(workers, worker) as b:
        for _ in range(2):
            for p, q in zip(list(a), list(b), strict=True): np.testing.assert_array_equal(p['x'], q['x'])


@pytest.mark.parametrize('workers,worker', WORKERS)
def test_resume_with_other_workers(mds, workers, worker):
    def make(n=0, w='thread'): return mds.train.stream(bs=8, shuffle=True, seed=2, mix='equal').map(noisy, num_workers=n, worker=w, fan_out=1)
    with make() as s: first, second = list(s), list(s)
    for stop in (1, 3, len(first)):
        with make(2, 'thread') as s, make(workers, worker) as again:
            it = iter(s)
            for _ in range(stop): next(it)
            text = json.dumps(s.state_dict())
            assert len(text) <= 1024
            again.load_state_dict(json.loads(text))
            rest = first[stop:] + second
            got = [b for _ in range(1 if stop == len(first) else 2) for b in again]
            for p, q in zip(rest, got, strict=True): np.testing.assert_array_equal(p['x'], q['x'])
    with mds.valid.stream(bs=8, shuffle=True, seed=2) as other, pytest.raises(ValueError, match='another stream'): other.load_state_dict(json.loads(text))


def test_the_state_of_a_long_chain_is_short_and_still_tells_chains_apart(mds):
    def chain(n, last=halved):
        s = mds.train.stream(bs=8)
        for k in range(n): s = s.map(last if k == n-1 else halved, fan_out=1)
        return s
    for n in (1, 20, 60):
        text = json.dumps(chain(n).state_dict())
        assert len(text) <= 1024
        chain(n).load_state_dict(json.loads(text))
        with pytest.raises(ValueError, match='another stream'): chain(n, noisy).load_state_dict(json.loads(text))


class Jitter(RandTransform):
    split_idx = 0
    def encodes(self, x:torch.Tensor): return x + torch.randn_like(x) if x.is_floating_point() else x


def loaders(mds, workers=0, worker='thread', **kwargs):
    parts = [p.stream(bs=8, shuffle=i == 0, seed=1).map(noisy, num_workers=workers, worker=worker, fan_out=1) for i, p in enumerate(mds)]
    return TSMetaDataLoaders.from_streams(*parts, device='cpu', **kwargs)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize('workers,worker', WORKERS)
def test_training_on_streams(mds, tmp_path, workers, worker):
    def weights(n, w):
        dls = loaders(mds, n, w, batch_tfms=Jitter())
        assert (dls.vars, dls.len, dls.c, list(dls.vocab)) == (2, 16, 3, ['a', 'b', 'c'])
        learn = Learner(dls, model(), path=tmp_path)
        with learn.no_bar(), learn.no_logging(): learn.fit(2)
        return learn, torch.cat([p.flatten() for p in learn.model.parameters()])
    (learn, got), (plain, want) = weights(workers, worker), weights(0, 'thread')
    assert torch.equal(got, want)
    with learn.no_bar(): preds, targs = learn.get_preds()
    check_eq(targs.numpy(), mds.valid.targets())
    seen = np.concatenate([np.stack([b[1].numpy(), [list('abc').index(mds.metadataset.vocab[y]) for y in mds.metadataset.targets(learn.dls.train.ids)]]) for b in learn.dls.train], 1)
    check_eq(seen[0], seen[1])
    for b in learn.dls.valid: check_eq(learn.dls.valid.where[['dataset', 'row']].to_numpy(), learn.dls.valid.dataset.mapping_idxs)
    learn.export(tmp_path/'m.pkl')
    again = load_learner(tmp_path/'m.pkl')
    assert again.dls.c == 3
    x = torch.zeros(4, 2, 16)
    with again.no_bar(): assert again.get_preds(dl=again.dls.test_dl(x.numpy()))[0].shape == (4, 3)
    for l in (learn, plain):
        for dl in l.dls.loaders: dl.stream.close()


def test_loaders_of_streams_resume(mds):
    whole = [b[0].clone() for b in loaders(mds, batch_tfms=Jitter()).train]
    first, second = (loaders(mds, batch_tfms=Jitter()) for _ in range(2))
    first.train.one_batch()
    it = iter(first.train)
    for _ in range(2): next(it)
    first.train.one_batch()
    state = json.loads(json.dumps(first.state_dict()))
    second.load_state_dict(state)
    for a, b in zip([b[0] for b in second.train], whole[2:], strict=True): assert torch.equal(a, b)


def bare(b): return b['x']
def without_ids(b): return dict(x=b['x'])


@pytest.mark.parametrize('fn', [bare, without_ids])
def test_a_stream_that_loses_its_ids_is_refused(mds, fn):
    with pytest.raises(ValueError, match='need x and sample_uid'): TSStreamLoader(mds.train.stream(bs=8).map(fn, fan_out=1))


def test_a_stream_of_other_things_needs_its_metadataset(mds):
    with pytest.raises(TypeError, match='dataset='): TSStreamLoader(Stream.of([dict(x=np.zeros((2, 1, 4)), sample_uid=np.arange(2))]))


@pytest.mark.parametrize('how', [dict(), dict(shuffle=True), dict(shuffle=True, drop_last=True), dict(shuffle=True, mix='equal', drop_last=True),
                                 dict(shuffle=True, drop_last=True, mix=Mix('equal', batching='per_dataset')), dict(shuffle=True, mix=Mix('equal', batching='per_dataset')),
                                 dict(batching='per_dataset'), dict(shuffle=True, batching='site'), dict(shuffle=True, stratify=True), dict(shuffle=True, partial_n=.6)], ids=str)
@pytest.mark.parametrize('world', [2, 3])
def test_streams_of_several_processes_take_slices_of_the_same_batches(mds, how, world):
    for r in range(world):
        place = dict(bs=12, seed=5, rank=r, world_size=world, **how)
        loader, make = TSMetaDataLoader(mds.train, **place), lambda: mds.train.stream(**place).map(halved, fan_out=1)
        stream = make()
        assert len(stream) == len(loader)
        for _ in range(2): assert uids(stream) == [loader.ids.tolist() for _ in loader]
        check_stream_resume(make)


def test_streams_of_several_processes_need_a_seed(mds):
    with pytest.raises(ValueError, match='give a seed'): mds.train.stream(shuffle=True, seed=None, rank=0, world_size=2)


def test_loaders_of_streams_are_left_alone_by_distributed_training(mds, monkeypatch):
    distributed = pytest.importorskip('fastai.distributed')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    dl = TSStreamLoader(mds.train.stream(bs=8, shuffle=True, seed=1, drop_last=True), device='cpu')
    assert isinstance(dl, distributed.DistributedDL) and isinstance(dl, TSStreamLoader) and {len(x) for x, y in dl} == {4}
    monkeypatch.delenv('RANK')
    monkeypatch.delenv('WORLD_SIZE')
    want = TSMetaDataLoader(mds.train, bs=8, shuffle=True, seed=1, drop_last=True, rank=1, world_size=2)
    dl.set_epoch(0)
    assert [dl.ids.tolist() for _ in dl] == [want.ids.tolist() for _ in want]


def spectrum(b): return {**b, 'x': np.abs(np.fft.rfft(b['x'])).astype(np.float32)}


def mapped(mds, workers=0, worker='thread', fn=spectrum, **kwargs):
    made = [p.stream(bs=8, shuffle=i == 0, seed=1, drop_last=i == 0).map(fn, num_workers=workers, worker=worker, fan_out=1) for i, p in enumerate(mds)]
    return Learner(TSMetaDataLoaders.from_streams(*made, device='cpu', **kwargs), nn.Sequential(nn.Flatten(), nn.Linear(18, 3)))


@pytest.mark.parametrize('workers,worker', WORKERS)
def test_predictions_are_complete_in_order_and_mapped(mds, tmp_path, workers, worker):
    learn = mapped(mds, workers, worker)
    dls, learn.path = learn.dls, tmp_path
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        want = learn.model(torch.from_numpy(spectrum(dict(x=mds.train[:][0].numpy()))['x'])).softmax(1)
        for how in (dict(ds_idx=0), dict(dl=dls.train)):
            preds, targs = learn.get_preds(**how)
            assert np.array_equal(targs, mds.train.targets())
            torch.testing.assert_close(preds, want.detach())
        table, own = learn.predict_table(), learn.predict_table(dl=dls.train)
        new = learn.predict_table(data=mds.train[:][0].numpy(), probs=True)
    assert dls.train.epoch == 1 and np.array_equal(table[['dataset', 'row']], mds.valid.mapping)
    check_eq(own.row.to_numpy(), mds.metadataset.index.locate(np.concatenate([b['sample_uid'] for b in at(mds.train.stream(bs=8, shuffle=True, seed=1), 1)]))[1])
    np.testing.assert_allclose(new[['p_a', 'p_b', 'p_c']], want.detach(), atol=1e-5)
    learn.export('m.pkl')
    for dl in dls.loaders: dl.stream.close()
    again = load_learner(tmp_path/'m.pkl')
    with again.no_bar(): got = again.get_preds(dl=again.dls.test_dl(mds.train[:][0].numpy()))[0]
    torch.testing.assert_close(got, want.detach())


def at(stream, epoch):
    stream.set_epoch(epoch)
    return stream


def twice(b): return [b, b]


def test_what_a_chain_makes_of_rows_decides_what_can_be_put_in_order(mds):
    learn = mapped(mds)
    learn.dls.loaders = [TSStreamLoader(p.stream(bs=8).map([twice, spectrum], fan_out=2), device='cpu') for p in mds]
    with learn.no_bar():
        with pytest.raises(ValueError, match='reorder=False'): learn.get_preds()
        assert len(learn.get_preds(reorder=False)[0]) == len(learn.predict_table()) == 24
    cut = TSStreamLoader(mds.train.stream(bs=8, shuffle=True).rebatch(5), device='cpu')
    check_eq(np.concatenate([cut.dataset.targets()[cut.get_idxs()]]), np.concatenate([b[1] for b in cut]))


def test_making_loaders_of_streams_leaves_the_global_generators_alone(mds):
    import random
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    dls = loaders(mds, batch_tfms=Jitter())
    dls.one_batch(), list(dls.train), dls.valid.new(shuffle=False)
    assert random.getstate() == before[0] and np.array_equal(np.random.get_state()[1], before[1]) and torch.equal(torch.get_rng_state(), before[2])


def shorter(b): return {**b, 'x': b['x'][1:]}


def test_columns_that_no_longer_fit_are_refused(mds):
    with pytest.raises(ValueError, match="8 sample_uid, but 7 rows in 'x'"): TSStreamLoader(mds.train.stream(bs=8).map(shorter, fan_out=1))


def test_empty_parts_can_be_identified(mds):
    nothing = mds.metadataset.subset([])
    with pytest.raises(ValueError, match='have nothing'): TSStreamLoader(nothing.stream())
    assert list(nothing.stream()) == [] and nothing.stream().state_dict()['delivered'] == 0


def test_chains_that_would_set_processes_apart_are_refused(mds):
    def make(what, **how): return lambda: TSStreamLoader(what(mds.train.stream(bs=8, rank=0, world_size=2, **how)), device='cpu')
    for what, how, text in [(lambda s: s.map(halved, fan_out=1, on_error='skip'), {}, "on_error='skip'"), (lambda s: s.rebatch(3), {}, 'drop_last=True'),
                            (lambda s: s.map(twice, fan_out=2), {}, 'drop_last=True'),
                            (lambda s: s.map(halved, fan_out=1, in_order=False, num_workers=1, worker='thread'), dict(batching='site', drop_last=True, shuffle=True), 'what is ready first')]:
        with pytest.raises(ValueError, match=text): make(what, **how)()
    dl = make(lambda s: s.rebatch(2), drop_last=True)()
    next(iter(dl))
    with pytest.raises(ValueError, match='in one process'): dl.all_ids
    with pytest.raises(ValueError, match='reorder=False'): dl.get_idxs()


def test_streams_of_other_sources_are_refused_in_several_processes(mds, monkeypatch):
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ValueError, match='does not know of 2 processes'): TSStreamLoader(Stream.of([dict(x=np.zeros((2, 1, 4)), sample_uid=np.arange(2))], seed=0), dataset=mds.train)


def test_callbacks_that_change_the_mix_need_other_loaders(mds):
    from tsmeta.train.metrics import DatasetMetrics
    from tsmeta.train.mixture import TrackDatasets
    learn = mapped(mds)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=DatasetMetrics())
        with pytest.raises(TypeError, match='TrackDatasets needs loaders'): learn.fit(1, cbs=TrackDatasets())
    assert learn.dataset_metrics.query("by == 'dataset'").rows.sum() == len(mds.valid)


@pytest.mark.parametrize('how', [dict(batching='per_dataset'), dict(batching='bucket'), dict(batching=[0, 1, 0, 1]), dict(weights='balanced'), dict(mix='equal'), dict(stratify=True)], ids=str)
def test_learners_over_streams_of_any_order_can_be_exported(mds, tmp_path, how):
    made = [p.stream(bs=8, shuffle=i == 0, seed=1, **(how if i == 0 else {})).map(spectrum, fan_out=1) for i, p in enumerate(mds)]
    learn = Learner(TSMetaDataLoaders.from_streams(*made, device='cpu'), nn.Sequential(nn.Flatten(), nn.Linear(18, 3)), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.export('m.pkl')
    again, x = load_learner(tmp_path/'m.pkl'), mds.valid[:][0].numpy()
    with again.no_bar(), learn.no_bar(): torch.testing.assert_close(again.get_preds(dl=again.dls.test_dl(x))[0], learn.get_preds()[0])
    assert (tmp_path/'m.pkl').stat().st_size < 100_000
