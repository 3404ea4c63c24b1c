"Splitters, subsets and leaks: laws on random metadatasets, agreement with tsai and scikit-learn, size and speed"
import pickle, subprocess, sys, tracemalloc, warnings
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from fastcore.foundation import L
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.sources.recordings import WindowSource
from tsmeta.splits.index import View
from tsmeta.splits.leakage import apply_policy, check_leakage, purge
from tsmeta.splits.index import difference, overlaps
from tsmeta.splits.splits import Splits, select
from tsmeta.splits.index import merge_ranges, take
from tsmeta.splits.splitters import EachSplitter, HoldoutSplitter, SklearnSplitter, WalkForwardSplitter
from tsmeta.splits.splits import DataLayout, SplitResult, as_splits, describe

settings.register_profile('laws', deadline=None, derandomize=True)
settings.load_profile('laws')
pytestmark = pytest.mark.filterwarnings('ignore:.*have no share in every subset')

def make(lens, stride=1, extent=1, y=None, names=None, x=None, **info):
    "Make a real metadataset: windows of recordings, or rows of one step with targets"
    lens = np.asarray(lens, np.int64)
    names = [f'd{i}' for i in range(len(lens))] if names is None else names
    stride, extent = np.broadcast_to(stride, lens.shape), np.broadcast_to(extent, lens.shape)
    if y is not None or x is not None:
        ends = np.cumsum(lens)
        x = np.zeros((lens.sum(), 1, 1), np.float32) if x is None else x
        members = [(x[e-n:e], None if y is None else y[e-n:e]) for e, n in zip(ends, lens)]
    else:
        length = np.where(lens, (lens - 1)*stride + extent, 0)
        members = [WindowSource(np.zeros((1, n), np.float32), int(e), int(s)) for n, s, e in zip(length, stride, extent)]
    ragged = 'pad' if len(set(extent)) > 1 else 'error'
    return TSMetaDataset(dict(zip(names, members)), info=pd.DataFrame(info) if info else None, ragged=ragged)

def steps(meta, ids):
    "The time steps rows cover, written out"
    ds, rows = meta.index.locate(np.asarray(ids, np.int64))
    return {(int(d), int(r*meta.stride[d]) + k) for d, r in zip(ds, rows) for k in range(meta.extent[d])}

@st.composite
def metas(draw, windows=True):
    n = draw(st.integers(1, 6))
    lens = draw(st.lists(st.integers(0, 25), min_size=n, max_size=n).filter(sum))
    if not windows: return make(lens)
    few = lambda lo: draw(st.lists(st.integers(lo, 7), min_size=n, max_size=n))
    return make(lens, few(1), few(1))

@st.composite
def metas_with_subsets(draw):
    meta = draw(metas())
    n = len(meta)
    ids = st.lists(st.integers(0, max(0, n-1)), max_size=20) if n else st.just([])
    runs = st.builds(lambda a, b: list(range(min(a, b), max(a, b))), st.integers(0, n), st.integers(0, n))
    return meta, {s: draw(st.one_of(ids, runs)) for s in draw(st.sampled_from([('train', 'valid'), ('train', 'valid', 'test'), ('valid', 'train')]))}

sizes = st.one_of(st.integers(1, 6), st.decimals('.05', '.45', places=2).map(float))

# EachSplitter

@given(metas(), sizes, st.one_of(st.just(0), sizes), st.integers(0, 6))
def test_each_splitter_parts_every_dataset(meta, valid, test, gap):
    try: parts = EachSplitter(valid, test, gap)(meta)
    except ValueError as e:
        assert 'No dataset is long enough' in str(e)
        return
    assert sorted([*np.concatenate([v.ids() for v in parts]), *parts.purged]) == list(range(len(meta)))
    assert len(parts) == (3 if test else 2)
    where = [meta.index.locate(v.ids()) for v in parts]
    for d, n in enumerate(meta.lens):
        rows = [r[ds == d] for ds, r in where]
        spans = [s*meta.stride[d] for r in rows if len(r) for s in [np.array([r.min(), r.max()])]]
        for (_, a), (b, _) in zip(spans, spans[1:]): assert b - (a + meta.extent[d]) >= gap
        assert (d in set(parts.short.dataset)) == bool(n and any(len(r) == 0 for r in rows))
    assert len(check_leakage(meta, parts, gap=gap)) == 0

@given(metas(windows=False), st.decimals('.05', '.95', places=2).map(float))
def test_each_splitter_is_a_slice_of_every_dataset(meta, valid):
    try: train, held = EachSplitter(valid)(meta)
    except ValueError: return
    cut = f'{(100*pd.to_numeric(1) - round(100*valid)):g}%'
    splits, short = Splits(meta), set(EachSplitter(valid)(meta).short.dataset)
    keep = lambda v: [i for i in v if int(meta.index.locate(np.array([i]))[0][0]) not in short]
    assert keep(train) == keep(select(splits, f'train[:{cut}]', per='dataset'))
    assert keep(held) == keep(select(splits, f'train[{cut}:]', per='dataset'))

def test_each_splitter_lists_short_datasets():
    with pytest.warns(UserWarning, match="2 of 4 datasets have no share in every subset, such as 'd1' \\(2 rows, not in valid\\)"): parts = EachSplitter(.2)(make([10, 2, 0, 1]))
    assert parts.short.values.tolist() == [[1, 'd1', 2, 'valid'], [3, 'd3', 1, 'valid']]
    assert [len(p) for p in parts] == [8 + 2 + 1, 2]
    for bad in (dict(valid=0), dict(valid=-1), dict(valid=.5, test=.5), dict(valid='x'), dict(valid=True), dict(gap=-1), dict(gap=.5), dict(valid=float('nan'))):
        with pytest.raises(ValueError): EachSplitter(**bad)

# WalkForwardSplitter

@pytest.mark.parametrize('n_splits, kw', [(n, dict(valid_size=v, test_size=t, gap=g, **more)) for n in (1, 3) for v, t in ((.1, 0.), (.1, .1), (6, 4), (5, 0)) for g in (0, 3, .05)
    for more in (dict(anchored=True), dict(train_size=20), dict(train_size=.25))])
def test_walk_forward_folds_are_tsais(n_splits, kw):
    tsai = pytest.importorskip('tsai.data.validation')
    want = tsai.get_walk_forward_splits(range(160), n_splits=n_splits, show_plot=False, **kw)
    got = WalkForwardSplitter(n_splits, **kw).folds(range(160))
    assert [[list(v) for v in f] for f in got] == [[list(v) for v in f if len(v)] for f in want]

@given(metas(), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_walk_forward_never_looks_ahead(meta, n_splits, valid, test, gap, anchored):
    try: folds = WalkForwardSplitter(n_splits, valid, test, gap, anchored).folds(meta)
    except ValueError as e:
        assert 'No dataset is long enough' in str(e)
        return
    assert len(folds) == n_splits
    for f in folds:
        assert len(check_leakage(meta, f)) == 0
        for d in range(len(meta.lens)):
            rows = [r[ds == d] for ds, r in (meta.index.locate(v.ids()) for v in f)]
            assert all(a.max() < b.min() for a, b in zip(rows, rows[1:]) if len(a) and len(b))
    assert [list(v) for v in WalkForwardSplitter(n_splits, valid, test, gap, anchored, fold=0)(meta)] == [list(v) for v in folds[0]]

# HoldoutSplitter

@given(st.lists(st.integers(0, 9), min_size=3, max_size=30).filter(sum), st.integers(1, 5), st.one_of(st.just(0), st.integers(1, 3)), st.integers(0, 9), st.data())
def test_no_group_on_two_sides(lens, valid, test, seed, data):
    groups = data.draw(st.lists(st.sampled_from('abcdefgh'), min_size=len(lens), max_size=len(lens)))
    meta = make(lens, y=np.arange(sum(lens)) % 3, person=groups)
    for stratify in (None, True, 'person'):
        try: parts = HoldoutSplitter(valid, test, groups='person', stratify=stratify, seed=seed)(meta)
        except ValueError as e: assert 'must be left to train on' in str(e); continue
        assert sorted(np.concatenate([v.ids() for v in parts])) == list(range(len(meta)))
        sides = [{groups[d] for d in meta.index.locate(v.ids())[0]} for v in parts]
        assert sum(map(len, sides)) == len(set.union(*sides)) and [len(s) for s in sides[1:]] == [valid, test][:1 + bool(test)]
        assert not len(check_leakage(meta, parts, groups='person'))

def test_holdout_does_not_depend_on_order_or_process():
    lens, names = np.arange(1, 41), [f'p{i}' for i in range(40)]
    meta = make(lens, names=names)
    held = lambda m: {m.names[d] for d in m.index.locate(HoldoutSplitter(.25)(m)['valid'].ids())[0]}
    mixed = make(lens[::-1], names=names[::-1])
    assert held(meta) == held(mixed) and len(held(meta)) == 10
    code = ("from tsmeta.splits.splits import DataLayout; from tsmeta.splits.splitters import HoldoutSplitter;"
        "m = DataLayout(range(1, 41), [f'p{i}' for i in range(40)]); print(*sorted({m.names[d] for d in m.index.locate(HoldoutSplitter(.25)(m)['valid'].ids())[0]}))")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split() == sorted(held(meta))

def test_stratified_is_nearer_than_chance():
    rng, worse = np.random.default_rng(0), []
    for trial in range(10):
        lens = rng.integers(5, 60, 60)
        y = np.concatenate([rng.choice(4, n, p=rng.dirichlet(np.full(4, .3))) for n in lens])
        meta = make(lens, y=y)
        off = lambda parts: max(np.abs(np.bincount(y[p.ids()], minlength=4)/len(p) - np.bincount(y, minlength=4)/len(y)).max() for p in parts)
        worse.append((off(HoldoutSplitter(.2, .2, stratify=True, seed=trial)(meta)), off(HoldoutSplitter(.2, .2, seed=trial)(meta))))
    balanced, chance = np.mean(worse, axis=0)
    assert balanced < .05 and balanced < chance / 2

def test_holdout_by_label():
    meta = make([5, 5, 5, 5], person=['ann', 'bob', 'bob', 'cat'], y=None)
    parts = HoldoutSplitter(['bob'], 1, groups='person')(meta)
    assert list(parts['valid']) == list(range(5, 15)) and len(parts['test']) == 5
    assert list(HoldoutSplitter('d3', groups=None)(meta)['valid']) == list(range(15, 20))
    assert list(HoldoutSplitter([20], groups=[10, 20, 20, 30])(meta)['valid']) == list(range(5, 15))
    for bad, why in ((dict(valid=['bob'], test=['bob'], groups='person'), 'valid and in test'), (dict(valid=['x']), "no dataset 'x'"), (dict(valid=1, groups='site'), "no info column 'site'"),
                     (dict(valid=1, groups=[1, 2]), 'one label per dataset'), (dict(valid=1, groups=['a', None, 'b', 'c']), "Dataset 1 \\('d1'\\) has no group label"), (dict(valid=1, stratify=True), 'one class per row'),
                     (dict(valid=4), 'must be left'), (dict(valid=1.2), 'share from 0')):
        with pytest.raises(ValueError, match=why): HoldoutSplitter(**bad)(meta)

# Cross-validators

def test_sklearn_cross_validators():
    ms = pytest.importorskip('sklearn.model_selection')
    y = np.tile([0, 0, 1], 40)
    meta = make([12]*10, y=y, person=list('aabbccddee'))
    for cv, groups in ((ms.GroupKFold(5), None), (ms.StratifiedGroupKFold(5), 'person'), (ms.KFold(5), None), (ms.LeaveOneGroupOut(), 'person')):
        folds = SklearnSplitter(cv, groups=groups).folds(meta)
        code = np.repeat(np.arange(10) if groups is None else np.arange(10)//2, 12)
        want = list(cv.split(np.zeros((120, 1)), y, code))
        assert [[list(v) for v in f] for f in folds] == [[v.tolist() for v in f] for f in want]
        if not isinstance(cv, ms.KFold): assert all(not set(code[list(a)]) & set(code[list(b)]) for a, b in folds)
    folds = SklearnSplitter(ms.TimeSeriesSplit(3, gap=1), per='dataset').folds(meta)
    want = list(ms.TimeSeriesSplit(3, gap=1).split(np.zeros(12)))
    for f, w in zip(folds, want): assert [list(v) for v in f] == [[d*12 + i for d in range(10) for i in p] for p in w]
    for fold in (3, -4):
        with pytest.raises(ValueError, match='no fold'): SklearnSplitter(ms.TimeSeriesSplit(3), per='dataset', fold=fold)(meta)
    with pytest.raises(TypeError, match='method split'): SklearnSplitter(5)

class ExpandingWindow:
    "A splitter over a time index, of the kind sktime has"
    def __init__(self, first, step, horizon): self.first, self.step, self.horizon = first, step, horizon
    def split(self, y):
        for at in range(self.first, len(y) - self.horizon + 1, self.step): yield np.arange(at), np.arange(at, at + self.horizon)

def test_splitters_over_a_time_index():
    meta = make([10, 6, 0, 2])
    folds = SklearnSplitter(ExpandingWindow(4, 2, 2)).folds(meta)
    assert [[list(v) for v in f] for f in folds] == [[[0, 1, 2, 3, 10, 11, 12, 13], [4, 5, 14, 15]], [[*range(6)], [6, 7]], [[*range(8)], [8, 9]]]
    assert list(folds[0].short.name) == ['d3'] and list(folds[2].short.name) == ['d1', 'd3']

# What counts as a split

def test_any_index_sequence():
    torch = pytest.importorskip('torch')
    meta, want = make([4, 6]), [[0, 1, 2], [8, 9]]
    mask = np.zeros(10, bool); mask[8:] = True
    forms = [lambda v: v, tuple, L, np.array, torch.tensor, pd.Series, lambda v: View(v, 10), lambda v: range(v[0], v[-1]+1), lambda v: slice(v[0], v[-1]+1), lambda v: np.array(v, np.uint8)]
    for f in forms:
        for outer in (list, tuple, L): assert [list(v) for v in as_splits(outer(map(f, want)), meta).values()] == want, f
    assert [list(v) for v in as_splits([[0, 1, 2], mask], meta).values()] == want
    assert list(as_splits({'a': [1], 'b': 'train[-1:]'}, meta)) == ['a', 'b']
    assert list(as_splits([[0]]*5, meta)) == ['train', 'valid', 'test', 'part3', 'part4']
    for bad in ([0, 1, 2], View([0], 10), np.arange(3), torch.arange(3), 'tran', [[0, 10]], [[-11]], [[.5]], [['a']], [None], [[[0], [1]], [[2], [3]]], [{}], 5, [View([0], 11)]):
        with pytest.raises((TypeError, IndexError, ValueError)): as_splits(bad, meta)

def test_tsai_and_fastai_splitters_run_unchanged():
    tsai, fastai = pytest.importorskip('tsai.data.validation'), pytest.importorskip('fastai.data.transforms')
    meta = make([50, 50], y=np.tile([0, 1], 50))
    with pytest.warns(UserWarning, match='EachSplitter'): splits = as_splits(tsai.TimeSplitter(.2, show_plot=False), meta)
    assert [len(v) for v in splits.values()] == [80, 20]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        as_splits(tsai.TimeSplitter(.2, show_plot=False), make([100]))
        for s in (tsai.RandomSplitter(.2, seed=0), fastai.RandomSplitter(.2, seed=0), fastai.EndSplitter(.2), fastai.IndexSplitter(range(20)), tsai.get_splits(meta.targets(), .2, show_plot=False, verbose=False),
                  tsai.get_predefined_splits(range(80), range(20))):
            assert [len(v) for v in as_splits(s, meta).values()][:2] == [80, 20]

def test_tsai_and_fastai_take_our_splits():
    pytest.importorskip('tsai.basics')
    from tsai.basics import TSClassification, TSDatasets, get_ts_dls
    from fastai.data.core import Datasets
    X, y = np.random.default_rng(0).normal(size=(100, 2, 8)).astype('float32'), np.tile(['a', 'b'], 50)
    for splits in (EachSplitter(.2)(X), EachSplitter(.2)(X).to_L()):
        dls = get_ts_dls(X, y, splits=splits, tfms=[None, TSClassification()], bs=16)
        assert (len(dls.train_ds), len(dls.valid_ds)) == (80, 20)
        np.testing.assert_array_equal(dls.valid_ds[3][0].numpy(), X[83])
    ds = Datasets(range(100), [[lambda i: i]], splits=EachSplitter(.2)(range(100)))
    assert [t[0] for t in ds.valid] == list(range(80, 100)) and len(ds.train) == 80
    train, valid = EachSplitter(.2)(y)
    assert train[5:7].tolist() == [5, 6] and valid[[3, -1]].tolist() == [83, 99] and X[valid].shape == (20, 2, 8) and y[np.asarray(train)[:2]].tolist() == ['a', 'b']

def test_parts():
    parts = EachSplitter(.2, .1)(make([10, 20, 3], y=np.arange(33) % 2))
    again = pickle.loads(pickle.dumps(parts))
    assert [list(v) for v in again] == [list(v) for v in parts] and again.names == parts.names and again.short.equals(parts.short)
    assert list(parts['test']) == list(parts[2]) and list(parts.asdict()) == ['train', 'valid', 'test']
    with pytest.raises(ValueError, match="No subset 'tst'"): parts['tst']
    assert 'train: ' in repr(parts) and '3 datasets' in repr(parts) and '%' in repr(parts) and 'rows' in repr(again)
    assert describe(make([4], y=np.arange(4.)), dict(a=View(range(2), 4)))['mean of y'].tolist() == [.5]

# Leaks

@given(metas_with_subsets())
def test_leaks_are_what_writing_out_all_steps_finds(case):
    meta, splits = case
    names = list(splits)
    report = check_leakage(meta, splits)
    got = {(r.shared, r.a, r.b): r.rows for r in report.itertuples()}
    for i, a in enumerate(names):
        for b in names[i+1:]:
            same, covered = set(splits[a]) & set(splits[b]), steps(meta, splits[b])
            near = {r for r in splits[a] if steps(meta, [r]) & covered}
            assert got.pop(('rows', a, b), 0) == len(same)
            if ('time steps', a, b) in got: assert got.pop(('time steps', a, b)) == len(near)
            else: assert near == same
    assert not got

@given(metas_with_subsets(), st.integers(0, 4))
def test_purge_leaves_no_leak_and_drops_no_more_than_needed(case, gap):
    meta, splits = case
    clean, dropped = purge(meta, splits, gap)
    assert list(clean) == list(splits) and len(check_leakage(meta, clean, gap=gap)) == 0
    order = sorted(splits, key=lambda s: s != 'train')
    for k, s in enumerate(order):
        later = [r for t in order[k+1:] for r in splits[t]]
        lo = [(d, t - gap, t + gap) for d, t in steps(meta, later)]
        near = lambda r: any(d == e and a <= t <= b for d, t in steps(meta, [r]) for e, a, b in lo)
        assert list(clean[s]) == [r for r in splits[s] if not near(r)]
        assert dropped[dropped.subset == s].rows.sum() == len(splits[s]) - len(clean[s])

@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_stretches_are_sets(a, b):
    a, b = [np.array([sorted(x) for x in s], np.int64).reshape(-1, 2) for s in (a, b)]
    written = lambda s: [i for lo, hi in s for i in range(lo, hi)]
    merged = merge_ranges(*b.T)
    assert [*map(int, written(zip(*merged)))] == sorted(set(written(b)))
    _, lo, hi = overlaps(a.T, merged)
    assert written(zip(lo, hi)) == [i for i in written(a) if i in set(written(b))]
    for view in (View.of_ranges(*a.T, 40), View(written(a), 40)): assert list(difference(view, *merged)) == [i for i in written(a) if i not in set(written(b))]

@given(st.lists(st.integers(0, 29), max_size=30), st.data())
def test_take_is_indexing(ids, data):
    for view in (View(ids, 30), View.of_ranges(ids, np.minimum(np.array(ids, int) + 3, 30), 30)):
        cuts = data.draw(st.lists(st.tuples(st.integers(0, len(view)), st.integers(0, len(view))).map(sorted), max_size=5))
        starts, stops = np.array(cuts, np.int64).reshape(-1, 2).T
        assert list(take(view, starts, stops)) == [i for a, b in cuts for i in view.ids()[a:b].tolist()]

def test_policies():
    meta = make([10, 10], 1, 4)
    leaky = as_splits([range(8), range(8, 20)], meta)
    with pytest.raises(ValueError, match="3 rows of train share time steps with valid in 1 datasets.*leak='purge'.*EachSplitter"): apply_policy(meta, leaky)
    assert [len(v) for v in apply_policy(meta, leaky, 'purge')[0].values()] == [5, 12]
    with pytest.warns(UserWarning, match='The split leaks'): assert len(apply_policy(meta, leaky, 'warn')[0]['train']) == 8
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(apply_policy(meta, leaky, 'allow')[0]['train']) == 8 and len(apply_policy(meta, as_splits([range(10), range(10, 20)], meta))[1]) == 0
    with pytest.raises(ValueError, match='leak is one of'): apply_policy(meta, leaky, 'drop')

def test_groups_and_duplicates_leak():
    x = np.random.default_rng(0).normal(size=(15, 2, 3)); x[11], x[12], x[4] = x[1], x[2], x[1]
    meta = make([5, 5, 5], x=x, person=['ann', 'ann', 'bob'])
    report = check_leakage(meta, [range(5), range(5, 10), range(10, 15)], groups='person', duplicates=True)
    assert report[['shared', 'a', 'b', 'rows']].values.tolist() == [['groups of person', 'train', 'valid', 5], ['duplicates', 'train', 'test', 3]]
    with pytest.raises(ValueError, match='share groups of person'): check_leakage(meta, [range(5), range(5, 10)], groups='person', raise_on_leak=True)

# Size

def test_ten_million_rows_in_ten_thousand_datasets():
    meta = DataLayout(np.full(10_000, 1_000), stride=1, extent=8)
    splitters = [EachSplitter(.2, .1, gap=5), HoldoutSplitter(.2, .1), WalkForwardSplitter(3, .1, .1, anchored=True)]
    for s in [lambda m: select(Splits(m), 'train[:80%]', per='dataset'), *splitters]:
        s(meta)
        tracemalloc.start()
        parts = s(meta)
        _, peak = tracemalloc.get_traced_memory(); tracemalloc.stop()
        assert peak < 20e6, (s, peak)
        if isinstance(parts, SplitResult): assert sum(v.nbytes for v in parts) < 64*10_000*len(parts) and all(v.ranges is not None for v in parts)
    leaky = {s: select(Splits(meta), spec, per='dataset') for s, spec in [('train', 'train[:80%]'), ('valid', 'train[80%:]')]}
    clean, dropped = purge(meta, leaky)
    assert len(check_leakage(meta, clean)) == 0 and dropped.rows.sum() == 7*10_000 and clean['train'].ranges is not None
