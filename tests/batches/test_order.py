"Every plan against a slow reference, its randomness, and what is promised about order, mixes and batches."
import json
import pickle
import tracemalloc
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
import tsmeta.batches.plan as plan_module
from tsmeta.batches.plan import BucketPlan, RunPlan
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.batches.mix import Mix
from tsmeta.batches.plan import MixPlan, check_mix
from tsmeta.batches.plan import BlockPlan, WithinPlan, order_plan
from tsmeta.batches.plan import Plan, check_plan
from tsmeta.batches.plan import PartialPlan, StratifiedPlan, WeightedPlan
from tsmeta.load.loader import check_resume

LENS = st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(sum)
COMMON = dict(bs=st.integers(1, 30), seed=st.integers(0, 99), drop_last=st.booleans())
SMALL = dict(max_examples=80, deadline=None)


def epoch(plan, e=0): return np.concatenate([np.zeros(0, np.int64), *(plan[e, i] for i in range(len(plan)))])
def ds_of(lens): return np.repeat(np.arange(len(lens)), lens)


def check(plan):
    "The law, and that many batches at once, one batch, and a plan that travelled say the same."
    check_plan(plan)
    again = pickle.loads(pickle.dumps(plan))
    assert plan.fingerprint == again.fingerprint
    together = plan.many(1, 0, len(plan))
    assert len(together) == len(plan) and all(np.array_equal(b, again[1, i]) for i, b in enumerate(together))


@settings(**SMALL)
@given(lens=LENS, turned=st.booleans(), **COMMON)
def test_within(lens, turned, bs, seed, drop_last):
    n = sum(lens)
    where = np.random.default_rng(seed).permutation(n) if turned else None
    plan = WithinPlan(lens, bs, where, seed=seed, drop_last=drop_last)
    check(plan)
    places, ds = plan.rows(0, n, 1), ds_of(lens)
    if turned: places = np.argsort(where)[places]
    assert np.array_equal(ds[places], ds)
    assert np.array_equal(epoch(plan, 1), plan.rows(0, plan.n_rows, 1))


@settings(**SMALL)
@given(n=st.integers(1, 300), block=st.integers(1, 50), mixed=st.integers(1, 5), **COMMON)
def test_blocks(n, block, mixed, bs, seed, drop_last):
    plan = BlockPlan(n, bs, block, mixed, seed=seed, drop_last=drop_last)
    check(plan)
    rows, blocks = plan.rows(0, n, 1), Counter(np.arange(n)//block)
    at = 0
    while at < n:  # slow reference: whole blocks, `mixed` at a time
        took, seen = 0, set()
        while len(seen) < mixed and at + took < n or at + took < n and rows[at+took]//block in seen:
            seen.add(rows[at+took]//block)
            took += 1
            if took >= sum(blocks[b] for b in seen) and len(seen) == mixed: break
        assert took == sum(blocks[b] for b in seen), 'a block is torn apart'
        at += took
    for a in range(0, n, 7): assert np.array_equal(plan.rows(a, min(n, a+7), 1), rows[a:a+7])


@settings(**SMALL)
@given(lens=LENS, keys=st.integers(1, 4), share=st.sampled_from(['proportional', 'equal', ('temperature', 2)]), turned=st.booleans(), **COMMON)
def test_buckets(lens, keys, share, turned, bs, seed, drop_last):
    key = np.random.default_rng(seed).integers(0, keys, len(lens))*100
    where = np.random.default_rng(seed).permutation(sum(lens)) if turned else None
    plan = BucketPlan(lens, key, bs, share, seed=seed, drop_last=drop_last, where=where)
    back = np.argsort(where) if turned else np.arange(sum(lens))
    batches = [back[b] for b in plan]
    assert all(len(set(key[ds_of(lens)[b]])) == 1 for b in batches)
    counts = np.bincount(ds_of(lens)[np.concatenate(batches)], minlength=len(lens))
    assert np.array_equal(counts, plan.counts)
    want = MixPlan(lens, bs, share).counts
    if not drop_last: assert np.array_equal(counts, want)
    for k in set(key):  # slow reference of what is dropped: less than a batch per key, and never a whole key
        q = want[key == k].sum()
        assert counts[key == k].sum() == (q - q % bs if drop_last and q > bs else q)
    if share == 'proportional': check(plan)
    if not turned: check_mix(plan)


@settings(**SMALL)
@given(lens=LENS, keys=st.integers(1, 3), bs=st.integers(1, 30))
def test_runs_in_order(lens, keys, bs):
    key = np.random.default_rng(0).integers(0, keys, len(lens))
    plan = RunPlan(lens, key, bs)
    check(plan)
    of, want = key[ds_of(lens)], []
    for r in range(sum(lens)):
        if not want or len(want[-1]) == bs or of[want[-1][-1]] != of[r]: want.append([])
        want[-1].append(r)
    assert [b.tolist() for b in plan] == want


@settings(**SMALL)
@given(lens=LENS, **COMMON)
def test_a_mix_never_repeats_a_row_before_all_of_its_dataset_came(lens, bs, seed, drop_last):
    plan = MixPlan(lens, bs, 'equal', seed, drop_last)
    seen = np.bincount(epoch(plan), minlength=sum(lens))
    for d, n in enumerate(lens):
        own = seen[ds_of(lens) == d]
        if n: assert own.max() - own.min() <= 1 and own.sum() == plan.counts[d]


PLANS = {'full': lambda n, s: Plan(n, shuffle=True, seed=s), 'within': lambda n, s: WithinPlan([n], seed=s), 'mix': lambda n, s: MixPlan([n], seed=s),
         'block': lambda n, s: BlockPlan(n, block=10, mixed=n, seed=s), 'bucket': lambda n, s: BucketPlan([n//2, n - n//2], [0, 0], seed=s)}


@pytest.mark.parametrize('kind', PLANS)
def test_order_is_random(kind):
    n, make = 20_000, PLANS[kind]
    plan = make(n, 1)
    a, b, c = epoch(plan, 0).astype(float), epoch(plan, 1), epoch(make(n, 2), 0)
    bound = 5/np.sqrt(n)
    for x, y in [(np.arange(n), a), (a, b), (a, c), (a[:-1], a[1:])]: assert abs(np.corrcoef(x, y)[0, 1]) < bound
    assert (np.diff(a) == 1).sum() < 12 and (a == b).sum() < 12 and (a == c).sum() < 12
    first = [epoch(make(20, s))[0] for s in range(2000)]
    assert ((np.bincount(first, minlength=20) - 100)**2/100).sum() < 19 + 5*np.sqrt(38)


@pytest.mark.parametrize('make', [lambda: Plan(10**9, shuffle=True), lambda: WithinPlan([10**8]*10), lambda: MixPlan([10**5]*10_000, mix='equal'), lambda: BlockPlan(10**9),
                                  lambda: BucketPlan([10**5]*10_000, np.arange(10_000) % 7), lambda: PartialPlan(10**9, take=.1, shuffle=True)],
                         ids=['full', 'within', 'mix', 'block', 'bucket', 'partial'])
def test_a_billion_rows_take_no_memory(make):
    make()[0, 0]  # compiles
    tracemalloc.start()
    plan = make()
    first, late = plan[0, 0], plan[7, 10**6]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6 and len(np.unique(first)) == len(np.unique(late)) == 64


def test_options_of_a_mix():
    with pytest.raises(ValueError, match='exactly one of'): Mix(repeat=2, choose=3)
    with pytest.raises(ValueError, match='exactly one of'): Mix('equal', proportion=.5)
    lens = [100, 40, 10]
    counts = lambda **kw: MixPlan(lens, 8, Mix(**kw)).counts.tolist()
    assert counts(proportion=.5) == [50, 20, 5] and counts(repeat=[1, 2, 3]) == [100, 80, 30] and counts(choose=[1, 2, 3]) == [1, 2, 3]
    assert counts(choose=30, cap=25) == [25, 25, 25] and counts(share='proportional', cap=30) == [30, 30, 10]
    assert counts(share='equal', stopping_strategy='first_exhausted') == [10]*3
    assert counts(share='equal', stopping_strategy='all_exhausted') == [100]*3
    assert sum(counts(share='equal', stopping_strategy=6)) == 48
    assert counts(share={'0': 2, '2': 1}) == [100, 0, 50] and counts(share=[0, 1, 0]) == [0, 150, 0]


@settings(**SMALL)
@given(lens=LENS, bs=st.integers(1, 30), seed=st.integers(0, 99), share=st.sampled_from(['equal', 'proportional', ('temperature', 3)]))
def test_realised_mixes_are_exact_in_every_epoch_and_stratified_batches_to_one_row(lens, bs, seed, share):
    for batching in ('random', 'stratified'):
        plan = MixPlan(lens, bs, Mix(share, batching=batching), seed)
        for e in range(3): assert np.array_equal(np.bincount(ds_of(lens)[epoch(plan, e)], minlength=len(lens)), plan.counts)
    full = [np.bincount(ds_of(lens)[b], minlength=len(lens)) for b in plan if len(b) == bs]
    if full: assert np.abs(np.array(full) - plan.counts/plan.n_rows*bs).max() < 1 + plan.counts.max()/plan.n_rows
    assert len(full) == 0 or np.ptp(full, axis=0).max() <= 1


def meta():
    rng = np.random.default_rng(0)
    info = pd.DataFrame(dict(site=['a', 'b', 'a', 'c']))
    data = {f'd{k}': (rng.normal(size=(n, 1, 4)).astype(np.float32), list(rng.choice(['x', 'y', 'z'], n, p=[.7, .2, .1]))) for k, n in enumerate([40, 13, 7, 23])}
    return TSMetaDataset(data, info=info)


ASKED = [dict(shuffle='within'), dict(shuffle='block'), dict(shuffle=('block', 8, 2)), dict(shuffle='full'), dict(batching='per_dataset'), dict(batching='site'),
         dict(batching=[5, 6, 5, 5], mix='equal'), dict(weights='balanced'), dict(batching='site', shuffle=False), dict(batching='bucket')]


@pytest.mark.parametrize('asked', ASKED, ids=str)
@pytest.mark.parametrize('mixed_rows', [False, True])
def test_loaders_give_what_is_asked_with_any_workers_and_resume(asked, mixed_rows):
    part = meta()
    if mixed_rows: part = part.subset(np.random.default_rng(1).permutation(83)[:70])
    make = lambda num_workers=0: TSMetaDataLoader(part, **{**dict(bs=8, shuffle=True, seed=1), **asked}, num_workers=num_workers)
    dl = make()
    found = [dl.where.copy() for _ in dl]
    rows = pd.concat(found)
    if 'weights' not in asked and 'mix' not in asked: assert not rows.duplicated(['dataset', 'row']).any() and len(rows) == len(part)
    if asked.get('shuffle') == 'within': assert rows['dataset'].is_monotonic_increasing
    if asked.get('batching') == 'per_dataset': assert all(w['dataset'].nunique() == 1 for w in found)
    if asked.get('batching') == 'site': assert all(meta().info['site'][w['dataset']].nunique() == 1 for w in found)
    if asked.get('shuffle') is False: assert np.array_equal(np.concatenate([dl.ids for _ in dl]), part.ids())
    other = make(1 if mixed_rows else 2)
    other.set_epoch(dl.epoch)
    assert [dl.ids.tolist() for _ in dl] == [other.ids.tolist() for _ in other]
    if not mixed_rows: check_resume(make, epochs=1)
    assert repr(dl.new().plan) == repr(dl.plan)


def test_buckets_by_length():
    rng = np.random.default_rng(0)
    data = {f'd{k}': (rng.normal(size=(20, 1, n)), np.arange(20) % 2) for k, n in enumerate([5, 9, 5, 7])}
    ragged, alike = TSMetaDataset(data, ragged='bucket'), meta()
    for kw in ({}, dict(mix='equal'), dict(shuffle=False)):
        asked, plain = (TSMetaDataLoader(ragged, **{**dict(bs=8, shuffle=True, seed=1), **kw, **more}) for more in (dict(batching='bucket'), {}))
        assert [dl.ids.tolist() for dl in [asked] for _ in dl] == [dl.ids.tolist() for dl in [plain] for _ in dl]
        assert {b[0].shape[-1] for b in asked} == {5, 7, 9}
    one = TSMetaDataLoader(alike, bs=8, shuffle=True, seed=1, batching='bucket')
    assert len(one.plan.sizes()) <= 2 and sorted(np.concatenate([one.ids for _ in one])) == list(range(83))


@pytest.mark.parametrize('ragged', ['bucket', 'per_dataset'])
def test_an_order_from_elsewhere_keeps_lengths_apart(ragged):
    rng = np.random.default_rng(0)
    data = {f'd{k}': (rng.normal(size=(20, 1, n)), np.arange(20) % 2) for k, n in enumerate([5, 9, 5, 7])}
    part = TSMetaDataset(data, ragged=ragged).subset(rng.permutation(80))
    for dl in (TSMetaDataLoader(part, bs=8), TSMetaDataLoader(part, bs=8, shuffle=True, seed=1)):
        order = dl.get_idxs()
        given = dl.new(get_idxs=lambda: order)
        steps = np.array([5, 9, 5, 7])
        found = [(x.shape[-1], set(steps[given.where['dataset']]), given.ids.tolist()) for x, _ in given]
        assert all(own == {n} for n, own, _ in found) and sum((ids for *_, ids in found), []) == part.ids(order).tolist() and len(given) == len(found)


def test_balanced_classes_come_alike_often():
    m = meta()
    dl = TSMetaDataLoader(m, bs=64, shuffle=True, seed=1, weights='balanced', partial_n=None)
    y = np.concatenate([dl.dataset.targets(dl.ids) for _ in range(60) for _ in dl])
    assert np.abs(np.bincount(y)/len(y) - 1/3).max() < .03
    with pytest.raises(ValueError, match="or 'balanced'"): TSMetaDataLoader(m, shuffle=True, weights='even')
    numbers = TSMetaDataset([(np.zeros((5, 1, 4)), np.arange(5.))])
    with pytest.raises(ValueError, match='one class per row'): TSMetaDataLoader(numbers, shuffle=True, weights='balanced')


def test_a_changed_mix_is_part_of_the_state():
    m = meta()
    make = lambda: TSMetaDataLoader(m, bs=8, shuffle=True, seed=1, mix='equal')
    first = make()
    for _ in first: pass
    first.set_mix({'d0': 1, 'd3': 2})
    it = iter(first)
    next(it), next(it)
    state, rest = json.loads(json.dumps(first.state_dict())), [first.ids.tolist() for _ in it]
    with pytest.raises(ValueError, match='resume: mix changed'): make().load_state_dict(state)
    other = make()
    other.set_mix({'d0': 1, 'd3': 2})
    other.load_state_dict(state)
    assert [other.ids.tolist() for _ in other] == rest
    with pytest.raises(ValueError, match="'d9', which is no dataset"): other.set_mix({'d9': 1})
    assert repr(other.plan.mix) == repr(first.plan.mix)


@pytest.mark.parametrize('other,words', [
    (dict(bs=4), 'batch size'), (dict(shuffle='within'), 'shuffling'), (dict(shuffle=False), 'shuffling'), (dict(drop_last=True), 'drop_last'), (dict(mix='equal'), 'mix'),
    (dict(batching='site'), 'mix, batching'), (dict(weights='balanced'), 'weights, stratify or partial_n'), (dict(bs=4, drop_last=True), 'batch size, drop_last')], ids=str)
def test_what_changed_since_a_state_was_saved_is_named(other, words):
    how = dict(bs=8, shuffle=True, seed=1)
    state = json.loads(json.dumps(TSMetaDataLoader(meta(), **how).state_dict()))
    with pytest.raises(ValueError, match=f'Cannot resume: {words} changed since'): TSMetaDataLoader(meta(), **{**how, **other}).load_state_dict(state)


@pytest.mark.parametrize('asked,words', [
    (dict(shuffle='blocks'), "got 'blocks'"), (dict(shuffle=('block', 0)), 'at least one row'), (dict(shuffle='within', mix='equal'), 'needs shuffle=True'),
    (dict(shuffle='block', weights=np.ones(83)), 'cannot go with weights'), (dict(shuffle='within', batching='site'), 'cannot go with batching'),
    (dict(batching='ward'), 'a column of info (site)'), (dict(batching=[1, 2]), '4 datasets and 2 keys'), (dict(batching='site', partial_n=5), 'cannot go with partial_n'),
    (dict(batching='site', mix=Mix('equal', batching='stratified')), "batching='stratified'")], ids=str)
def test_what_cannot_be_asked_at_once(asked, words):
    with pytest.raises(ValueError) as e: TSMetaDataLoader(meta(), **{'shuffle': True, **asked})
    assert words in str(e.value)


def test_all_plans_have_their_own_fingerprint():
    plans = [Plan(30, 4), Plan(30, 4, True), order_plan('within', [10, 20], 4), order_plan('within', [20, 10], 4), order_plan('block', [30], 4), order_plan(('block', 7), [30], 4),
             BucketPlan([10, 20], bs=4), BucketPlan([10, 20], [0, 0], bs=4), RunPlan([10, 20], bs=4), RunPlan([20, 10], bs=4), MixPlan([10, 20], 4), MixPlan([10, 20], 4, 'equal'),
             MixPlan([10, 20], 4, Mix(batching='stratified')), PartialPlan(30, 4, 10), WeightedPlan(np.ones(30), 4), StratifiedPlan(np.arange(30) % 2, 4)]
    prints = [p.fingerprint for p in plans]
    assert len(set(prints)) == len(prints)


KINDS = dict(
    plain=lambda **kw: Plan(30, **kw), shuffled=lambda **kw: Plan(30, shuffle=True, **kw), within=lambda **kw: WithinPlan([10, 20], **kw),
    block=lambda **kw: BlockPlan(30, block=7, mixed=2, **kw), partial=lambda **kw: PartialPlan(30, take=17, **kw),
    weighted=lambda **kw: WeightedPlan(np.ones(30), **kw), stratified=lambda **kw: StratifiedPlan(np.arange(30) % 3, **kw),
    mix=lambda **kw: MixPlan([10, 20], **kw), stratified_mix=lambda **kw: MixPlan([10, 20], mix=Mix(batching='stratified'), **kw),
    per_dataset=lambda **kw: MixPlan([10, 20], mix=Mix(batching='per_dataset'), **kw), bucket=lambda **kw: BucketPlan([10, 20], **kw),
    runs=lambda **kw: RunPlan([10, 20], **kw))


@pytest.mark.parametrize('kind', KINDS)
def test_batches_of_the_current_epoch_and_from_the_end(kind):
    plan, third = KINDS[kind](bs=4), KINDS[kind](bs=4, epoch=3)
    n = len(plan)
    for i in range(n):
        assert np.array_equal(plan[i], plan[0, i]) and np.array_equal(plan[i], plan[i - n]) and np.array_equal(plan[2, i], plan[2, i - n])
        assert np.array_equal(third[i], plan[3, i])
    assert [b.tolist() for b in plan] == [b.tolist() for b in plan.many(0, 0, n)] and plan.many(0, 1, 1) == []
    for i in (n, -n - 1):
        with pytest.raises(IndexError, match=f'Asked for batch {i}, but an epoch has {n}'): plan[i]


@pytest.mark.parametrize('kind', KINDS)
def test_a_plan_needs_rows_in_a_batch(kind):
    for bs in (0, -1):
        with pytest.raises(ValueError, match=f'bs >= 1, got n=30, bs={bs}'): KINDS[kind](bs=bs)


def test_a_plan_of_fewer_than_no_rows():
    for make in (lambda: Plan(-1), lambda: BlockPlan(-1), lambda: PartialPlan(-1)):
        with pytest.raises(ValueError, match='n >= 0 rows and bs >= 1, got n=-1'): make()
    for make in (lambda: WithinPlan([-1]), lambda: RunPlan([3, -1])):
        with pytest.raises(ValueError, match='negative length'): make()
    assert [len(p) for p in (Plan(0), Plan(0, drop_last=True), BlockPlan(0), WithinPlan([]), WeightedPlan([]), StratifiedPlan([]), RunPlan([]))] == [0]*7


@pytest.mark.parametrize('kind', KINDS)
def test_another_version_of_the_order_gives_another_fingerprint(kind, monkeypatch):
    before = KINDS[kind](bs=4).fingerprint
    monkeypatch.setattr(plan_module, 'ORDER_VERSION', 2)
    assert KINDS[kind](bs=4).fingerprint != before


@pytest.mark.parametrize('how', [dict(shuffle=True), dict(shuffle='within'), dict(shuffle=True, mix='equal'), dict(shuffle=True, weights='balanced')], ids=str)
def test_a_state_of_another_order_is_refused(how, monkeypatch):
    state = json.loads(json.dumps(TSMetaDataLoader(meta(), bs=8, seed=1, **how).state_dict()))
    monkeypatch.setattr(plan_module, 'ORDER_VERSION', 2)
    with pytest.raises(ValueError, match='Cannot resume: the algorithm that orders rows .this is another version of tsmeta. changed'):
        TSMetaDataLoader(meta(), bs=8, seed=1, **how).load_state_dict(state)
    new = TSMetaDataLoader(meta(), bs=8, seed=1, **how)
    new.load_state_dict(json.loads(json.dumps(new.state_dict())))


@pytest.mark.parametrize('shuffle', ['within', ('block', 8, 2), False])
def test_loaders_of_a_split_keep_the_kind_of_shuffling(shuffle):
    dls = meta().split('train[:75%]', 'train[75%:]', per='dataset').dataloaders(bs=8, seed=1, shuffle_train=shuffle, device='cpu')
    want = TSMetaDataLoader(dls.train_ds, bs=8, shuffle=shuffle, seed=1, drop_last=True)
    assert type(dls.train.plan) is type(want.plan) and dls.train.plan.fingerprint == want.plan.fingerprint and not dls.valid.shuffle


@pytest.mark.parametrize('world', [1, 2])
@pytest.mark.parametrize('batching', ['site', [5, 6, 5, 5]], ids=str)
def test_batches_never_cross_buckets_whatever_becomes_of_a_loader(batching, world):
    part = meta().subset(np.random.default_rng(1).permutation(83))
    key = np.array([0, 1, 0, 2] if batching == 'site' else batching)
    def buckets(dl): return [(set(key[dl.where['dataset']]), dl.all_ids.tolist()) for _ in dl]
    dls = TSMetaDataLoaders.from_dsets(part, part, bs=8, seed=1, batching=batching, device='cpu', **({} if world == 1 else dict(rank=1, world_size=2)))
    for k, dl in enumerate([dls.train, dls.valid, dls.train.new(shuffle=False, drop_last=False), dls.test_dl(part)]):
        idxs = dl.new().get_idxs()
        for one in (dl, dl.new(get_idxs=lambda: idxs)):
            found = buckets(one)
            assert all(len(kinds) == 1 for kinds, _ in found)
            if k: assert sum((ids for _, ids in found), []) == part.ids().tolist() and len(found) == len(dl)
    assert dls.train.shard.steps(dls.train.plan.sizes()) == len(buckets(dls.train))


def test_a_mix_changed_in_the_middle_of_an_epoch_waits_for_the_next_in_the_state_too():
    make = lambda mix='equal': TSMetaDataLoader(meta(), bs=8, shuffle=True, seed=1, mix=mix)
    dl, whole, new = make(), make(), make({'d0': 1})
    want = [whole.ids.tolist() for _ in whole]
    it = iter(dl)
    next(it)
    dl.set_mix({'d0': 1})
    for k in range(1, len(want)):
        state = json.loads(json.dumps(dl.state_dict()))
        other = make()
        with pytest.warns(UserWarning, match='call set_mix again when'): other.load_state_dict(state)
        assert [other.ids.tolist() for _ in other] == want[k:]
        with pytest.raises(ValueError, match='resume: mix changed'): make({'d0': 1}).load_state_dict(state)
        next(it)
    new.load_state_dict(dl.state_dict())
    assert [dl.ids.tolist() for _ in dl] == [new.ids.tolist() for _ in new] and new.epoch == 2


@pytest.mark.parametrize('asked', [{**a, **({} if 'shuffle' not in a else dict(shuffle_train=a['shuffle']))} for a in ASKED], ids=str)
def test_loaders_of_any_order_can_be_emptied_for_export(asked):
    asked = {k: v for k, v in asked.items() if k != 'shuffle'}
    dls = meta().split('train[:75%]', 'train[75%:]', per='dataset').dataloaders(bs=8, seed=1, device='cpu', **asked)
    assert [len(dl) for dl in dls.new_empty().loaders] == [0, 0] and len(dls.new_empty().test_dl(meta())) == 11
