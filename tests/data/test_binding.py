"Names, columns, variables and labels bind by what they are called, in one metadataset and across two."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.data.hooks import check_fits
from tsmeta.data.transforms import DatasetInput, StandardizeByDataset
from tsmeta.load.loader import TSMetaDataLoader, TSMetaDataLoaders
from tsmeta.sources.policies import policies_from_json, policies_to_json

CPU = torch.device('cpu')
VARS = ['acc', 'gyro', 'mag']


def labels_of(meta): return [meta.vocab[int(k)] for k in meta.targets()]


def frame(columns, level, steps=20):
    "Recording whose columns say by their level which they are"
    return pd.DataFrame({c: np.full(steps, VARS.index(c) + 10.*level) for c in columns})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.permutations(VARS), min_size=1, max_size=4), st.permutations(VARS))
def test_columns_in_any_order_are_the_same_variables(orders, new):
    meta = TSMetaDataset.from_recordings([frame(o, k) for k, o in enumerate(orders)], window=20)
    first = meta.schema.var_names
    assert first == list(orders[0])
    for k in range(len(orders)): assert meta[k][0][:, 0].tolist() == [VARS.index(v) + 10.*k for v in first]
    more = check_fits(meta.schema, TSMetaDataset.from_recordings({'new': frame(new, 9)}, window=20))
    assert more[0][0][:, 0].tolist() == [VARS.index(v) + 90. for v in first]


def test_members_in_order_are_read_as_they_are():
    meta = TSMetaDataset.from_recordings([frame(VARS, 0), frame(VARS, 1)], window=20)
    assert [type(s).__name__ for s in meta.datasets] == ['WindowSource', 'WindowSource']
    assert [s.var_names for s in meta.datasets] == [VARS, VARS]


def test_names_of_variables_are_asked_for_or_stated():
    named, bare = frame(VARS, 0), np.zeros((3, 20))
    with pytest.raises(ValueError, match=r"\['acc', 'gyro', 'mag'\], those of '1' \(1\) have none"): TSMetaDataset.from_recordings([named, bare], window=20)
    both = TSMetaDataset.from_recordings({'a': named, 'b': bare}, window=20, var_names={'b': VARS[::-1], 'a': VARS})
    assert both.schema.var_names == VARS
    with pytest.raises(ValueError, match="'1' .1. has .'acc'.: .'gyro', 'mag'. are missing"): TSMetaDataset.from_recordings([named, named[['acc']]], window=20)
    some = TSMetaDataset.from_recordings([named, named[['acc']]], window=20, vars='intersect')
    assert some.schema.var_names == ['acc']
    with pytest.raises(ValueError, match=r"two variables|columns 1 and 3 are both called 'acc'|2 columns called 'acc', at positions \[0, 2\]"):
        TSMetaDataset.from_recordings([named.set_axis(['acc', 'gyro', 'acc'], axis=1)], window=20)


def test_stated_names_order_named_columns():
    meta = TSMetaDataset.from_recordings([frame(VARS, 0), frame(VARS[::-1], 0)], window=20, var_names=['mag', 'acc', 'gyro'])
    assert meta.schema.var_names == ['mag', 'acc', 'gyro'] and meta[[0, 1]][0][:, :, 0].tolist() == [[2, 0, 1]]*2
    with pytest.raises(ValueError, match='rename= gives names'): TSMetaDataset.from_recordings([frame(VARS, 0), frame(VARS[::-1], 0)], window=20, var_names=['x', 'y', 'z'])
    assert TSMetaDataset.from_recordings([frame(VARS, 0)], window=20, var_names=['x', 'y', 'z']).schema.var_names == ['x', 'y', 'z']


def test_aliases_of_variables():
    rename = {'a': 'acc', 'g': 'gyro'}
    alias = frame(VARS, 1).rename(columns={'acc': 'a', 'gyro': 'g'})[['mag', 'g', 'a']]
    meta = TSMetaDataset.from_recordings([frame(VARS, 0), alias], window=20, rename=rename)
    assert meta[1][0][:, 0].tolist() == [10, 11, 12]
    again = check_fits(meta.schema, TSMetaDataset.from_recordings([alias], window=20))
    assert again[0][0][:, 0].tolist() == [10, 11, 12]
    assert policies_from_json(policies_to_json(meta.schema.policies)).rename == rename
    upper = TSMetaDataset.from_recordings([frame(VARS, 0).rename(columns=str.upper), frame(VARS, 1)], window=20, rename=str.lower)
    assert upper.schema.var_names == VARS
    with pytest.raises(ValueError, match='another name'): TSMetaDataset.from_recordings([alias], window=20, rename={'a': 'b', 'b': 'c'})
    with pytest.raises(ValueError, match='two variables of one name|gives the name .mag. to'): TSMetaDataset.from_recordings([frame(VARS, 0)], window=20, rename={'acc': 'mag'})


def test_new_data_with_other_variables():
    meta = TSMetaDataset.from_recordings([frame(['acc', 'gyro'], 0)], window=20)
    with pytest.warns(UserWarning, match=r"variables that training had not, \['mag'\]"):
        more = check_fits(meta.schema, TSMetaDataset.from_recordings([frame(['mag', 'gyro', 'acc'], 1)], window=20))
    assert more[0][0][:, 0].tolist() == [10, 11]
    with pytest.raises(ValueError, match=r"\['acc'\] are missing, \['mag'\] are new"):
        check_fits(meta.schema, TSMetaDataset.from_recordings([frame(['mag', 'gyro'], 1)], window=20))


def test_a_sorted_or_filtered_table_keeps_its_labels():
    table = pd.DataFrame(dict(name=list('wxyz'), rec=[np.full((1, 20), k, np.float32) for k in range(4)], lab=list('abcd'), person=list('pqrs')))
    for part in (table, table.sort_values('lab', ascending=False), table[table.lab > 'b'], table.sample(frac=1, random_state=1)):
        for how in (dict(names=part.name, info=part), dict(info=part), dict(names=list(part.name), info=table), dict(names=part.name, info=part.set_index('name'))):
            if 'names' in how and how['info'].index.name == 'name': how['names'] = list(part.name)
            for recs in (part.rec, list(part.rec)):
                meta = TSMetaDataset.from_recordings(recs, window=20, y=part.lab if how['info'] is part else list(part.lab), **how)
                assert labels_of(meta) == part.lab.tolist() and meta.where(meta.ids()).person.tolist() == part.person.tolist()
    with pytest.raises(ValueError, match='indexes differ'):
        TSMetaDataset.from_recordings(table.rec, window=20, y=table.sort_values('lab', ascending=False).lab)
    by_name = TSMetaDataset.from_recordings(dict(zip(table.name, table.rec)), window=20, y=table.set_index('name').lab.iloc[::-1])
    assert labels_of(by_name) == list('abcd')


def test_clocks_bind_by_name():
    recs = {'a': np.zeros((1, 20)), 'b': np.zeros((1, 20))}
    starts = pd.Series([100., 0.], ['b', 'a'])
    from tsmeta.sources.recordings import Times
    meta = TSMetaDataset.from_recordings(recs, window=20, times=Times(start=starts, rate=1))
    assert meta.where([0, 1]).start_time.tolist() == [0, 100]
    with pytest.raises(ValueError, match="Missing: 'b'"): TSMetaDataset.from_recordings(recs, window=20, times=Times(start={'a': 0}, rate=1))


def test_categories_of_recordings_keep_their_order():
    y = pd.Series(pd.Categorical(['high', 'low'], ['low', 'mid', 'high'], ordered=True))
    meta = TSMetaDataset.from_recordings([np.zeros((1, 20))]*2, window=10, y=y)
    assert (list(meta.vocab), labels_of(meta)) == (['low', 'mid', 'high'], ['high', 'high', 'low', 'low'])
    steps = pd.Categorical(['low']*10 + ['high']*10, ['low', 'mid', 'high'])
    meta = TSMetaDataset.from_recordings([np.zeros((1, 20))], window=10, y=[steps])
    assert (list(meta.vocab), labels_of(meta)) == (['low', 'mid', 'high'], ['low', 'high'])
    with pytest.raises(ValueError, match='horizon=3'): TSMetaDataset.from_recordings([np.zeros((1, 20))], window=10, horizon=3, y=['a'])


LABELS = st.lists(st.sampled_from('abcd'), min_size=1, max_size=6)


def rows(labels): return np.zeros((len(labels), 1, 4), np.float32), list(labels)


@settings(max_examples=25, deadline=None)
@given(LABELS, LABELS, st.permutations('abcd'))
def test_labels_of_a_second_metadataset_are_numbered_by_the_first(first, second, order):
    A, B = TSMetaDataset([rows(first)], vocab=list(order)), TSMetaDataset([rows(second), rows(second[:1])])
    dls = TSMetaDataLoaders.from_dsets(A, B, bs=4, device=CPU)
    for dl in (dls.valid, dls.train.new(B), dls.test_dl(B), dls.new_dl(B)):
        assert list(dl.vocab) == list(order) and labels_of(dl.dataset) == [*second, second[0]]
    part = check_fits(A.schema, B.subset([len(second), 0]))
    assert labels_of(part) == [second[0], second[0]]
    assert labels_of(B) == [*second, second[0]] and list(B.vocab) == sorted(set(second))


def test_data_that_does_not_fit_is_refused():
    A = TSMetaDataset([rows('ab')])
    for B, says in [(TSMetaDataset([rows('abx')]), "row 2: unknown label 'x'"), (TSMetaDataset([(np.zeros((2, 1, 5)), ['a', 'b'])]), '5 steps, expected 4'),
                    (TSMetaDataset([(np.zeros((2, 2, 4)), ['a', 'b'])]), '2 variables, expected 1'), (TSMetaDataset([(np.zeros((2, 1, 4)), [.5, 1])]), 'targets are float')]:
        with pytest.raises(ValueError, match=says): TSMetaDataLoaders.from_dsets(A, B, bs=2, device=CPU)
        with pytest.raises(ValueError, match=says): TSMetaDataLoader(A, bs=2, device=CPU).new(B)


def test_several_labels_are_numbered_by_the_first():
    A, B = (TSMetaDataset([(np.zeros((2, 1, 4)), bags)]) for bags in ([['a', 'c'], ['b']], [['c'], ['b', 'a']]))
    assert check_fits(A.schema, TSMetaDataset([(np.zeros((1, 1, 4)), [['c']])])).targets().tolist() == [[0, 0, 1]]
    assert check_fits(A.schema, B) is not None and check_fits(A.schema, A) is A


def standardised(train, new, **how):
    dl = TSMetaDataLoader(train, bs=64, device=CPU, seed=0, batch_tfms=StandardizeByDataset(**how))
    return abs(float(dl.new(new).one_batch()[0].mean()))


def test_automatic_names_of_other_data_are_unseen(tmp_path):
    r = np.random.RandomState(0)
    first, far = r.randn(1, 400), r.randn(1, 400) + 100
    def made(x, names=None): return TSMetaDataset.from_recordings([x], window=20, names=names)
    assert standardised(made(first), made(far)) < 1 and standardised(made(first), made(far, ['0'])) < 1
    assert standardised(made(first, ['p']), made(far, ['p'])) > 50
    with pytest.raises(ValueError, match="not trained on"): standardised(made(first), made(far), unseen='error')
    for folder, x in (('one', first), ('two', far)):
        (tmp_path/folder).mkdir()
        np.save(tmp_path/folder/'p.npy', x)
    files = [TSMetaDataset.from_recordings([str(tmp_path/f/'p.npy')], window=20) for f in ('one', 'two')]
    with pytest.warns(UserWarning, match="1 of 1 file names occur in training; known='files'"): assert standardised(*files) < 1
    assert standardised(*files, known='files') > 50
    tfm = DatasetInput().fit(made(first))
    assert tfm._facts(made(far)).tolist() == [0] and DatasetInput().fit(files[0])._facts(files[0].part([0])).tolist() == [1]


def test_large_levels_are_named():
    x = 1e8 + np.random.RandomState(0).randn(1, 400)
    with pytest.warns(UserWarning, match="float32.*dataset 'b' .1."):
        StandardizeByDataset().fit(TSMetaDataset.from_recordings({'a': x - 1e8, 'b': x}, window=20))


class Noise:
    "Rows that are drawn when they are read"
    def __init__(self, n): self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return np.full((1, 2), np.random.rand() + torch.rand(1).item(), np.float32)


@pytest.mark.parametrize('workers', [0, 2])
def test_random_members_are_decided_by_seed_epoch_and_id(workers):
    meta = TSMetaDataset({'a': Noise(6), 'b': np.zeros((2, 1, 2), np.float32)})
    def epochs(bs, **how):
        dl = TSMetaDataLoader(meta, bs=bs, seed=3, shuffle=True, device=CPU, num_workers=workers, **how)
        found = []
        for _ in range(2):
            found.append({int(i): float(v) for xb, in dl for i, v in zip(xb.ids, xb[:, 0, 0])})
        return found
    (first, second), (again, _) = epochs(3), epochs(5)
    assert first == again and all((first[i] != second[i]) == (i < 6) for i in first)


@pytest.mark.parametrize('kind', ['plain', 'dict'])
def test_batches_of_plain_tensors(kind):
    dls = TSMetaDataset({'a': rows('abab')}).split([0, 1, 2], [3]).dataloaders(bs=2, device=CPU, tensors=kind)
    b = dls.valid.new(bs=1).one_batch()
    tensors = list(b.values()) if kind == 'dict' else list(b)
    assert {type(t) for t in tensors} == {torch.Tensor} and dls.valid.one_batch() is not None
    if kind == 'dict': assert list(b) == ['x', 'y', 'ids'] and b['ids'].tolist() == [3]
    with pytest.raises(ValueError, match="tensors must be None, 'plain'"): TSMetaDataLoader(TSMetaDataset([rows('ab')]), tensors='numpy')


def test_rows_and_targets_in_tables_share_their_lines():
    X, y = pd.DataFrame(np.arange(12.).reshape(4, 3)), pd.Series(list('abcd'))
    keep = [2, 0, 3]
    assert labels_of(TSMetaDataset([(X.iloc[keep], y.iloc[keep])])) == ['c', 'a', 'd']
    with pytest.raises(ValueError, match="'.*' .0.: X and y are lines of tables, but their indexes differ: 2, 0, 3 and 0, 2, 3"):
        TSMetaDataset([(X.iloc[keep], y.iloc[keep].sort_index())])


def test_groups_of_a_splitter_bind_by_name():
    from tsmeta.splits.splitters import HoldoutSplitter
    meta = TSMetaDataset({n: rows('ab') for n in 'wxyz'})
    groups = pd.Series(['p', 'q', 'p', 'q'], list('wxyz'))
    for given in (groups, groups.iloc[::-1], groups.iloc[::-1].to_dict(), list(groups)):
        mds = meta.split(HoldoutSplitter(valid=['q'], groups=given))
        assert sorted({meta.names[d] for d in mds.valid.mapping[:, 0]}) == ['x', 'z']
    with pytest.raises(ValueError, match="Missing: 'z'"): meta.split(HoldoutSplitter(valid=['q'], groups=groups[:3]))
