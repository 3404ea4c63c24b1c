"Values per dataset are lined up by name, in whatever order they are given; what cannot be lined up is refused."
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tsmeta.sources.adapt import info_beside
from tsmeta.sources.names import Binding, dataset_names, Names, names_facts, same_datasets

NAMES = st.lists(st.text('abcxyz_é 0129', min_size=1, max_size=4).filter(lambda s: s.strip() == s), min_size=2, max_size=8, unique_by=lambda s: s.casefold().lstrip('0') or '0')


def named(names): return Names(names, 'given')


@settings(max_examples=40, deadline=None)
@given(NAMES, st.randoms(use_true_random=False))
def test_any_order_of_a_table_means_the_same(names, random):
    if set(names) == set(map(str, range(len(names)))): return
    values = {n: f'of {n}' for n in names}
    want, order = list(values.values()), random.sample(names, len(names))
    shuffled = {n: values[n] for n in order}
    series, table = pd.Series(shuffled), pd.DataFrame(dict(name=order, value=list(shuffled.values())))
    for given in (shuffled, series, table, table.sample(frac=1, random_state=0), pd.concat([series, pd.Series({'another': 'x'})])):
        assert Binding(named(names))(given, 'y') == want
    assert Binding(named(names)).table(table).value.tolist() == want
    assert Binding(named(names)).table(series.to_frame('value')).value.tolist() == want


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.randoms(use_true_random=False))
def test_columns_of_one_table_stay_together(n, random):
    "Sorted or filtered in whatever way, the columns of one table are read by position; a column of another is refused"
    table = pd.DataFrame(dict(label=[f'l{k}' for k in range(n)], person=[f'p{k}' for k in range(n)]))
    lines = random.sample(range(n), n)
    part = table.iloc[lines]
    bind = Binding(Names(range(n), 'numbers'))
    assert bind(part.label, 'y') == part.label.tolist()
    assert bind.table(part).person.tolist() == part.person.tolist()
    if lines == sorted(lines): return
    with pytest.raises(ValueError, match='indexes differ'): bind.table(table)


def test_the_table_that_names_come_from_is_read_by_position():
    table = pd.DataFrame(dict(name=[3, 1, 2], label=list('abc')))
    for lines in ([0, 1, 2], [2, 0, 1], [1, 0]):
        part = table.iloc[lines]
        bind = Binding(dataset_names(part.name, [0]*len(lines), len(lines)), dict(names=part.name))
        assert bind(part.label, 'y') == part.label.tolist()
    with pytest.raises(ValueError, match='indexes differ'):
        bind = Binding(dataset_names(table.name, [0]*3, 3), dict(names=table.name, recordings=table.label.iloc[::-1]))


BAD = [({'a': 1}, "Missing: 'b'"), ({'a': 1, 'b': 2, 'c': 3}, "without a dataset: 'c'"), (pd.Series([1, 2], ['a', 'c']), "Missing: 'b'"),
       (pd.Series([1, 2, 3], ['a', 'b', 'a']), "'a' more than once"), ([1, 2, 3], '3 y'), (pd.Series([1, 2, 3]), '3 lines'),
       (pd.Series([1, 2], ['A', 'b ']), 'written otherwise'), (pd.DataFrame(dict(u=[1, 2], v=[1, 2])), 'one column')]


@pytest.mark.parametrize('given, says', BAD)
def test_what_does_not_fit_is_refused(given, says):
    with pytest.raises(ValueError, match=says): Binding(named(['a', 'b']))(given, 'y')


def test_numbers_as_names():
    "Ids that are numbers are names; the index 0, 1, … that a table was given by nobody is not"
    ids = named(['12', '7', '30'])
    assert Binding(ids)(pd.Series(list('abc'), [7, 12, 30]), 'y') == list('bac')
    assert Binding(ids)(pd.Series(list('abc')), 'y') == list('abc')
    assert Binding(named(['1', '2', '3']))(pd.Series(list('abc')), 'y') == list('abc')
    with pytest.raises(ValueError, match='by position or by name'): Binding(named(['2', '0', '1']))(pd.Series(list('abc')), 'y')
    with pytest.raises(ValueError, match='written otherwise'): Binding(named(['001', '002']))(pd.Series(list('ab'), [2, 1]), 'y')
    with pytest.raises(ValueError, match='Missing'): Binding(ids)(pd.Series(list('abc'), [7, 12, 31]), 'y')


def test_info_by_its_index_or_its_column():
    both = pd.DataFrame(dict(name=['b', 'a'], person=['of b', 'of a']), ['b', 'a'])
    assert Binding(named(['a', 'b'])).table(both).person.tolist() == ['of a', 'of b']
    with pytest.raises(ValueError, match='different lines'): Binding(named(['a', 'b'])).table(both.set_axis(['a', 'b']))
    with pytest.raises(ValueError, match='two columns called'): Binding(named(['a'])).table(pd.DataFrame([[1, 2]], columns=['x', 'x']))
    with pytest.raises(ValueError, match='different indexes'): Binding(named(['a', 'b'])).table(dict(u=both.person, v=both.person.iloc[::-1]))
    more = pd.DataFrame(dict(name=list('cab'), person=['of c', 'of a', 'of b']))
    assert Binding(named(['a', 'b'])).table(more).person.tolist() == ['of a', 'of b']
    assert Binding(named(['a', 'b'])).table(dict(name=['b', 'a'], person=['of b', 'of a'])).person.tolist() == ['of a', 'of b']


def test_columns_of_info_never_collide():
    info = pd.DataFrame(dict(row=[1], info_row=[2], name=['other'], x=[3]))
    assert list(info_beside(info, ['a'], ['row', 'name'])) == ['info_info_row', 'info_row', 'info_name', 'x']


def test_names_are_known_again():
    first, parts = named(['a', 'b']), None
    parts = pickle.loads(pickle.dumps(first)).renamed(['a/x', 'b/x'])
    assert (parts.kind, parts.token, list(first)) == ('given', first.token, ['a', 'b'])
    numbers, files = Names(range(2), 'numbers'), Names(['a', 'b'], 'files')
    def same(names, trained, known=None):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            return same_datasets(names, list(trained), names_facts(trained), known), len(told)
    assert same(named(['b']), first) == (True, 0) and same(numbers, numbers) == (True, 0)
    assert same(Names(range(2), 'numbers'), numbers) == (False, 0) and same(named(['0', '1']), numbers)[0]  is False
    assert same(Names(['b', 'c'], 'files'), files) == (False, 1) and same(Names(['b'], 'files'), files, 'files') == (True, 0)
    assert same(files, first) == (False, 1) and same(np.array(['0', '1']).tolist(), numbers) == (False, 0)
