"The laws that every metadataset keeps, whatever its members: asked order, the right rows and labels, ids that ride along."
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from members import LEN, VARS, make, member
from tsmeta.batches import gather as gather_module
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.splits.index import Index, View, check_index
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.batches.plan import Plan, check_plan
from tsmeta.batches.permutation import perm_keys, permute

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def build(specs, folder):
    "A metadataset and what it must equal: all rows and labels one after the other"
    made = [make(*spec, Path(folder)) for spec in specs]
    kinds = {type(v).__name__ for _, _, y in made for v in y}
    assume(len(kinds) == 1)
    return TSMetaDataset([m for m, _, _ in made]), np.concatenate([x for _, x, _ in made]), [v for _, _, y in made for v in y]


def forms(idx, n):
    "The same rows asked for in every way people ask"
    yield from (idx, np.array(idx, np.int64), np.array(idx, np.int32), torch.tensor(idx, dtype=torch.long), L(idx), tuple(idx))
    yield [i - n for i in idx]


@quick
@given(specs=st.lists(member, min_size=1, max_size=6), data=st.data())
def test_a_batch_equals_indexing_the_concatenated_array(specs, data):
    assume(sum(s[1] for s in specs))
    with tempfile.TemporaryDirectory() as folder:
        meta, X, labels = build(specs, folder)
        n = len(X)
        assert len(meta) == n
        idx = data.draw(st.lists(st.integers(0, n-1), min_size=1, max_size=20))
        for form in forms(idx, n):
            if isinstance(form, tuple) and len(form) == 1: continue
            x, y = meta[form]
            assert np.array_equal(x.numpy(), X[idx], equal_nan=True)
            assert [meta.vocab[i] for i in y] == [labels[i] for i in idx]
            assert np.array_equal(meta.index.ids(*meta.mapping_idxs.T), np.array(idx))
        for s in (slice(None), slice(1, None, 2), slice(None, None, -1), slice(n, n+5)):
            assert np.array_equal(meta[s][0].numpy(), X[s]) and np.array_equal(meta[[s]][0].numpy(), X[s])
        mask = np.zeros(n, bool)
        mask[idx] = True
        assert np.array_equal(meta[mask][0].numpy(), X[mask])
        assert np.array_equal(meta[range(n)][0].numpy(), X)
        i = idx[0]
        assert np.array_equal(meta[i][0].numpy(), X[i]) and np.array_equal(meta[np.int64(i)][0].numpy(), X[i])
        assert meta[i][0].shape == (VARS, LEN)
        rows = meta.__getitems__(idx)
        assert np.array_equal(torch.stack([r[0] for r in rows]).numpy(), X[idx])


@quick
@given(specs=st.lists(member, min_size=1, max_size=5), data=st.data())
def test_pickle_and_the_path_without_numba_give_the_same(specs, data):
    assume(sum(s[1] for s in specs))
    with tempfile.TemporaryDirectory() as folder:
        meta, X, labels = build(specs, folder)
        idx = data.draw(st.lists(st.integers(0, len(X)-1), min_size=1, max_size=20))
        there = pickle.loads(pickle.dumps(meta))
        assert np.array_equal(there[idx][0].numpy(), X[idx]) and np.array_equal(there[idx][1].numpy(), meta[idx][1].numpy())
        with pytest.MonkeyPatch.context() as m:
            m.setattr(gather_module, 'HAS_NUMBA', False)
            x, y = meta[idx]
            assert np.array_equal(x.numpy(), X[idx]) and [meta.vocab[i] for i in y] == [labels[i] for i in idx]
            with pytest.raises(IndexError): meta[[len(X)]]


@quick
@given(specs=st.lists(member, min_size=1, max_size=5), seed=st.integers(0, 99), bs=st.integers(1, 9), drop=st.booleans(), data=st.data())
def test_loaders_deliver_the_rows_their_ids_say(specs, seed, bs, drop, data):
    assume(sum(s[1] for s in specs))
    with tempfile.TemporaryDirectory() as folder:
        meta, X, labels = build(specs, folder)
        part = meta.subset(data.draw(st.lists(st.integers(0, len(X)-1), min_size=1, max_size=30)))
        for shuffle in (False, True):
            dl = TSMetaDataLoader(part, bs=bs, shuffle=shuffle, drop_last=drop, seed=seed)
            seen = []
            for x, y in dl:
                assert np.array_equal(x.numpy(), X[dl.ids]) and [meta.vocab[i] for i in y] == [labels[i] for i in dl.ids]
                assert np.array_equal(meta.index.ids(*dl.dataset.mapping_idxs.T), dl.ids)
                seen += dl.ids.tolist()
            if not drop: assert sorted(seen) == sorted(part.ids().tolist())
            if not drop and not shuffle: assert seen == part.ids().tolist()
            assert len(seen) == dl.plan.n_rows and len(seen) + dl.plan.dropped == len(part)


@quick
@given(st.lists(st.integers(0, 40), max_size=30))
def test_index(lens): check_index(Index(lens))


@quick
@given(data=st.data(), n=st.integers(1, 300))
def test_view_is_the_array_it_was_made_from(data, n):
    ranges = data.draw(st.lists(st.tuples(st.integers(0, n), st.integers(0, n)), max_size=8))
    ids = np.concatenate([np.arange(a, b) for a, b in ranges] + [np.zeros(0, np.int64)]).astype(np.int64)
    for view in (View(ids, n), View.of_ranges([a for a, b in ranges if b > a], [b for a, b in ranges if b > a], n)):
        assert len(view) == len(ids) and np.array_equal(view.ids(), ids)
        if len(ids):
            pos = data.draw(st.lists(st.integers(-len(ids), len(ids)-1), max_size=9))
            assert np.array_equal(view[pos], ids[np.array(pos, int)])
            assert view[-1] == ids[-1]
        with pytest.raises(IndexError): view[[len(ids)]]
    meta = TSMetaDataset([np.zeros((k, 1, 2)) for k in data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=9)) + [1]])
    ids = ids[ids < len(meta)]
    assert np.array_equal(meta.part(View(ids, len(meta))).lens, np.bincount(meta.index.locate(ids)[0], minlength=len(meta.names)))


@quick
@given(n=st.integers(0, 3000), bs=st.integers(1, 200), shuffle=st.booleans(), drop=st.booleans(), seed=st.integers(-5, 2**70))
def test_plan(n, bs, shuffle, drop, seed): check_plan(Plan(n, bs, shuffle, seed, drop))


def test_every_order_of_a_few_rows_is_equally_likely():
    n, draws = 5, 24_000
    seen = np.stack([permute(np.arange(n), n, perm_keys(n, s)) for s in range(draws)])
    counts = np.unique(seen @ 10**np.arange(n), return_counts=True)[1]
    chi2 = ((counts - draws/120)**2/(draws/120)).sum()
    assert len(counts) == 120 and chi2 < 119 + 5*np.sqrt(2*119)


@pytest.mark.parametrize('n', [1000, 5000, 100_000])
def test_orders_are_uncorrelated_with_position_epoch_and_seed(n):
    def order(*key): return permute(np.arange(n), n, perm_keys(n, *key)).astype(float)
    a = order(1, 0)
    others = [np.arange(n), order(1, 1), order(2, 0), np.roll(a, 1), np.roll(a, 7)]
    assert all(abs(np.corrcoef(a, o)[0, 1]) < 5/np.sqrt(n) for o in others)
    jumps = np.diff(a) % n
    assert np.histogram(jumps, bins=20, range=(0, n))[0].std() < 5*np.sqrt(n/20)
    assert (np.abs(np.diff(a)) == 1).sum() < 20


def test_100_000_datasets():
    X = np.random.default_rng(0).normal(size=(100_000, 1, 4)).astype(np.float32)
    meta = TSMetaDataset([(X[i:i+1], ['u' if i % 2 else 'v']) for i in range(100_000)])
    idx = np.random.default_rng(1).integers(0, 100_000, 512)
    assert np.array_equal(meta[idx][0].numpy(), X[idx])
    assert meta.index.nbytes <= 64*100_000
    assert len(repr(meta).splitlines()) <= 20


def test_files_beyond_the_limit_of_open_files(tmp_path):
    for k in range(40): np.save(tmp_path/f'{k}.npy', np.full((2, 1, 3), k, np.float32))
    meta = TSMetaDataset([tmp_path/f'{k}.npy' for k in range(40)])
    meta.gather.opened.max_open = 8
    idx = np.random.default_rng(0).permutation(80)
    assert np.array_equal(meta[idx][0][:, 0, 0].numpy(), idx//2) and len(meta.gather.opened.lazy) == 8
    assert meta.names[:2] == ['0', '1']


def test_a_file_replaced_by_a_shorter_one_is_an_error_that_names_it(tmp_path):
    np.save(tmp_path/'a.npy', np.zeros((9, 1, 3), np.float32))
    meta = TSMetaDataset([tmp_path/'a.npy'])
    np.save(tmp_path/'a.npy', np.zeros((3, 1, 3), np.float32))
    with pytest.raises(ValueError, match='a.npy changed'): meta[[8]]


def test_splits_of_splits_and_repeats():
    X = np.arange(40, dtype=np.float32).reshape(20, 1, 2)
    meta = TSMetaDataset([X[:3], X[3:], X[:0]])
    train = TSMetaDatasets(meta, [[5, 4, 4, 19], [0]]).train
    again = TSMetaDatasets(train, [[3, 0], [1, 2]])
    assert np.array_equal(again.train[:][0].numpy(), X[[19, 5]])
    assert np.array_equal(again.valid[:][0].numpy(), X[[4, 4]])
