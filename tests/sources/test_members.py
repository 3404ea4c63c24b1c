"Members of every kind, and every error that a metadataset raises before any training."
import re

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import Datasets, TfmdLists
from fastai.data.transforms import Categorize
from fastcore.foundation import L
from tsmeta.data.datasets import TSMetaDatasets
import tsmeta.load.loader
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.sources.base import ArraySource
from tsmeta.sources.recordings import WindowSource

RNG = np.random.default_rng(0)
X = [RNG.normal(size=(n, 2, 8)).astype(np.float32) for n in (5, 7, 4)]
Y = [np.array(list('abcab')), np.array(list('bbbbbaa')), np.array(list('cacc'))]


class MapStyle(torch.utils.data.Dataset):
    "What people write: a length, and one row at a time"
    def __init__(self, x, y=None): self.x, self.y = x, y
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return torch.from_numpy(self.x[i]) if self.y is None else (torch.from_numpy(self.x[i]), self.y[i])


def fastai(x, y): return Datasets(list(range(len(x))), tfms=[[lambda i: x[i]], [lambda i: y[i], Categorize()]])
def tabular(x): return pd.DataFrame(x[:, 0])


LABELLED = {
    'pair': lambda x, y: (x, y),
    'list of targets': lambda x, y: (x, y.tolist()),
    'L of targets': lambda x, y: (x, L(y.tolist())),
    'Series': lambda x, y: (x, pd.Series(y, index=range(10, 10 + len(y)))),
    'Categorical': lambda x, y: (x, pd.Series(pd.Categorical(y))),
    'pair in a list': lambda x, y: [x, y],
    'nested lists': lambda x, y: (x.tolist(), y.tolist()),
    'tensor': lambda x, y: (torch.from_numpy(x), y),
    'source': lambda x, y: ArraySource(x, y),
    'map-style': lambda x, y: MapStyle(x, y),
    'subset': lambda x, y: torch.utils.data.Subset(MapStyle(np.concatenate([x, x]), [*y, *y]), range(len(x))),
    'concatenation': lambda x, y: torch.utils.data.ConcatDataset([MapStyle(x[:2], y[:2]), MapStyle(x[2:], y[2:])]),
    'fastai Datasets': fastai,
}
UNLABELLED = {
    'array': lambda x: x,
    'list of rows': lambda x: list(x),
    'L of rows': lambda x: L(list(x)),
    'tensor': torch.from_numpy,
    'map-style': MapStyle,
    'TensorDataset': lambda x: torch.utils.data.TensorDataset(torch.from_numpy(x)),
    'TfmdLists': lambda x: TfmdLists(list(x), [lambda o: torch.from_numpy(o)]),
    'pair without targets': lambda x: (x, None),
}


@pytest.mark.parametrize('kind', LABELLED)
def test_labelled_members(kind):
    meta = TSMetaDataset([LABELLED[kind](x, y) for x, y in zip(X, Y)])
    assert np.array_equal(meta[:][0], np.concatenate(X))
    assert [meta.vocab[i] for i in meta.targets()] == np.concatenate(Y).tolist()
    if kind == 'pair in a list': return
    lone = TSMetaDataset(LABELLED[kind](X[0], Y[0]))
    assert (lone.names, len(lone), lone.c) == (['0'], 5, 3)


@pytest.mark.parametrize('kind', UNLABELLED)
def test_unlabelled_members(kind):
    meta = TSMetaDataset({f'm{d}': UNLABELLED[kind](x) for d, x in enumerate(X)})
    assert np.array_equal(meta[:][0], np.concatenate(X)) and len(meta[0]) == 1 and meta.c == 0
    assert not hasattr(meta, 'vocab') and not hasattr(meta, 'loss_func') and meta.names == ['m0', 'm1', 'm2']


def test_mixed_kinds():
    kinds = [k for k in LABELLED if k != 'pair in a list']
    meta = TSMetaDataset({k: LABELLED[k](X[0], Y[0]) for k in kinds})
    assert np.array_equal(meta[:][0], np.concatenate([X[0]]*len(kinds)))
    assert [meta.vocab[i] for i in meta.targets()] == Y[0].tolist()*len(kinds)
    dl = TSMetaDataLoader(meta, bs=8, shuffle=True, seed=0, num_workers=1, multiprocessing_context='fork')
    for x, y in dl: assert np.array_equal(x, meta[dl.ids][0])
    frame = TSMetaDataset([tabular(X[0]), X[1][:, :1]])
    assert (frame.vars, frame.len, len(frame)) == (1, 8, 12)


def test_lone_pair_or_two_datasets():
    assert len(TSMetaDataset((X[0], Y[0])).names) == 1
    assert len(TSMetaDataset((X[0], X[0][:, 0])).names) == 1
    assert len(TSMetaDataset((X[0], X[1])).names) == 2
    assert len(TSMetaDataset([X[0], X[1]]).names) == 2
    assert len(TSMetaDataset(((X[0], Y[0]), (X[1], Y[1]))).names) == 2


def test_y_of_every_kind():
    def of(*ys, **kwargs): return TSMetaDataset([(x, y) for x, y in zip(X, ys)], **kwargs)
    assert of([1, 2, 3, 1, 2], [2]*7).schema.kind == 'class'
    assert of([1., 2, 3, 1, 2], [2.]*7).schema.kind == 'float'
    assert of(pd.Series([1., 2, 3, 1, 2]), torch.ones(7)).schema.kind == 'float'
    assert of(pd.DataFrame(np.ones((5, 3))), np.ones((7, 3))).d == 3
    assert of([[], ['u'], ['u', 'v'], [], ['v']], [['u']]*7).schema.kind == 'multi'
    assert of([True]*5, [False]*7).schema.kind == 'class'
    from fastai.data.transforms import RegressionSetup
    assert of([1, 2, 3, 1, 2], [2]*7, tfms=[None, RegressionSetup()]).schema.kind == 'float'
    assert list(of(Y[0], Y[1], tfms=[None, Categorize(vocab=['c', 'b', 'a'], sort=False)]).vocab) == ['c', 'b', 'a']
    assert list(of(Y[0], Y[1], vocab=['c', 'b', 'a', 'z']).vocab) == ['c', 'b', 'a', 'z']
    spaced = of(Y[0], Y[1], labels='namespaced')
    assert list(spaced.vocab) == ['0/a', '0/b', '0/c', '1/a', '1/b'] and spaced.targets()[5] == 4


# Variables by name

@pytest.mark.parametrize('horizon', [0, 3])
def test_variables_are_lined_up_by_name(horizon, tmp_path):
    recs = {k: RNG.normal(size=(3, 40)).astype(np.float32) for k in ('hip', 'knee', 'toe')}
    np.save(tmp_path/'toe.npy', recs['toe'][[2, 0, 1]])
    given = {'hip': recs['hip'], 'knee': recs['knee'][[1, 2, 0]], 'toe': tmp_path/'toe.npy'}
    order = {'hip': ['x', 'y', 'z'], 'knee': ['y', 'z', 'x'], 'toe': ['z', 'x', 'y']}
    want, got = (TSMetaDataset.from_recordings(r, window=8, stride=4, horizon=horizon, var_names=v) for r, v in ((recs, list('xyz')), (given, order)))
    assert got.schema.var_names == list('xyz') and got.windowed and np.array_equal(got.stride, want.stride) and np.array_equal(got.extent, want.extent)
    ids = RNG.permutation(len(want))
    for a, b in zip(want[ids], got[ids]): assert np.array_equal(a, b)
    assert got.where([9]).equals(want.where([9]))
    for ctx in ('fork', 'spawn'):
        dl = TSMetaDataLoader(got, bs=16, num_workers=1, multiprocessing_context=ctx)
        for b in dl: assert all(np.array_equal(p, q) for p, q in zip(b, want[dl.ids]))
    TSMetaDatasets(got, [range(8), range(18, 24)]).dataloaders(bs=4).one_batch()


def test_new_data_with_names():
    meta = TSMetaDataset([X[0], X[1]], var_names=['acc', 'gyro'])
    assert np.array_equal(meta.add_dataset(TSMetaDataset([X[2]], var_names=['gyro', 'acc']))[:][0], X[2][:, ::-1])
    with pytest.raises(ValueError, match=r"\['gyro'\] are missing, \['mag'\] are new"): meta.add_dataset(TSMetaDataset([X[2]], var_names=['mag', 'acc']))
    meta.add_dataset(TSMetaDataset([X[2]], var_names=['acc', 'gyro']))


# Transforms of rows

def halve(row): return row[:, ::2]


def test_row_transforms():
    meta = TSMetaDataset([(x, y) for x, y in zip(X, Y)], tfms=[[None, halve, np.abs], Categorize()])
    assert (meta.vars, meta.len) == (2, 4)
    assert np.array_equal(meta[:][0], abs(np.concatenate(X)[:, :, ::2]))
    ids = RNG.permutation(len(meta))
    for ctx in (None, 'spawn'):
        dl = TSMetaDataLoader(meta.part(ids), bs=4, num_workers=0 if ctx is None else 1, multiprocessing_context=ctx)
        for x, y in dl: assert np.array_equal(x, abs(np.concatenate(X)[dl.ids][:, :, ::2])) and np.array_equal(y, meta.targets(dl.ids))
    new = meta.new_empty().add_dataset(X[0], Y[0])
    assert np.array_equal(new[:][0], abs(X[0][:, :, ::2])) and np.array_equal(new.targets(), meta.targets()[:5])
    assert np.array_equal(meta.add_dataset(TSMetaDataset([(X[0], Y[0])]))[:][0], new[:][0])
    with pytest.raises(ValueError, match='3 variables, expected 2'): meta.add_dataset(np.zeros((2, 3, 8)))


def test_row_transforms_with_a_horizon():
    meta = TSMetaDataset.from_recordings([np.arange(40.).reshape(2, 20)], window=6, stride=3, horizon=2, tfms=[np.negative])
    plain = TSMetaDataset.from_recordings([np.arange(40.).reshape(2, 20)], window=6, stride=3, horizon=2)
    assert np.array_equal(meta[:][0], -plain[:][0]) and np.array_equal(meta[:][1], plain[:][1])


def test_random_row_transforms_are_refused():
    from fastcore.basics import noop
    from fasttransform import Transform
    with pytest.raises(ValueError, match='batch_tfms'): TSMetaDataset(X, tfms=[Transform(noop, split_idx=0)])
    def broken(row): raise RuntimeError('no such filter')
    with pytest.raises(ValueError, match=r"Dataset '0' \(0\), tfms\[0\] on its first row: RuntimeError: no such filter"): TSMetaDataset(X, tfms=[broken])


# Errors, raised when the metadataset is made, naming the dataset

PAIRS = dict(zip('uvw', zip(X, Y)))
NAN, NONE = np.where(np.arange(7) == 3, np.nan, 1.), ['a']*6 + [None]
BAD = {
    'other variables': ({'v': (np.zeros((7, 3, 8)), Y[1])}, ValueError, ["3 variables x 8 steps: 'v' (1)", "'u' (0), 'w' (2)"]),
    'other length': ({'v': (np.zeros((7, 2, 9)), Y[1])}, ValueError, ["2 variables x 9 steps: 'v' (1)", "ragged='pad' or 'crop'"]),
    'text as x': ({'v': (np.full((7, 2, 8), 'x'), Y[1])}, TypeError, ["'v' (1)", 'must be numeric', '<U1']),
    'objects as x': ({'v': (np.full((7, 2, 8), None), Y[1])}, TypeError, ["'v' (1)", 'object']),
    'complex x': ({'v': (np.zeros((7, 2, 8), complex), Y[1])}, TypeError, ["'v' (1)", 'complex']),
    'one row': ({'v': (np.zeros(8), ['a'])}, (ValueError, TypeError), ["'v' (1)"]),
    'four axes': ({'v': (np.zeros((7, 2, 2, 8)), Y[1])}, ValueError, ["'v' (1)", '(7, 2, 2, 8)']),
    'short y': ({'v': (X[1], Y[1][:6])}, ValueError, ["'v' (1) has 7 rows but 6 targets"]),
    'long y': ({'v': (X[1], [*Y[1], 'a'])}, ValueError, ["'v' (1) has 7 rows but 8 targets"]),
    'numbers among classes': ({'v': (X[1], np.ones(7))}, ValueError, ["float: 'v' (1)", "class: 'u' (0), 'w' (2)"]),
    'no targets among classes': ({'v': X[1]}, ValueError, ["no targets: 'v' (1)"]),
    'lists among classes': ({'v': (X[1], [['a']]*7)}, ValueError, ["multi: 'v' (1)"]),
    'other shape of y': ({'v': (X[1], np.full((7, 2), 'a'))}, ValueError, ["(2,): 'v' (1)"]),
    'integers among text': ({'v': (X[1], [1]*7)}, TypeError, ["numbers: 'v' (1)"]),
    'a label missing': ({'v': (X[1], NONE)}, ValueError, ["'v' (1), row 6", 'missing']),
    'text and numbers': ({'v': (X[1], ['a', 1, 'b', 2, 'c', 3, 'd'])}, TypeError, ["'v' (1): labels are text, but row 1 has 1, a int"]),
    'NaN among text': ({'v': (X[1], pd.Series(['a', np.nan, *'bbbbb'], dtype=object))}, ValueError, ["'v' (1), row 1", 'missing']),
    'not a dataset': ({'v': 3}, TypeError, ["'v' (1)", 'int']),
    'nothing': ({'v': None}, TypeError, ["'v' (1)", 'NoneType']),
    'a stream': ({'v': iter([1, 2])}, TypeError, ["'v' (1)"]),
    'no such file': ({'v': 'nowhere.npy'}, (OSError, ValueError), ['nowhere.npy']),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_members(name):
    bad, error, says = BAD[name]
    with pytest.raises(error) as e: TSMetaDataset({**PAIRS, **bad})
    assert not isinstance(e.value, (KeyError, AssertionError))
    for s in says: assert s in str(e.value), str(e.value)


def raises(error, says, **kwargs):
    with pytest.raises(error, match=re.escape(says)): TSMetaDataset(kwargs.pop('data', PAIRS), **kwargs)


def test_bad_settings():
    raises(ValueError, 'at least one dataset', data=[])
    raises(ValueError, 'at least one dataset', data={})
    raises(ValueError, 'None of the 2 datasets has a row', data=[np.zeros((0, 2, 8))]*2)
    raises(ValueError, "'v' (1), row 3: the target is missing", data={'u': (X[0], np.ones(5)), 'v': (X[1], NAN)})
    raises(ValueError, "Dataset 'u' (0), row 2: unknown label 'c'", vocab=['a', 'b'])
    raises(ValueError, "'v' (1) has ['a', 'b']", labels='strict')
    raises(ValueError, "got 'both'", labels='both')
    raises(ValueError, '3 datasets but 2 names', names=['a', 'b'])
    raises(ValueError, "'a' is the name of 2", names=['a', 'b', 'a'])
    raises(ValueError, '3 datasets and 2 lines', info={'age': [1, 2]})
    raises(ValueError, "Dataset 'u' (0) has 2 variables but 3 var_names", var_names=list('xyz'))
    raises(ValueError, "Dataset 'u' (0) has two variables of one name", var_names=['x', 'x'])
    raises(ValueError, "'w' (2) has ['x', 'z']: ['y'] are missing and ['z'] are new", var_names=[list('xy'), list('yx'), list('xz')])
    raises(ValueError, 'tfms[1] says what targets are', tfms=[None, np.abs])
    raises(TypeError, 'does not take tfmz', tfmz=[None])
    raises(ValueError, "(2,): '1'", data=[(X[0], np.ones(5)), (X[1], np.ones((7, 2)))])
    raises(ValueError, 'window longer than every recording', data=[WindowSource(np.zeros((2, 5)), 8)])


def test_empty_datasets_stay_members():
    meta = TSMetaDataset({'full': (X[0], Y[0]), 'none': (X[1][:0], [])})
    assert meta.lens.tolist() == [5, 0] and meta.summary()['rows'].tolist() == [5, 0] and 'none' in repr(meta)


def test_rows_that_do_not_exist():
    meta = TSMetaDataset(PAIRS)
    assert torch.equal(meta[-1][0], meta[15][0])
    for bad in (16, -17, [0, 16], torch.tensor([99])):
        with pytest.raises(IndexError, match='16'): meta[bad]


def test_repr_of_three_and_of_ten_thousand():
    from time import perf_counter
    many = TSMetaDataset([X[0]]*10_000)
    for meta in (TSMetaDataset(PAIRS), many):
        assert len(repr(meta).splitlines()) <= 20 and len(repr(TSMetaDatasets(meta, [range(9), range(9, 16)])).splitlines()) <= 20
    repr(many)
    times = []
    for _ in range(3):
        start = perf_counter()
        repr(many)
        times.append(perf_counter() - start)
    assert min(times) < .05


def ward(n=6, labels='abc', seed=0):
    rng = np.random.default_rng(seed)
    return TSMetaDataset({f'{labels}{k}': (rng.normal(size=(n, 2, 8)).astype(np.float32), [labels[i % len(labels)] for i in range(n)]) for k in range(2)})

@pytest.mark.parametrize('workers', [0, 2])
def test_a_metadataset_and_its_parts_are_members(workers):
    inner, rest = ward(), ward(4, 'cd', 1)
    part = inner.subset([7, 0, 11])
    meta = TSMetaDataset({'whole': inner, 'part': part, 'rest': rest})
    assert meta.lens.tolist() == [12, 3, 8] and list(meta.vocab) == list('abcd')
    dl = TSMetaDataLoader(meta, bs=5, shuffle=True, seed=3, num_workers=workers)
    for x, y in dl:
        for k, (d, r) in enumerate(zip(*meta.index.locate(dl.ids))):
            base = [inner, part, rest][d]
            assert torch.equal(torch.as_tensor(x[k]), torch.as_tensor(base[int(r)][0]))
            assert meta.vocab[y[k]] == base.vocab[base[int(r)][1]]

def test_a_metadataset_as_member_stays_on_disk(tmp_path):
    np.save(tmp_path/'a.npy', np.zeros((4, 2, 8), np.float32))
    source = TSMetaDataset([TSMetaDataset([str(tmp_path/'a.npy')])]).datasets[0]
    assert source.open() == (None, None) and source.read([2, 0]).shape == (2, 2, 8)

def test_labels_that_a_part_lacks_are_kept():
    inner = ward()
    assert list(TSMetaDataset([inner.subset([0, 1])]).vocab) == list('abc')
    assert list(TSMetaDataset({'x': inner.subset([0, 1])}, labels='namespaced').vocab) == ['x/a', 'x/b', 'x/c']
    assert len(TSMetaDataset([inner.subset([0, 1]), inner], labels='strict').vocab) == 3

def test_metadatasets_of_windows_and_split_ones_are_refused():
    walk = TSMetaDataset.from_recordings([np.zeros((1, 50), np.float32)], window=10, stride=5)
    with pytest.raises(ValueError, match="'walk' \\(1\\).*overlap in time.*meta.names, meta.datasets"): TSMetaDataset({'a': ward(), 'walk': walk})
    again = TSMetaDataset(dict(zip(walk.names, walk.datasets)))
    assert again.windowed and len(again) == len(walk)
    with pytest.raises(TypeError, match='has parts'): TSMetaDataset([TSMetaDatasets(ward(), ([0, 1], [2]))])
