"The laws of the plans that do not give every row once."
import pickle

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.batches.plan import Plan
from tsmeta.batches.plan import PartialPlan, StratifiedPlan, WeightedPlan, make_plan
from tsmeta.load.loader import check_resume

SIZES = dict(n=st.integers(0, 300), bs=st.integers(1, 70), shuffle=st.booleans(), drop_last=st.booleans(), seed=st.integers(0, 9))


def epoch(plan, e=0): return np.concatenate([np.zeros(0, np.int64), *(plan[e, i] for i in range(len(plan)))])


def check(plan):
    "Batches are full but for the last, places are what batches are made of, and nothing depends on the order of calls."
    got = [plan[e, i] for e in (0, 2) for i in range(len(plan))]
    assert all(len(b) == plan.bs for b in [plan[0, i] for i in range(len(plan))][:-1])
    again = pickle.loads(pickle.dumps(plan))
    assert all(np.array_equal(a, b) for a, b in zip(got[::-1], [again[e, i] for e in (2, 0) for i in reversed(range(len(plan)))]))
    assert np.array_equal(epoch(plan), plan.rows(0, plan.n_rows, 0)) and len(epoch(plan)) == plan.n_rows
    assert plan.fingerprint == again.fingerprint


@settings(max_examples=150, deadline=None)
@given(**SIZES, take=st.one_of(st.none(), st.integers(1, 400), st.floats(.01, 1)))
def test_part_of_the_rows(n, bs, shuffle, drop_last, seed, take):
    plan = PartialPlan(n, bs, take, shuffle=shuffle, drop_last=drop_last, seed=seed)
    check(plan)
    assert len(np.unique(epoch(plan))) == plan.n_rows and plan.n_rows + plan.dropped == plan.take
    if take is None: assert np.array_equal(epoch(plan), epoch(Plan(n, bs, shuffle=shuffle, drop_last=drop_last, seed=seed)))


@settings(max_examples=150, deadline=None)
@given(**SIZES, k=st.integers(1, 6), take=st.one_of(st.none(), st.floats(.01, 1)))
def test_every_batch_has_its_share_of_every_class(n, bs, shuffle, drop_last, seed, k, take):
    rng = np.random.default_rng(seed)
    y = rng.choice(k, n, p=rng.dirichlet(np.ones(k)))
    plan = StratifiedPlan(y, bs, take, shuffle=shuffle, drop_last=drop_last, seed=seed)
    check(plan)
    assert len(np.unique(epoch(plan))) == plan.n_rows
    full = np.array([np.bincount(y[b], minlength=k) for b in plan if len(b) == bs])
    if len(full): assert np.ptp(full, axis=0).max() <= 1
    whole = np.bincount(y, minlength=k)*bs/max(1, n)
    if len(full): assert (abs(full - whole) < 2).all()


def test_stratified_batches_are_dealt_anew_each_epoch():
    plan = StratifiedPlan(np.arange(90) % 3, 30, shuffle=True, seed=0)
    assert not np.array_equal(np.sort(plan[0, 0]), np.sort(plan[1, 0]))
    assert not np.array_equal(plan[0, 0], np.sort(plan[0, 0]))
    assert np.array_equal(plan[0, 0], plan[0, 0])
    plan.seed = 1
    assert not np.array_equal(plan[0, 0], StratifiedPlan(np.arange(90) % 3, 30, shuffle=True, seed=0)[0, 0])


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 200), bs=st.integers(1, 70), seed=st.integers(0, 9), take=st.one_of(st.none(), st.integers(1, 400)))
def test_rows_without_weight_never_come(n, bs, seed, take):
    w = np.random.default_rng(seed).integers(0, 3, n).astype(float)
    w[seed % n] = 1
    plan = WeightedPlan(w, bs, take, seed=seed)
    check(plan)
    assert (w[epoch(plan)] > 0).all()


def test_draws_follow_the_weights():
    w = np.random.default_rng(0).random(50)
    plan = WeightedPlan(np.tile(w, 4000), 1000, seed=1)
    got, expected = np.bincount(epoch(plan) % 50, minlength=50), w/w.sum()*200_000
    assert ((got - expected)**2/expected).sum() < 90
    assert not np.array_equal(plan[0, 0], plan[1, 0])


@pytest.mark.parametrize('weights,says', [([1, np.nan], 'nan for row 1'), ([[1], [2]], 'shape'), ([0.], 'are 0')])
def test_bad_weights(weights, says):
    with pytest.raises(ValueError, match=says): make_plan(2, weights=weights, shuffle=True)


@pytest.mark.parametrize('take', [0, -1, 1.5, 0., 'half', True])
def test_bad_share(take):
    with pytest.raises(ValueError, match='partial_n'): make_plan(9, take=take)


@pytest.mark.parametrize('asked', [{'weights': np.arange(30.)}, {'stratify': True}, {'partial_n': 20}, {'stratify': True, 'partial_n': .7}], ids=str)
def test_loaders_resume_after_any_batch(asked):
    meta = TSMetaDataset([(np.arange(45.).reshape(15, 1, 3), list('abc')*5)]*2)
    check_resume(lambda **kw: TSMetaDataLoader(meta, bs=8, shuffle=True, seed=2, **asked, **kw))


def test_other_weights_do_not_resume():
    meta = TSMetaDataset([np.zeros((9, 1, 3))])
    def loader(w): return TSMetaDataLoader(meta, bs=4, shuffle=True, seed=2, weights=w)
    state = loader(np.ones(9)).state_dict()
    loader(np.ones(9)).load_state_dict(state)
    with pytest.raises(ValueError, match='weights'): loader(np.arange(9.)).load_state_dict(state)


def test_a_resumed_seed_replaces_one_that_was_used():
    meta = TSMetaDataset([np.arange(90.).reshape(30, 1, 3)])
    for asked in ({}, {'stratify': np.arange(30) % 2}, {'weights': np.ones(30)}):
        first, second = (TSMetaDataLoader(meta, bs=8, shuffle=True, **asked) for _ in range(2))
        want = first.get_idxs()
        second.one_batch()
        second.load_state_dict(first.state_dict())
        assert np.array_equal(second.get_idxs(), want)
