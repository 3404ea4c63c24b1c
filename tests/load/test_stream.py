"Streams without workers: rows, order, resume, fewer rows."
import json
from collections import Counter
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from tsmeta.load.feed import n_rows
from tsmeta.load.feed import ItemFeed, PlanFeed, RowFeed, Sampler, check_feed
from tsmeta.splits.index import Index, View
from tsmeta.batches.plan import MixPlan
from tsmeta.batches.plan import Plan
from tsmeta.load.stream import Stream, check_stream_resume
from stream_tools import *

def rows_of(stream, name='sample_uid'): return [int(u) for b in stream for u in np.atleast_1d(b[name])]
def batches(sizes):
    ends = np.cumsum(sizes)
    return [dict(x=np.arange(e - n, e) * 1., s=[str(i) for i in range(e - n, e)], sample_uid=np.arange(e - n, e)) for n, e in zip(sizes, ends)]

PLAN = Plan(30, bs=4, shuffle=True, seed=3)
VIEW = View(range(10, 40), 40)
def meta_stream(rank=0): return Stream.of(PlanFeed(PLAN, lambda ids: dict(x=ids * 1.), VIEW, Index([10] * 4), ['a', 'b', 'c', 'd'], rank))

# --- rows

@given(st.lists(st.integers(1, 7), max_size=12), st.integers(1, 9), st.booleans())
@settings(deadline=None, max_examples=60)
def test_rebatch_keeps_rows_and_order(sizes, n, drop_last):
    s = Stream.of(batches(sizes), seed=0).rebatch(n, drop_last)
    out, total = list(s), sum(sizes)
    want = total - total % n if drop_last else total
    assert [len(b['x']) for b in out[:-1]] == [n] * (len(out) - 1)
    assert rows_of(out) == list(range(want))
    assert [t for b in out for t in b['s']] == [str(i) for i in range(want)]

@given(st.lists(st.integers(1, 7), max_size=12), st.integers(1, 9), st.booleans())
@settings(deadline=None, max_examples=60)
def test_sub_batch_splits_and_never_joins(sizes, n, drop_last):
    out = list(Stream.of(batches(sizes), seed=0).sub_batch(n, drop_last))
    want = [p for s in sizes for p in [n] * (s // n) + [s % n] * (s % n > 0 and not drop_last)]
    assert [len(b['x']) for b in out] == want
    if not drop_last: assert rows_of(out) == list(range(sum(sizes)))

@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 25), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_max_samples_goes_around(total, bs, n, epochs):
    s = Stream.of(dict(x=np.arange(total)), seed=0).batch(bs).max_samples(n)
    got = [rows_of(s) for _ in range(epochs)]
    assert all(len(g) == n for g in got)
    assert sum(got, []) == [i % total for i in range(n * epochs)]

@given(st.integers(0, 20), st.sampled_from([1, 2, 3, 5]), st.integers(1, 6), st.booleans(),
       st.lists(st.sampled_from(['batch', 'rebatch', 'sub_batch', 'collate', 'max_samples', 'shuffle']), max_size=3))
@settings(deadline=None, max_examples=150)
def test_a_known_length_is_the_true_length(total, bs, n, drop_last, verbs):
    s = Stream.of(dict(x=np.arange(total)), seed=0).batch(bs)
    for v in verbs: s = getattr(s, v)(*([] if v == 'collate' else [n]), **(dict(drop_last=drop_last) if 'batch' in v else {}))
    try: want = len(s)
    except TypeError: return
    if total or 'max_samples' not in verbs: assert want == len(list(s))

def test_batch_joins_examples_and_batches():
    assert [b['y'].tolist() for b in Stream.of([dict(x=np.zeros(3), y=i) for i in range(5)], seed=0).batch(2)] == [[0, 1], [2, 3], [4]]
    assert [b['x'].shape for b in Stream.of([(np.zeros(3), 'a')] * 4, batched=False, seed=0).batch(3)] == [(3, 3), (1, 3)]
    assert list(Stream.of(range(5), seed=0).batch(2, drop_last=True)) == [[0, 1], [2, 3]]
    assert [b['name'] for b in Stream.of(dict(name=list('abc')), seed=0).max_samples(3).batch(2)] == [['a', 'b'], ['c']]

def test_collate_makes_columns():
    got = list(Stream.of([[dict(x=np.zeros(2), name='a'), dict(x=np.ones(2), name='b')]], seed=0).collate())[0]
    assert got['x'].shape == (2, 2) and got['name'] == ['a', 'b']
    assert list(Stream.of([1, 2], seed=0).collate(lambda i: {'v': [i]})) == [{'v': [1]}, {'v': [2]}]
    with pytest.raises(TypeError, match='cannot collate int'): list(Stream.of([1], seed=0).collate())

def test_wrong_columns_are_named():
    a, b = dict(x=np.zeros(2), y=np.zeros(2)), dict(x=np.zeros(2), z=np.zeros(2))
    for verb in ('batch', 'rebatch'):
        with pytest.raises(ValueError, match=r"lacks the columns \['y'\] and has the extra columns \['z'\]"): list(getattr(Stream.of([a, b], seed=0), verb)(4))
    with pytest.raises(ValueError, match="column 'y' has 3 rows, but 'x' has 2"): list(Stream.of([dict(x=np.zeros(2), y=np.zeros(3))], seed=0).rebatch(4))
    with pytest.raises(ValueError, match="column 'y' has 3 rows"): Stream.of(dict(x=np.zeros(2), y=np.zeros(3)))

def test_containers_are_not_changed():
    d = dict(x=np.ones((6, 2)), y=list('abcdef'))
    for s in (Stream.of(d, seed=0), Stream.of(d, seed=0).batch(4), Stream.of([d], seed=0)):
        for _ in range(2):
            out = list(s.map(scale_in_place, worker='thread'))
            assert out[0]['x'].max() == 2
    assert list(d) == ['x', 'y'] and d['x'].max() == 1

def test_two_iterators_do_not_meet():
    s = Stream.of(dict(x=np.arange(6)), seed=0).batch(2).map(identity)
    a, b = iter(s), iter(s)
    assert rows_of([next(a), next(b), next(a), next(b), *a, *b]) == [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5]

def test_nothing_runs_until_iterated():
    seen = []
    s = Stream.of([1, 2, 3], seed=0).map(seen.append)
    it = iter(s)
    assert seen == []
    assert list(it) == [] and seen == [1, 2, 3] and s.stats()['1 map(append)']['skipped'] == 3

def test_an_iterator_cannot_be_read_twice_but_its_maker_can():
    s = Stream.of(iter([1, 2]), seed=0)
    assert list(s) == [1, 2]
    with pytest.raises(ValueError, match='used up'): list(s)
    s = Stream.of(lambda: iter([1, 2]), seed=0)
    assert list(s) == list(s) == [1, 2]

# --- order

def test_samplers():
    d = dict(x=np.arange(40), y=np.repeat([0, 1], [30, 10]))
    s = Stream.of(d, seed=1)
    assert rows_of(s.sampler('random')) == rows_of(s.sampler('random')) != list(range(40))
    r = s.sampler('random')
    assert rows_of(r) != rows_of(r) and sorted(rows_of(r)) == list(range(40))
    assert rows_of(s.sampler('subset', rows=[3, 1, -1])) == [3, 1, 39]
    assert len(rows_of(s.sampler('replacement', n=100))) == 100
    assert Counter(rows_of(s.sampler('balanced', n=60), 'y')) == {0: 30, 1: 30}
    with pytest.raises(TypeError): s.sampler('random', m=3)

@given(st.integers(0, 30), st.integers(1, 40), st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_shuffle_is_a_permutation_keyed_by_seed_and_epoch(n, buffer, epoch):
    def run(): 
        s = Stream.of(range(n), seed=0).shuffle(buffer, seed=5)
        s.set_epoch(epoch)
        return list(s)
    assert sorted(run()) == list(range(n)) and run() == run()

def test_a_metadataset_keeps_its_order():
    s = meta_stream()
    for e in range(2): assert rows_of(s) == [i + 10 for k in range(8) for i in PLAN[e, k].tolist()]
    mixed = Stream.of(PlanFeed(MixPlan([10] * 3, 4, 'equal', names=['b', 'c', 'd']), s.feed.fetch, VIEW))
    check_feed(mixed.feed)
    assert len(s) == 8 and len(s.rebatch(7)) == 5 and len(s.sub_batch(3)) == 15 == len(list(s.sub_batch(3)))
    for verb, args in (('shuffle', (5,)), ('sampler', ('random',))):
        with pytest.raises(ValueError, match=r'stream\('): getattr(s, verb)(*args)
    check_feed(s.feed)

def test_ranks_draw_different_numbers():
    a, b = (list(meta_stream(rank=r).map(add_noise)) for r in (0, 1))
    assert not np.allclose(a[0]['x'], b[0]['x'])

def test_the_global_generator_is_read_once_and_only_without_a_seed():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    list(Stream.of(range(5), seed=3).shuffle(3).map(global_rng).map(numbered_rng))
    assert np.array_equal(np.random.get_state()[1], before)
    s = Stream.of(range(5))
    after = np.random.get_state()[2]
    list(s.shuffle(3).map(numbered_rng))
    assert np.random.get_state()[2] == after

# --- breaking off and resuming

CHAINS = dict(
    batch=lambda s: s.batch(3), rebatch=lambda s: s.map(spread_rows).rebatch(4), sub_batch=lambda s: s.batch(5).sub_batch(2),
    collate=lambda s: s.batch(2).collate(), max_samples=lambda s: s.batch(2).max_samples(7), shuffle=lambda s: s.shuffle(4),
    sampler=lambda s: s.sampler('random').batch(2), map=lambda s: s.batch(2).map(add_noise), fan=lambda s: s.batch(3).map(spread_rows),
    threads=lambda s: s.batch(2).map(add_noise, num_workers=2, worker='thread'),
    long=lambda s: s.sampler('random').batch(3).map([spread_rows, add_noise]).max_samples(17).rebatch(3).shuffle(2).map(add_noise))

@pytest.mark.parametrize('name', CHAINS)
def test_a_broken_epoch_leaves_nothing(name):
    def make(): return CHAINS[name](Stream.of(dict(x=np.arange(11.)), seed=2))
    whole, broken = make(), make()
    first, second = list(whole), list(whole)
    for n, _ in enumerate(broken):
        if n == 1: break
    assert same(list(broken), second)
    again = make()
    assert same(list(again), first)

@pytest.mark.parametrize('name', CHAINS)
def test_resume_at_every_step(name):
    def make(): return CHAINS[name](Stream.of(dict(x=np.arange(11.)), seed=2))
    check_stream_resume(make, epoch=0)
    check_stream_resume(make)

def test_check_resume_finds_what_is_wrong():
    calls = []
    with pytest.raises(ValueError, match='does not deliver the rest'): check_stream_resume(lambda: Stream.of(range(5), seed=0).map(lambda i: (calls.append(i), len(calls))[1]))

def test_resume_of_a_metadataset_and_after_the_last_batch():
    s = meta_stream().map(add_noise)
    want = list(s), list(s)
    s = meta_stream().map(add_noise, fan_out=1)
    it = iter(s)
    for _ in range(8): next(it)
    state = s.state_dict()
    assert (state['epoch'], state['delivered'], state['token']) == (1, 0, None)
    other = meta_stream().map(add_noise)
    other.load_state_dict(state)
    assert same(list(other), want[1])

def test_another_chain_refuses_a_state():
    a = Stream.of(dict(x=np.arange(6)), seed=0).batch(2)
    state = a.state_dict()
    with pytest.raises(ValueError, match='6 rows of x.*where this one has.*7 rows'): Stream.of(dict(x=np.arange(7)), seed=0).batch(2).load_state_dict(state)
    with pytest.raises(ValueError, match='seed'): Stream.of(dict(x=np.arange(6)), seed=1).batch(2).load_state_dict(state)
    with pytest.raises(ValueError, match=r'random\(seed=1\).*random\(seed=2\)'): a.sampler('random', seed=2).load_state_dict(a.sampler('random', seed=1).state_dict())
    with pytest.raises(ValueError, match='no state'): a.map(identity, num_workers=1, worker='thread', in_order=False).state_dict()

def test_set_epoch():
    s = Stream.of(dict(x=np.arange(9)), seed=0).sampler('random')
    epochs = [rows_of(s) for _ in range(3)]
    s.set_epoch(1)
    assert [rows_of(s), rows_of(s)] == epochs[1:]

# --- fewer rows

def test_subsample_uids_follows_the_request():
    calls = []
    def count(b):
        calls.extend(b['sample_uid'])
        return b
    d = dict(x=np.arange(20.), who=[f'p{i % 5}' for i in range(20)])
    s = Stream.of(d, seed=0).sampler('random').batch(4).map(count, worker='thread').shuffle(3).max_samples(50)
    assert rows_of(s.subsample_uids([7, 3, 11, 3])) == [7, 3, 11, 3] and calls == [7, 3, 11, 3]
    assert rows_of(s.subsample_uids(['p2'], 'who')) == [2, 7, 12, 17]
    assert sorted(rows_of(s.subsample_uids(range(6), sampler=Sampler('random', seed=1)))) == list(range(6))
    with pytest.raises(ValueError, match="column 'patient'"): s.subsample_uids([1], 'patient')
    assert sorted(d) == ['who', 'x']

def test_missing_uids_are_reported(caplog):
    s = Stream.of(dict(x=np.arange(5)), seed=0).subsample_uids([3, 77, 88])
    assert '77, 88' in caplog.text and s.missing_uids == [77, 88] and rows_of(s) == [3]
    with pytest.raises(ValueError, match='none of the 1 uids'): s.subsample_uids([99])

def test_subsample_of_batches_items_and_a_metadataset():
    assert rows_of(Stream.of(batches([3, 4, 2]), seed=0).subsample_uids([8, 0, 4])) == [8, 0, 4]
    assert list(Stream.of(list('abcd'), seed=0).subsample_uids([2, 0])) == ['c', 'a']
    assert rows_of(meta_stream().subsample_uids([25, 10])) == [25, 10]
    assert rows_of(meta_stream().subsample_uids([(2, 5), ('b', 1)])) == [25, 11]
    assert meta_stream().subsample_uids([(2, 5), (0, 1)]).missing_uids == [(0, 1)]
    with pytest.raises(ValueError, match="dataset 'zz'"): meta_stream().subsample_uids([('zz', 1)])
    for s in (meta_stream(), Stream.of(batches([3, 4, 9]), seed=0), Stream.of(dict(x=np.arange(30)), seed=0).batch(4)):
        few = s.map(add_noise).subsample(6)
        assert len(set(rows_of(few))) == 6 and rows_of(few) == rows_of(s.map(add_noise).subsample(6))

# --- sources

def test_a_torch_loader_is_a_source_and_tensors_stay_tensors():
    torch = pytest.importorskip('torch')
    ds = torch.utils.data.TensorDataset(torch.arange(10.).reshape(10, 1), torch.arange(10))
    dl = torch.utils.data.DataLoader(ds, batch_size=4)
    out = list(Stream.of(dl, seed=0).rebatch(3))
    assert [len(b['y']) for b in out] == [3, 3, 3, 1] and torch.equal(torch.cat([b['y'] for b in out]), torch.arange(10))
    assert [b['x'].shape for b in Stream.of(ds, batched=False, seed=0).batch(5)] == [(5, 1), (5, 1)]
    assert len(Stream.of(dl, seed=0)) == 3

def test_pandas_is_a_source():
    pd = pytest.importorskip('pandas')
    frame = pd.DataFrame(dict(x=[1., 2, 3], name=list('abc')), index=[5, 6, 7])
    assert rows_of(Stream.of(frame, seed=0).batch(2)) == [0, 1, 2]

def test_bad_sources_and_arguments():
    for bad, error in ((3, TypeError), (None, TypeError)):
        with pytest.raises(error, match='cannot stream over'): Stream.of(bad)
    s = Stream.of(range(3), seed=0)
    for call in (lambda: s.batch(0), lambda: s.rebatch(-1), lambda: s.max_samples(1.5), lambda: s.shuffle(0), lambda: Stream.of([1], seed=-1),
                 lambda: s.map(identity, num_workers=-1), lambda: s.map(identity, on_error='ignore'), lambda: s.map(identity, timeout=0),
                 lambda: s.map(identity, prefetch=2, max_in_flight=2), lambda: s.async_reservoir(3, min_samples=4), lambda: s.async_reservoir(3, num_workers=0)):
        with pytest.raises(ValueError, match='`.*`'): call()
    for call in (lambda: s.map(3), lambda: s.map([]), lambda: s.map(identity, workers=2), lambda: s.collate(3), lambda: len(s.map(identity))):
        with pytest.raises(TypeError): call()

def test_promised_fan_out():
    s = Stream.of(range(3), seed=0)
    assert len(s.map(half_steps, fan_out=2)) == 6 == len(list(s.map(half_steps, fan_out=2)))
    with pytest.raises(ValueError, match='gave 2 items, but `fan_out=1`'): list(s.map(half_steps, fan_out=1))

def test_results_of_any_kind():
    s = Stream.of(range(4), seed=0)
    assert list(s.map(generator)) == [v for i in range(4) for v in (i, i + .5)]
    assert list(s.map(fan_or_skip)) == [1, 2, 2] and s.map(lambda i: dict(x=np.zeros(i))).stats() == {}
    assert [len(b['x']) for b in s.map(lambda i: dict(x=np.zeros(i)))] == [1, 2, 3]
    assert list(s.map(half_steps, collate_fn=sum)) == [.5, 2.5, 4.5, 6.5]
    assert list(s.map([half_steps, double])) == [v for i in range(4) for v in (2 * i, 2 * i + 1)]

# --- what people pass

def test_numbers_of_any_kind_and_others_refused():
    n = np.int64
    s = Stream.of(dict(x=np.arange(9)), seed=n(3)).batch(n(2)).map(identity, num_workers=n(1), worker='thread', max_in_flight=n(2)).rebatch(n(3)).max_samples(n(6)).shuffle(n(2))
    assert len(list(s)) == 2 and json.loads(json.dumps(s.state_dict()))['seed'] == 3
    for call in (lambda: Stream.of([1], seed=1.5), lambda: s.subsample(0), lambda: s.subsample(-3), lambda: s.subsample(2.5), lambda: s.map(identity, max_in_flight=2.5), lambda: s.map(identity, fan_out=.5)):
        with pytest.raises(ValueError, match='`.*`'): call()
    with pytest.raises(ValueError, match='epoch'): s.set_epoch(-1)
    for state in (None, {'a': 1}, [3]):
        with pytest.raises(ValueError, match='not the state of a stream'): s.load_state_dict(state)

def test_uids_that_make_no_sense_are_named():
    for uids, text in ((['3'], "'3'"), ([4, (0, 1)], r'\(0, 1\)'), ([(0, 1), 4], '4'), ([2.5], '2.5'), ([], 'no uids')):
        with pytest.raises(ValueError, match=text): meta_stream().subsample_uids(uids)
    assert rows_of(meta_stream().subsample_uids(np.array([[2, 5], [1, 0]]))) == [25, 10] == rows_of(meta_stream().subsample_uids(np.array([25., 10]).astype(int)))

def test_what_iterables_and_lists_hold_is_not_changed_either():
    held = [dict(x=np.ones((2, 2))), dict(x=np.ones((2, 2)))]
    def append(b):
        b['tags'][0].append(9)
        return b
    for _ in range(2): assert [b['x'].max() for b in Stream.of(lambda: iter(held), seed=0).map(scale_in_place)] == [2, 2]
    d = dict(tags=[[1], [2]], x=np.ones(2))
    assert [b['tags'] for b in Stream.of(d, seed=0).map(append)] == [[[1, 9]], [[2, 9]]]
    assert d['tags'] == [[1], [2]] and all(h['x'].max() == 1 and list(h) == ['x'] for h in held)

def test_skipping_in_a_resumed_epoch_is_as_in_a_whole_one(caplog):
    def make(): return Stream.of(range(9), seed=0).map(fail_from_8, on_error='skip')
    s, again = make(), make()
    it = iter(s)
    for _ in range(8): next(it)
    again.load_state_dict(s.state_dict())
    assert list(it) == list(again) == [] and caplog.text.count('failed on 1 of') == 2

def test_a_length_that_skipping_makes_unknown():
    s = Stream.of(range(9), seed=0).map(fail_odd, fan_out=1, on_error='skip')
    with pytest.raises(TypeError, match="on_error='skip'"): len(s)
    assert len(Stream.of(range(9), seed=0).map(identity, fan_out=1)) == 9

def test_the_same_work_on_other_rows_by_the_same_workers():
    with Stream.of(dict(x=np.arange(9.)), seed=0).batch(3).map(with_pid_column, num_workers=1) as s:
        pids = {b['pid'][0] for b in s}
        other = s.work_on([dict(x=np.ones(2), sample_uid=np.arange(2))])
        assert {b['pid'][0] for b in other} == pids
        mixed = s.max_samples(5).work_on([dict(x=np.ones(2), sample_uid=np.arange(2))])
        assert len(list(mixed)) == 1
        other.close()
        assert {b['pid'][0] for b in s} == pids
        late = s.work_on([dict(x=np.ones(2), sample_uid=np.arange(2))])
    with pytest.raises(ValueError, match='this stream is closed'): list(late)
    mixed.close()

def test_a_loader_that_knows_its_rows_gives_their_ids():
    pytest.importorskip('fastai')
    from tsmeta.load.loader import TSMetaDataLoader
    from tsmeta.data.dataset import TSMetaDataset
    dl = TSMetaDataLoader(TSMetaDataset([(np.zeros((9, 1, 4), np.float32), np.arange(9))]), bs=4, shuffle=True, seed=2, device='cpu')
    new = dl.new()
    want = [new.ids.tolist() for _ in new]
    assert [b['sample_uid'].tolist() for b in Stream.of(dl, seed=0)] == want
