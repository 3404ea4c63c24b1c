"A stream takes all that a loader takes about order: the same ids for the same arguments, resumed anywhere, in slices of several processes too."
import json

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.augment import RandTransform
from hypothesis import given, settings
from hypothesis import strategies as st
import tsmeta.load.loader
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.batches.mix import Mix
from tsmeta.load.stream import Stream, check_stream_resume
from tsmeta.load.stream_loader import LoaderFeed, TSStreamLoader

LENS = [9, 30, 1, 21, 14]


def metadataset(steps=(16,)*5, **kwargs):
    rng = np.random.default_rng(0)
    data = {f'p{d}': (rng.normal(size=(n, 2, t)).astype(np.float32), rng.choice(['a', 'b', 'c'], n, p=[.6, .3, .1])) for d, (n, t) in enumerate(zip(LENS, steps))}
    return TSMetaDataset(data, info=pd.DataFrame(dict(site=list('uvuvw'))), **kwargs)


@pytest.fixture(scope='module')
def mds():
    meta = metadataset()
    return TSMetaDatasets(meta, dict(train=np.random.default_rng(1).permutation(75)[:60], valid=range(3, 15)), leak='allow')


W = np.random.default_rng(3).random(75)
KINDS = {'in order': {}, 'shuffled': dict(shuffle=True), 'within': dict(shuffle='within'), 'block': dict(shuffle=('block', 8, 2)), 'mix': dict(shuffle=True, mix='equal'),
         'mix by name': dict(shuffle=True, mix=dict(p0=.5, p3=.5)), 'mix, stratified': dict(shuffle=True, mix=Mix('equal', batching='stratified')),
         'mix, one dataset a batch': dict(shuffle=True, mix=Mix(('temperature', 2), batching='per_dataset')), 'weights': dict(shuffle=True, weights=W),
         'balanced': dict(shuffle=True, weights='balanced'), 'some by weight': dict(shuffle=True, weights=W, partial_n=.5), 'some': dict(shuffle=True, partial_n=17),
         'some in order': dict(partial_n=.3), 'stratified': dict(shuffle=True, stratify=True), 'stratified in order': dict(stratify=True),
         'stratified by group': dict(shuffle=True, stratify=np.arange(75) % 4), 'per dataset': dict(shuffle=True, batching='per_dataset'), 'by site': dict(shuffle=True, batching='site'),
         'by site, in order': dict(batching='site'), 'keys': dict(shuffle=True, batching=[0, 1, 0, 1, 1]), 'by site, mixed': dict(shuffle=True, batching='site', mix='equal'), 'bucket': dict(shuffle=True, batching='bucket'), 'n': dict(shuffle=True, n=31)}


def quarter(b): return {**b, 'x': b['x']/4}
def noisy(b, rng): return {**b, 'x': b['x'] + rng.normal(size=b['x'].shape).astype(np.float32)}
def uids(stream): return [b['sample_uid'].tolist() for b in stream]


@pytest.mark.parametrize('drop', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_ids_and_rows_are_those_of_the_loader(mds, kind, drop):
    how = dict(bs=8, seed=5, drop_last=drop, **KINDS[kind])
    loader, stream = TSMetaDataLoader(mds.train, **how), mds.train.stream(**how).map(quarter, fan_out=1)
    assert len(loader) == len(stream)
    for _ in range(2):
        for b, (x, y) in zip(list(stream), loader, strict=True):
            assert b['sample_uid'].tolist() == loader.ids.tolist()
            np.testing.assert_array_equal(b['x'], x.numpy()/4)
            np.testing.assert_array_equal(b['y'], y.numpy())


@settings(deadline=None, max_examples=30)
@given(kind=st.sampled_from([*KINDS]), seed=st.integers(0, 2**40), drop=st.booleans(), per=st.integers(1, 12), world=st.sampled_from([1, 2, 3, 4]), epoch=st.integers(0, 5))
def test_slices_and_resume_of_any_order(kind, seed, drop, per, world, epoch):
    ds = metadataset()
    for r in range(world):
        how = dict(bs=per*world, seed=seed, drop_last=drop, rank=r, world_size=world, **KINDS[kind])
        loader, stream = TSMetaDataLoader(ds, **how), ds.stream(**how)
        loader.set_epoch(epoch)
        stream.set_epoch(epoch)
        want = [loader.ids.tolist() for _ in loader]
        assert len(stream) == len(want) and uids(stream) == want
        for start in {0, 1, len(want)//2, max(0, len(want)-1), len(want)}:
            assert [b['sample_uid'].tolist() for b in stream.feed.epoch(epoch, start)] == want[start:]
        for i, (own, every, shared) in enumerate(stream.feed.steps(epoch)):
            assert stream.feed.rank_of(epoch, i) == (world if shared and world > 1 else r)
        for n in (3, 5): assert len(stream.sub_batch(n).rebatch(4)) == len(list(stream.sub_batch(n).rebatch(4)))
        try: size = len(stream.sub_batch(3))
        except TypeError: continue
        assert size == len(list(stream.sub_batch(3)))


@pytest.mark.parametrize('kind', ['weights', 'stratified', 'per dataset', 'by site, in order', 'mix, stratified', 'block', 'some'])
@pytest.mark.parametrize('place', [{}, dict(rank=1, world_size=2)])
def test_resume_with_work_and_cuts(mds, kind, place):
    check_stream_resume(lambda: mds.train.stream(bs=8, seed=2, **KINDS[kind], **place).map(noisy, fan_out=1))
    check_stream_resume(lambda: mds.train.stream(bs=8, seed=2, **KINDS[kind], **place).map(noisy).rebatch(5).max_samples(23))


def test_a_state_knows_rows_and_order(mds):
    state = json.loads(json.dumps(mds.train.stream(bs=8, shuffle=True, seed=2).state_dict()))
    other = mds.train.subset(range(60)[::-1])
    mds.train.stream(bs=8, shuffle=True, seed=2).load_state_dict(state)
    for s in (other.stream(bs=8, shuffle=True, seed=2), mds.train.stream(bs=8, shuffle=True, seed=2, weights=W), mds.train.stream(bs=8, shuffle='within', seed=2),
              metadataset().stream(bs=8, shuffle=True, seed=2, n=60)):
        with pytest.raises(ValueError, match='another stream'): s.load_state_dict(state)
    some = [mds.train.stream(bs=8).subsample_uids(u) for u in ([3, 4, 30], [30, 4, 3])]
    with pytest.raises(ValueError, match='another stream'): some[0].load_state_dict(some[1].state_dict())
    uneven = [mds.train.stream(bs=16, rank=0, world_size=w) for w in (1, 8)]
    with pytest.raises(ValueError, match='another stream'): uneven[0].load_state_dict(uneven[1].state_dict())


def test_lengths_that_differ_stay_apart():
    meta = metadataset([16, 12, 16, 12, 9], ragged='bucket')
    for how in (dict(), dict(shuffle=True)):
        loader, stream = TSMetaDataLoader(meta, bs=8, seed=1, **how), meta.stream(bs=8, seed=1, **how)
        assert uids(stream) == [loader.ids.tolist() for _ in loader]
    few = [b['x'].shape[-1] for b in meta.stream(bs=8).subsample_uids([0, 1, 9, 10, 60, 2])]
    assert few == [16, 12, 12, 16] or sorted(set(few)) == [12, 16]


@pytest.mark.parametrize('how,error,match', [
    (dict(num_workers=2), TypeError, r'does not take num_workers.*\.map'), (dict(wieghts=W), TypeError, 'does not take wieghts'), (dict(weights=W), ValueError, 'needs shuffle=True'),
    (dict(shuffle=True, weights=W[:5]), ValueError, 'one value per row'), (dict(shuffle=True, weights=W, stratify=True), ValueError, 'not both'), (dict(mix='equal'), ValueError, 'needs shuffle=True'),
    (dict(shuffle=True, mix='equal', weights=W), ValueError, 'cannot go with weights'), (dict(batching='hospital'), ValueError, 'batching must be'), (dict(shuffle='blok'), ValueError, 'shuffle must be'),
    (dict(shuffle=True, weights=-W), ValueError, 'row 8 of dataset')])
def test_what_does_not_fit_is_refused_as_loaders_do(mds, how, error, match):
    with pytest.raises(error, match=match): mds.train.stream(**how)


def test_fewer_rows_are_dealt_out_too(mds):
    ids = mds.train.ids()[[4, 0, 9, 9, 2, 33, 7]].tolist()
    got = [uids(mds.train.stream(bs=4, rank=r, world_size=2).map(quarter).subsample_uids(ids)) for r in (0, 1)]
    assert got == [[ids[:2], ids[4:5], ids[6:]], [ids[2:4], ids[5:6], ids[6:]]]
    whole = [uids(mds.train.stream(bs=4, rank=r, world_size=w).subsample(20)) for w in (1, 2) for r in range(w)]
    assert [a + b for a, b in zip(*whole[1:])] == whole[0]


class Jitter(RandTransform):
    split_idx = 0
    def encodes(self, x:torch.Tensor): return x + torch.randn_like(x) if x.is_floating_point() else x


@pytest.mark.parametrize('place', [{}, dict(rank=0, world_size=2), dict(rank=1, world_size=2)])
def test_batches_are_those_of_a_loader_to_the_bit(mds, place):
    how = dict(bs=8, seed=5, shuffle=True, **place)
    a, b = TSMetaDataLoader(mds.train, batch_tfms=Jitter(), device='cpu', **how), TSStreamLoader(mds.train.stream(**how), batch_tfms=Jitter(), device='cpu')
    for _ in range(2):
        for (x, y), (p, q) in zip(a, b, strict=True):
            assert torch.equal(x, p) and torch.equal(y, q) and np.array_equal(a.ids, b.ids) and np.array_equal(a.all_ids, b.all_ids) and a.delivered.shared == b.delivered.shared
    assert (a.one_batch()[0] == b.one_batch()[0]).all() and np.array_equal(a.get_idxs(), b.get_idxs()) and a.epoch == b.epoch == 2
