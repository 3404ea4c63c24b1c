"Mixes are exact in every epoch, for every set, order of rows, batching, and number of workers."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.batches.mix import Mix, largest_remainder, quotas
from tsmeta.batches.plan import MixPlan, check_mix
from tsmeta.load.loader import check_resume

LENS = [40, 0, 7, 23]


def meta():
    rng = np.random.default_rng(0)
    return TSMetaDataset({f'd{k}': (rng.normal(size=(n, 1, 4)).astype(np.float32), ['a', 'b']*(n//2) + ['a']*(n % 2)) for k, n in enumerate(LENS)})


def counts(dl, n=4): return np.bincount(np.concatenate([dl.dataset.mapping_idxs[:, 0] for _ in dl]), minlength=n)


@settings(max_examples=60, deadline=None)
@given(lens=st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(sum), bs=st.integers(1, 20), drop=st.booleans(), seed=st.integers(0, 99),
       batching=st.sampled_from(['random', 'stratified', 'per_dataset']), share=st.sampled_from(['equal', 'proportional', ('temperature', 3)]),
       stop=st.sampled_from([None, 'first_exhausted', 'all_exhausted', 3]), cap=st.sampled_from([None, 5]))
def test_any_mix_keeps_its_law(lens, bs, drop, seed, batching, share, stop, cap):
    mix = Mix(share, batching=batching, stopping_strategy=stop, cap=cap)
    if not quotas(mix, lens, bs).sum(): return
    plan = MixPlan(lens, bs, mix, seed, drop)
    check_mix(plan)
    if batching == 'per_dataset': assert all(len({int(np.searchsorted(np.cumsum(lens), r, side='right')) for r in b}) == 1 for b in plan)
    if batching == 'stratified':
        c = np.stack([np.bincount(np.searchsorted(np.cumsum(lens), b, side='right'), minlength=len(lens)) for b in plan])
        assert np.ptp(c, axis=0).max() <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20).filter(sum), st.integers(0, 10**6))
def test_whole_numbers_add_up_and_stay_within_one(p, total):
    p = np.array(p)/sum(p)
    w = largest_remainder(p, total)
    assert w.sum() == total and (np.abs(w - p*total) < 1 + 1e-6*total).all()


@pytest.mark.parametrize('workers', [0, 1, 2])
def test_a_loader_holds_the_mix_whatever_the_order_of_its_rows(workers):
    m = meta()
    for part in (m, m.subset(range(5, 70)), m.subset(np.random.default_rng(0).permutation(70)), m.subset([*range(60, 70), *range(10)])):
        want = np.where(part.lens > 0, len(part)//(part.lens > 0).sum(), 0)
        got = counts(TSMetaDataLoader(part, bs=8, shuffle=True, seed=1, mix='equal', num_workers=workers))
        assert np.abs(got - want).max() <= 1 and got.sum() == len(part)
    assert counts(TSMetaDataLoader(m, bs=8, shuffle=True, seed=1, mix={'d0': 1, 'd3': 1})).tolist() == [35, 0, 0, 35]


def test_order_with_a_mix_does_not_depend_on_workers_and_resumes():
    m = meta()
    make = lambda num_workers=0: TSMetaDataLoader(m, bs=16, shuffle=True, seed=3, mix=Mix(('temperature', 2), batching='stratified'), num_workers=num_workers)
    orders = [[dl.ids.tolist() for _ in dl] for dl in map(make, (0, 1, 2))]
    assert orders[0] == orders[1] == orders[2]
    check_resume(make, epochs=1, resume_with=({}, dict(num_workers=1)))


def test_train_only_and_dropped_by_new_loaders():
    m = meta()
    dls = TSMetaDataLoaders.from_dsets(m.subset(range(50)), m.subset(range(50, 70)), bs=8, mix='equal', seed=0, device='cpu')
    assert counts(dls.valid).tolist() == [0, 0, 0, 20]
    ordered = dls.train.new(shuffle=False, drop_last=False)
    assert np.concatenate([ordered.ids for _ in ordered]).tolist() == list(range(50))
    assert counts(dls.test_dl(m)).tolist() == LENS
    dls.train.set_mix({'d0': 1})
    assert counts(dls.train)[1:].sum() == 0


def test_wrong_mixes_are_refused_before_training():
    m = meta()
    for kw, words in [(dict(mix='equel'), "got 'equel'"), (dict(mix={'dx': 1}), "'dx', which is no dataset"), (dict(mix=[1, 2]), '4 datasets and 2 shares'),
                      (dict(mix={'d1': 1}), "'d1' (1) has a share of the mix but no rows"), (dict(mix='equal', weights=np.ones(70)), 'cannot go with weights'),
                      (dict(mix=[0, 0, 0, 0]), 'not all zero'), (dict(mix=('temperature', 0)), 'must be positive')]:
        with pytest.raises(ValueError) as e: TSMetaDataLoader(m, shuffle=True, **kw)
        assert words in str(e.value)
    with pytest.raises(ValueError, match='needs shuffle=True'): TSMetaDataLoader(m, mix='equal')
