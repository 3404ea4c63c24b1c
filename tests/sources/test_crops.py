"Random crops wherever training rows are delivered: by loaders, streams and views, and after a stop"
import numpy as np
import pytest
import torch
import tsmeta.all  # noqa: F401
from resume_tools import Stopped, StopAfter, digest, fit, learner
from tsmeta.sources.align import Ragged
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.splits.splitters import EachSplitter
from tsmeta.load.loader import check_resume as check_loader
from tsmeta.load.stream import check_stream_resume as check_stream

STEPS = 6


def long_meta(n=48, nv=1, side='random'):
    "Rows that say what they are: 100 times their number, plus the step"
    lens = np.random.default_rng(1).integers(STEPS, 30, n)
    rows = {d: ([np.tile(100.*i + np.arange(k), (nv, 1)).astype('f4') for i, k in enumerate(lens) if i % 2 == p], ['u', 'v']*(n//4)) for p, d in enumerate(('even', 'odd'))}
    return TSMetaDataset(rows, ragged=Ragged('crop', STEPS, side=side))


@pytest.fixture(scope='module')
def parts(): return long_meta().split(EachSplitter(.25))


def same(b): return b
def uids_and_rows(batches): return [(i, r[0]) for b in batches for i, r in zip(b['sample_uid'].tolist(), b['x'])]
def equal(a, b): return len(a) == len(b) and all(i == j and np.array_equal(r, s) for (i, r), (j, s) in zip(a, b))
def delivered(dl): return [(i, r[0].numpy()) for b in dl for i, r in zip(dl.ids.tolist(), b[0])]
def middle(parts, i): return (parts.metadataset.datasets[parts.metadataset.index.locate([i])[0][0]].src.steps[parts.metadataset.index.locate([i])[1][0]] - STEPS)//2


@pytest.mark.parametrize('workers,worker', [(0, 'thread'), (2, 'thread'), (2, 'process')])
def test_streams_crop_training_rows_as_the_loader_does(parts, workers, worker):
    how = dict(bs=8, shuffle=True, seed=3)
    dl = TSMetaDataLoader(parts.train, device='cpu', **how)
    want = [delivered(dl) for _ in range(2)]
    assert not equal(sorted(want[0], key=lambda o: o[0]), sorted(want[1], key=lambda o: o[0]))
    assert any(r[0] % 100 != middle(parts, i) for i, r in want[0])
    with parts.train.stream(**how).map(same, num_workers=workers, worker=worker, fan_out=1) as s:
        assert all(equal(uids_and_rows(s), w) for w in want)
    with parts.train.stream(**how).map(same, num_workers=workers, worker=worker, fan_out=1) as s:
        s.set_epoch(1)
        assert equal(uids_and_rows(s), want[1])
    assert not equal(uids_and_rows(parts.train.stream(**{**how, 'seed': 4})), want[0])
    for i, r in uids_and_rows(parts.valid.stream(bs=8)): assert r[0] % 100 == middle(parts, i)


def test_streams_of_several_processes_and_after_a_stop(parts):
    how = dict(bs=8, shuffle=True, seed=3)
    want = dict(delivered(TSMetaDataLoader(parts.train, device='cpu', **how)))
    got = {}
    for rank in range(2): got |= dict(uids_and_rows(parts.train.stream(**how, rank=rank, world_size=2)))
    assert got.keys() == want.keys() and all(np.array_equal(got[i], want[i]) for i in want)
    check_stream(lambda: parts.train.stream(**how))


def test_loaders_of_streams_tell_the_steps(parts):
    plain = parts.dataloaders(bs=8, seed=3, device='cpu', drop_last=False)
    dls = TSMetaDataLoaders.from_streams(parts.train.stream(bs=8, shuffle=True, seed=3), parts.valid.stream(bs=8), device='cpu')
    for _ in range(2):
        for (x, _), (z, _) in zip(dls.train, plain.train, strict=True):
            assert torch.equal(x, z) and dls.train.where.equals(plain.train.where)
            w = dls.train.where
            assert all(np.array_equal(row[0].numpy() % 100, np.arange(a, b)) for row, a, b in zip(x, w['start'], w['end']))
    for _ in dls.valid: assert 'start' not in dls.valid.where
    check_loader(lambda: TSMetaDataLoaders.from_streams(parts.train.stream(bs=8, shuffle=True, seed=3), device='cpu').train, epochs=1)


@pytest.mark.parametrize('workers', [0, 2])
def test_views_crop_the_rows_of_training_examples(parts, workers):
    pairs = parts.train.view(dict(a=np.arange(24), b=np.arange(36)[:24, None] + [0, 12])).split('train[:75%]', 'train[75%:]')
    dls = pairs.dataloaders(bs=4, seed=3, device='cpu', drop_last=False, num_workers=workers)
    rows = dict(delivered(TSMetaDataLoader(parts.train, bs=36, seed=3, device='cpu')))
    off = 0
    for (x,) in dls.train:
        w = dls.train.where
        for k, i in enumerate(dls.train.ids):
            for row, at in [(x['a'][k], i), (x['b'][k, 0], i), (x['b'][k, 1], i + 12)]:
                row, start = row[0].numpy(), int(row[0, 0]) % 100
                assert np.array_equal(row, rows[int(parts.train.ids([at])[0])])
                off += start != middle(parts, parts.train.ids([at])[0])
            assert (w['a/start'][k], w['a/end'][k]) == (int(x['a'][k, 0, 0]) % 100, int(x['a'][k, 0, -1]) % 100 + 1)
            assert w['b/start'][k] == int(x['b'][k, 0, 0, 0]) % 100
    assert off > 9
    for (x,) in dls.valid:
        for k, i in enumerate(dls.valid.ids): assert x['a'][k, 0, 0] % 100 == middle(parts, parts.train.ids([i])[0])
        assert 'a/start' not in dls.valid.where


def test_what_could_only_see_the_middle_is_refused(parts):
    for part in (parts.train, parts.metadataset, parts.train.view(np.arange(4))):
        with pytest.raises(ValueError, match='cropped at random .* cannot be one dataset of another'): TSMetaDataset([part])
    TSMetaDataset([long_meta(side='center')])


def test_loaders_resume_in_the_middle_of_an_epoch(parts):
    def make(**kw): return parts.dataloaders(bs=8, seed=3, device='cpu', **kw).train
    check_loader(make, resume_with=({}, dict(num_workers=2)), epochs=1)


@pytest.mark.parametrize('workers', [0, 2])
def test_training_stopped_and_resumed_ends_the_same_to_the_bit(tmp_path, workers):
    how = dict(data=long_meta(nv=2), bs=8)
    fit(want := learner(**how))
    fit(centred := learner(**{**how, 'data': long_meta(nv=2, side='center')}))
    assert digest(want) != digest(centred)
    with pytest.raises(Stopped): fit(learner(cbs=StopAfter(7), **how), tmp_path)
    fit(again := learner(init=9, workers=workers, **how), tmp_path)
    assert digest(again) == digest(want)
