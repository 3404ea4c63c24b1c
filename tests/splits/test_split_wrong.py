"What errors wrong ways of splitting raise, and what right but unusual ways give"
import inspect, os, pickle, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from fastcore.foundation import L
from sklearn.model_selection import KFold, StratifiedKFold
from tsmeta.data.datasets import TSMetaDatasets
import tsmeta.splits.splits as splits_module
from tsmeta.splits.index import to_ids, View
from tsmeta.splits.leakage import check_leakage
from tsmeta.data.dataset import TSMetaDataset
import tsmeta.load.loader, tsmeta.data.dataset
from tsmeta.splits.leakage import show_splits
from tsmeta.splits.splits import describe, resolve
from tsmeta.splits.splitters import EachSplitter, HoldoutSplitter, SklearnSplitter, WalkForwardSplitter

rng = np.random.default_rng(0)
INFO = dict(person=['ann', 'ann', 'bob'], site=['x', None, 'y'])
meta = TSMetaDataset({k: (rng.normal(size=(n, 2, 8)), rng.choice(['up', 'down'], n)) for k, n in [('a', 20), ('b', 5), ('c', 15)]}, info=INFO)
rec = TSMetaDataset.from_recordings({f'r{i}': rng.normal(size=(2, n)).astype('f4') for i, n in enumerate([100, 80, 30])}, window=20, stride=5, y=['u', 'v', 'u'])
bare = TSMetaDataset({'a': rng.normal(size=(9, 2, 8)), 'b': rng.normal(size=(9, 2, 8))})
mds = meta.split('train[:75%]', 'train[75%:]')
other = TSMetaDataset({'z': rng.normal(size=(30, 2, 8))})

class Odd:
    "A cross-validator that has no more than it must"
    def split(self, X, y, groups): raise ValueError('no such thing')

HOW = 'Say how to split: a splitter such as EachSplitter'
WRONG = [
    # no parts, or nothing that is one
    ('meta.split()', ValueError, 'at least one part'),
    ('meta.split([])', ValueError, 'at least one part'),
    ('meta.split({})', ValueError, 'at least one part'),
    ('meta.split(5)', TypeError, HOW),
    ('meta.split(.8)', TypeError, HOW),
    ('meta.split(.8, .2)', TypeError, HOW),
    ("meta.split(b'train')", TypeError, HOW),
    ('meta.split([0, 1], None)', TypeError, HOW),
    ('meta.split(iter([1]))', TypeError, HOW),
    ('meta.split(x for x in [[1], [2]])', TypeError, HOW),
    ('meta.split(np.array(3))', TypeError, HOW),
    ('meta.split(torch.tensor(3), torch.tensor(4))', TypeError, HOW),
    ('TSMetaDatasets(meta, 5)', TypeError, HOW),
    ('TSMetaDatasets(meta, [1, 2])', TypeError, HOW),
    ('meta.split(EachSplitter(), EachSplitter())', TypeError, HOW),
    ('meta.split([EachSplitter()])', TypeError, HOW),
    ('meta.split(EachSplitter)', TypeError, r'EachSplitter is a class.*EachSplitter\(\)'),
    ('meta.split(HoldoutSplitter)', TypeError, 'HoldoutSplitter is a class'),
    ('meta.split(lambda m: None)', TypeError, 'answered None'),
    ('meta.split(lambda m: 5)', TypeError, 'answered 5'),
    # rows that are none
    ('meta.split([0, 1, 2], [3.5])', IndexError, "'valid': Row ids must be integers"),
    ('meta.split([0], [40])', IndexError, "'valid': Asked for row 40"),
    ('meta.split([0], [-41])', IndexError, "'valid': Asked for row -41"),
    ('meta.split(np.arange(39) < 30, [0])', IndexError, "'train': A boolean mask"),
    ("meta.split(['a', 'b'], ['c'])", TypeError, "'train' lists text such as 'a'.*HoldoutSplitter"),
    ('meta.split([[0], [1]], [2])', TypeError, "'train' holds subsets itself"),
    ('meta.split(WalkForwardSplitter(2).folds(meta))', TypeError, 'Of several folds pass one'),
    ('meta.split(View(range(10), 50))', ValueError, 'made for 50 rows, but here are 40'),
    ('meta.split(other, meta)', TypeError, "'train' is a metadataset of other datasets"),
    ('mds.train.split(range(30), range(30, 40))', IndexError, 'there are 30 rows'),
    ('meta.split(dict(all=[0]))', ValueError, "other than 'all'"),
    ('meta.split({0: [0]})', ValueError, 'named by a text'),
    ('mds.train.split(mds.train, mds.valid)', ValueError, "'valid' has rows that the set to split does not see"),
    # specs
    ("meta.split('trian')", ValueError, "Did you mean 'train'"),
    ("meta.split('a')", ValueError, r"Dataset 'a' is written train\[0shard\]"),
    ("meta.split('train', per='datasets')", ValueError, "per is None or 'dataset'"),
    ("meta.split(EachSplitter(), per='dataset')", ValueError, 'per= is for specs'),
    ("meta.split(range(3), range(3, 6), per='dataset')", ValueError, 'per= is for specs'),
    ("meta.split('train', leak=None)", ValueError, 'leak is one of'),
    # leaks
    ("rec.split('train[:80%]', 'train[80%:]', per='dataset')", ValueError,
     "8 rows of train share time steps with valid in 3 datasets.*r0.*leak='purge'"),
    ("rec.split(range(1, 33, 2), range(0, 33, 2), leak='purge')", ValueError, 'Purging leaves no row of train'),
    # splitters
    ("EachSplitter(float('nan'))", ValueError, 'valid is a share.*got nan'),
    ("EachSplitter('20%')", ValueError, 'whole number of rows'),
    ('meta.split(EachSplitter(gap=1000))', ValueError, 'No dataset is long enough for a share in train'),
    ('meta.split(EachSplitter(100))', ValueError, 'long enough for a share in valid'),
    ("WalkForwardSplitter('3')", ValueError, 'n_splits'),
    ('WalkForwardSplitter(2.5)', ValueError, 'n_splits'),
    ('WalkForwardSplitter(2, fold=1.5)', ValueError, 'no fold 1.5'),
    ('HoldoutSplitter(1.5)', ValueError, 'valid is a share.*whole number of datasets'),
    ('HoldoutSplitter(None)', ValueError, 'got None'),
    ('HoldoutSplitter(test=-1)', ValueError, 'test is a share'),
    ('HoldoutSplitter(0)', ValueError, 'nothing out'),
    ('HoldoutSplitter([])', ValueError, 'nothing out'),
    ("HoldoutSplitter(['a'], ['a'])(meta)", ValueError, "'a' cannot be in valid and in test"),
    ("meta.split(HoldoutSplitter(['a', 'b', 'c']))", ValueError, 'left to train on'),
    ('meta.split(HoldoutSplitter(3))', ValueError, 'hold out 3 datasets for valid.*only 3'),
    ("meta.split(HoldoutSplitter(2, groups='person'))", ValueError, 'hold out 2 groups for valid.*only 2'),
    ("meta.split(HoldoutSplitter('z'))", ValueError, "no dataset 'z'"),
    ("meta.split(HoldoutSplitter(1, groups='persno'))", ValueError, "Did you mean 'person'"),
    ("meta.split(HoldoutSplitter(1, groups='site'))", ValueError,
     r"Dataset 1 \('b'\) has no group label in the info column 'site'"),
    ('meta.split(HoldoutSplitter(1, groups=5))', TypeError, 'one label per dataset.*got 5'),
    ("meta.split(HoldoutSplitter(1, groups=['x']))", ValueError, 'there are 3 datasets and 1 labels'),
    ('meta.split(HoldoutSplitter(1, groups=[[1, 2]]*3))', ValueError, 'one label per dataset'),
    ('meta.split(HoldoutSplitter(1, groups=dict(a=1, b=2, d=1)))', ValueError, 'd'),
    ('bare.split(HoldoutSplitter(1, stratify=True))', ValueError, 'one class per row'),
    ("bare.split(HoldoutSplitter(1, groups='person'))", ValueError, 'no info column'),
    ('SklearnSplitter(5)', TypeError, 'is an object with a method split'),
    ('SklearnSplitter(Odd)', TypeError, 'is an object with a method split'),
    ('SklearnSplitter(Odd(), per=1)', ValueError, 'per is None'),
    ('meta.split(SklearnSplitter(Odd()))', ValueError, 'cannot split the 40 rows of 3 datasets: no such thing'),
    ('bare.split(SklearnSplitter(StratifiedKFold(2)))', ValueError, 'no targets'),
    ('check_leakage(meta, mds, gap=-1)', ValueError, 'gap is'),
    ('show_splits(meta, mds, max_lines=0)', ValueError, 'max_lines'),
    ('meta.split([], [0, 1]).dataloaders()', ValueError, "nothing to train on: the part 'train' has no rows"),
    # parts and selections
    ("mds['vaild']", ValueError, "Did you mean 'valid'"),
    ('mds[5]', IndexError, 'Asked for part 5'),
    ('mds[1.5]', TypeError, 'got float'),
    ('mds[0:1]', TypeError, 'got slice'),
    ('mds.test', IndexError, "no part 'test'"),
    ('mds.splits[5]', IndexError, 'Asked for split 5'),
    ("meta['train[:75%]']", IndexError, "got the text 'train"),
    ("meta.split('train').valid", IndexError, "no part 'valid'"),
    ('meta.select(5)', TypeError, 'got int'),
    ("meta.select('train', per='x')", ValueError, 'per is None'),
    ('TSMetaDatasets(np.zeros((9, 2, 3)), [[0]])', TypeError, r'splits a TSMetaDataset, got ndarray'),
    ('TSMetaDatasets(None)', TypeError, 'got NoneType'),
    ('TSMetaDatasets(mds)', TypeError, 'split already'),
    ('show_splits(meta, 5)', TypeError, HOW),
    ('check_leakage(meta, 5)', TypeError, HOW),
]

@pytest.mark.parametrize('code, kind, message', WRONG, ids=[code for code, *_ in WRONG])
def test_wrong_input_is_refused(code, kind, message):
    with pytest.raises(kind, match=f'(?s){message}') as e: eval(code, globals())
    assert type(e.value) is kind and e.traceback[-1].path.is_relative_to(Path(tsmeta.__file__).parent)

# Ways that are right

same = lambda a, b: [list(v) for v in a.splits.values()] == [list(v) for v in b.splits.values()]

@pytest.mark.parametrize('how', [
    [L(range(30)), L(range(30, 40))], L(L(range(30)), L(range(30, 40))), (L(range(30)), L(range(30, 40))), [range(30), slice(30, None)], ['train[:75%]', 'train[75%:]'],
    L('train[:75%]', 'train[75%:]'), {'train': range(30), 'valid': np.arange(30, 40)}, {'valid': range(30, 40), 'train': range(30)}, mds, mds.splits, mds.splits.views, dict(mds.splits.items()),
    [mds.train, mds.valid], ['train[:30]', 'train[-10:]'], [np.arange(40) < 30, np.arange(40) >= 30]],
    ids=['list of L', 'L of L', 'tuple of L', 'range and slice', 'specs', 'L of specs', 'mapping', 'mapping, valid first', 'split metadataset',
         'splits', 'views', 'dict of splits', 'parts', 'specs of rows', 'masks'])
def test_one_argument_may_hold_all_parts(how):
    made = meta.split(how)
    assert same(made, mds) and list(made.splits) == ['train', 'valid']

def test_arrays_and_tables_may_hold_all_parts():
    halves = np.arange(40).reshape(2, 20)
    for how in (halves, torch.tensor(halves), halves.tolist(), pd.DataFrame(dict(train=halves[0], valid=halves[1]))): assert repr(meta.split(how)) == repr(meta.split(range(20), range(20, 40)))
    assert same(meta.split(mds.train, mds.valid), mds) and len(meta.split([3, 4, 5]).train) == 3 and len(meta.split(meta).train) == 40

def test_parts_are_found_by_name_whatever_their_order():
    made = meta.split(dict(valid=[0], test=[1], train=[2, 3], more=[4]))
    assert [len(made.train), made.train.split_idx, made.valid.split_idx, list(made.splits)] == [2, 0, 1, ['train', 'valid', 'test', 'more']]
    assert made.valid.ids().tolist() == [0] and made.test.ids().tolist() == [1]
    assert list(meta.split(dict(valid=[0], rest=[1])).splits) == ['rest', 'valid']

def test_numbers_of_a_part_are_its_positions():
    train = mds.train
    made = train.split([-1], [-2, 0])
    assert (made.train.ids().tolist(), made.valid.ids().tolist()) == ([29], [28, 0])
    inner = mds.valid.split(EachSplitter(.5))
    assert set(inner.train.ids()) | set(inner.valid.ids()) == set(mds.valid.ids())

def test_labels_to_hold_out_may_be_any_list():
    for names in (['a'], 'a', ('a',), L('a'), {'a'}, np.array(['a']), pd.Series(['a'])): assert meta.split(HoldoutSplitter(names)).valid.lens.tolist() == [20, 0, 0]
    assert describe(meta, mds).rows.tolist() == describe(meta, mds.splits.views).rows.tolist() == [30, 10]

def test_cross_validators_without_groups_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert [len(meta.split(SklearnSplitter(cv)).valid) for cv in (KFold(2), StratifiedKFold(2))] == [20, 20]
    with pytest.warns(UserWarning, match='groups parameter is ignored'): meta.split(SklearnSplitter(KFold(2), groups='person'))

def test_empty_parts():
    made = meta.split([], [0, 1])
    assert len(made.train) == 0 and made.train.lens.tolist() == [0, 0, 0] and 'train: 0 rows of 0 datasets\n' in repr(made) and len(made.train.summary()) == 3
    assert len(meta.split('train[40:]', 'train').train) == 0 and repr(made.train)

def test_what_a_splitter_leaves_out_is_shown():
    with pytest.warns(UserWarning, match="1 of 3 datasets have no share in every subset, such as 'r2'") as w: made = rec.split(EachSplitter(.2, gap=10))
    assert len(w) == 1 and w[0].filename == __file__
    assert made.short.name.tolist() == ['r2'] and len(made.purged) == 12 and 'purged: 12 rows' in repr(made) and 'too short for a share: 1 datasets' in repr(made)
    assert show_splits(rec, made).get_legend().get_texts()[-1].get_text() == 'purged (12)'
    with pytest.warns(UserWarning, match='The split leaks') as w: rec.split('train[:80%]', 'train[80%:]', leak='warn')
    assert w[0].filename == __file__
    with pytest.warns(UserWarning) as w: meta.split(WalkForwardSplitter(3, 2))
    assert len(w) == 1 and w[0].filename == __file__

def test_members_of_a_split_can_be_looked_over():
    assert {'train', 'valid'} <= {k for k, _ in inspect.getmembers(meta.split([0], [1], [2]))}

# Other processes

LOOK = '''
def look(o): return [(len(p), p.ids().tolist(), p.lens.tolist(), p.split_idx, p[[0]][0].sum().item(), p.stride.tolist()) for p in (o if len(o) == 2 else [o])], repr(o)
'''
CHILD = '''
import pickle, sys
got = [look(o) for o in pickle.load(open('objects', 'rb'))]
pickle.dump(got, open('got', 'wb'))
'''

def test_splits_travel_to_fresh_processes(tmp_path):
    here = {}
    exec(LOOK, here)
    with pytest.warns(UserWarning): made = rec.split(EachSplitter(.2))
    objects = [made, made.train, made.valid, made['train[:50%]+valid'], made.train.split([0, 1], [5])]
    (tmp_path/'objects').write_bytes(pickle.dumps(objects))
    done = subprocess.run([sys.executable, '-c', LOOK + CHILD], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
    assert done.returncode == 0, done.stderr[-3000:]
    assert pickle.loads((tmp_path/'got').read_bytes()) == [here['look'](o) for o in objects]

# Size

def many(n, rows):
    x, y = np.zeros((n*rows, 1, 1), np.float32), np.arange(n*rows) % 3
    return TSMetaDataset([(x[i:i+rows], y[i:i+rows]) for i in range(0, n*rows, rows)])

def test_splits_of_ten_thousand_datasets_are_shown_in_a_few_lines():
    big = many(10_000, 10)
    shuffled = lambda m: np.split(np.random.default_rng(0).permutation(len(m)), [80_000])
    for how in (EachSplitter(.2), HoldoutSplitter(.2), ['train[:80%]', 'train[80%:]'], shuffled):
        made = big.split(how)
        assert len(repr(made).splitlines()) < 10 and len(repr(made.train).splitlines()) < 30, how

def test_ten_million_rows_in_any_order_are_split():
    big = many(1_000, 10_000)
    order = np.random.default_rng(0).permutation(len(big))
    made = big.split(order[:8_000_000], order[8_000_000:])
    assert len(made.train) == 8_000_000 and np.array_equal(made.train.ids()[-5:], order[:8_000_000][-5:])

def test_a_split_by_a_negative_number():
    splits = mds.splits
    assert splits[-1] is splits.views['valid'] and splits[-len(splits)] is splits.views['train']
    with pytest.raises(IndexError, match='Asked for split -3, but there are 2'): splits[-len(splits) - 1]

def test_an_unknown_rounding_is_refused():
    for ask in (lambda: meta.select('train[:50%]', rounding='nearest'), lambda: resolve('train[:50%]', mds.splits, 'nearest')):
        with pytest.raises(ValueError, match="Unknown rounding 'nearest'.*'closest', 'pct1_dropremainder'"): ask()
    assert len(meta.select('train[:33%]', rounding='closest')) == 13

@pytest.mark.parametrize('ids, message', [
    ([[0, 1], [2, 3]], 'one-dimensional'), (np.zeros((2, 2), int), 'one-dimensional'), (np.array([2**64 - 1], np.uint64), 'Asked for row 18,446,744,073,709,551,615'),
    (np.array([2**63], np.uint64), 'Asked for row'), (np.zeros(2), 'must be integers, got float64'), ([True], 'A boolean mask needs one value per row'), ('3', 'got the text')],
    ids=['nested list', '2-D array', 'largest unsigned', 'beyond int64', 'floats', 'short mask', 'text'])
def test_ids_that_are_none(ids, message):
    with pytest.raises(IndexError, match=message): to_ids(ids, 10)

def test_ids_in_unsigned_and_short_integers():
    assert to_ids(np.array([9, 0], np.uint64), 10).tolist() == [9, 0] and to_ids(np.array([-1], np.int8), 300).tolist() == [299]
    with pytest.raises(IndexError, match='there are 0 rows'): to_ids([0], 0)

def test_a_split_is_brought_into_one_form_once(monkeypatch):
    calls = []
    monkeypatch.setattr(splits_module, '_by_name', lambda splits, whole=splits_module._by_name: calls.append(splits) or whole(splits))
    for how in (dict(train=range(20), valid=range(20, 40)), EachSplitter(.2)):
        for leak in ('raise', 'purge', 'allow'): meta.split(how, leak=leak)
    assert len(calls) == 6
