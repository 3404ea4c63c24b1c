"Tables mean what they say, in whatever order and notation they come; what is ambiguous is refused by line and column."
import bz2
import gzip
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from tsmeta.sources.files import members, open_members
from tsmeta.sources.tables import read_table, read_tables, TableOptions, TableRoles

pytestmark = pytest.mark.filterwarnings('ignore')


def written(tmp_path, text, name='t.csv', encoding='utf-8'):
    path = tmp_path/name
    data = text.encode(encoding)
    pack = {'.gz': gzip.compress, '.bz2': bz2.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))
    return path


def series(table):
    "Returns the series of a table by id: values by variable, times, target."
    ids = table.ids or [''] * len(table)
    out = {}
    for k, i in enumerate(ids):
        x = {v: r.tolist() for v, r in zip(table.var_names, table.series(k))}
        out[i] = x, table.when(k).tolist() if table.times is not None else None, np.asarray(table.target(k)).tolist()
    return out


LONG = 'id,time,v,w\n' + ''.join(f'{i},{t},{t + .5},{-t}\n' for i in ('001', '1', 'ü') for t in range(4))


@pytest.mark.parametrize('name, encoding', [('t.csv', 'utf-8'), ('t.csv', 'utf-8-sig'), ('t.csv', 'utf-16'), ('t.csv.gz', 'utf-8'), ('t.csv.bz2', 'utf-8-sig'),
                                            ('t.txt.gz', 'utf-8')])
@pytest.mark.parametrize('sep', [',', ';', '\t', '|'])
def test_text_in_any_wrapping(tmp_path, name, encoding, sep):
    t = read_table(written(tmp_path, LONG.replace(',', sep), name, encoding))
    assert t.ids == ['001', '1', 'ü'] and t.var_names == ['v', 'w'] and t.rows().shape == (3, 2, 4)
    assert t.series(1).tolist() == [[.5, 1.5, 2.5, 3.5], [0, -1, -2, -3]]


@pytest.mark.parametrize('text, how, says', [
    ('', {}, 'holds no table'), ('a,b\n', {}, 'has a header but no lines'), ('a,a\n1,2\n', {}, "columns 1 and 2 are both called 'a'"),
    ('a,b\n1,2\n3\n', {}, 'line 3: 1 cells, expected 2'), ('a,b\n1,2\n3,4,5\n', {}, 'line 3: 3 cells, expected 2'), ('a,b\n1,2,3\n4,5,6\n', {}, 'more cells than'),
    ('a,b\n1,"2\n"\n3\n', {}, 'line 4: 1 cells'), ('t,v\ns,mV\n1,2\n2,3\n', {}, 'lines 1 and 2 both look like a header'),
    ('id,time,v\na,1,2\n,2,3\n', {}, "line 3, column 'id': there is no id"), ('id,time,v\na,1,2\na,,3\n', {}, "line 3, column 'time': there is no time"),
    ('id,time,v\na,1,2\n\na,x,3\n', {}, "line 4, column 'time': 'x' is no number or ISO date"), ('id,time,v\na,1,2\na,1,3\n', {}, 'line 3: two values at time 1'),
    ('id,time,v\na,1,2\na,2,1e400\n', {}, "line 3, column 'v': 1e400 is too large"), ('v,w\n1,2\nx,3\n', {}, "line 3, column 'v': 'x' is no number"),
    ('v,w\n1,"1,234.5"\n2,"2,345.5"\n', {}, "read=dict\\(thousands=','\\)"), ('v,w\n"1,234",1\n', {}, 'may be a decimal mark'), ('0\n1\n2\n', {}, 'may name the column'),
    ('v,w\n1,12 %\n2,13 %\n', {}, "'12 %' is a number in a notation"), ('v,w\n1,$3\n2,$4\n', {}, 'notation'),
    ('id,item_id,time,v\na,b,1,2\n', {}, "'id' and 'item_id' may both be the id"), ('date,time,v\n1,1,2\n', {}, "'date' and 'time' may both be the time"),
    ('id,v\na,1\nb,2\na,3\n', {}, 'line 4: the id of an earlier series comes back'), ('time,v\n1,2\n3,4\n2,5\n', {}, 'line 4: times must not run backwards.*sort=True'),
    ('p1,1.5\np2,2.5\n', {}, 'looks like those that follow'), ('a,b\nx,y\nz,u\n', {}, 'no column of numbers'), ('a,,c\n1,2,3\n', {}, 'the column has no name'),
    (',id,time,v\nx,a,1,2\n', {}, 'the column has no name'), ('id,time,v\na,2021-01-01,1\na,2021-01-02T00:00Z,1\n', {}, 'some times have a zone'),
    ('id,time,v\na,2021-10-31T02:30,1\n', dict(zone='Europe/Berlin'), 'no single time in Europe/Berlin'), ('time,v\n2021-01-01,1\n', dict(zone='Nowhere'), 'no time zone'),
    ('id,time,v\na,31/01/2021,1\na,2021-01-31,1\n', dict(time_format='%d/%m/%Y'), "line 3, column 'time': '2021-01-31' is no time of the format"),
    ('time,v\nx,1\n', dict(time_unit='s'), 'takes numbers'), ('a,b\n1,2\n', dict(columns=dict(id='c')), "has no column 'c'; its columns are a, b"),
    ('id,time,v\na,True,1\na,False,1\n', {}, 'truth values are no times'), ('a,b\n1,2\n', dict(rename=dict(a='b')), "gives the name 'b'"),
    ('id,time,v,label,class\na,1,2,x,y\n', {}, "'label' and 'class' may both be the y"), ('time,v\n1,2\n', dict(read=dict(encoding='utf-16')), 'cannot be'),
])
def test_what_is_refused(tmp_path, text, how, says):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=says) as e: read_table(path, TableOptions(**how), windows=True)
    assert 't.csv' in str(e.value) or 'rename' in str(e.value) or 'zone' in str(e.value)


@pytest.mark.parametrize('how, says', [(dict(columns=dict(target='a')), 'columns takes id'), (dict(read=dict(dtype=str)), "does not take 'dtype'"), (dict(read=dict(seperator=',')), 'is none'),
                                       (dict(duplicates='middle'), "duplicates is one of"), (dict(columns=dict(id='a', time='a')), "'a' is stated as id and as time"),
                                       (dict(time_unit='s', time_format='%Y'), 'not both'), (dict(columns=dict(id=['a', 'b'])), 'id is one column')])
def test_options_that_are_refused(how, says):
    with pytest.raises(ValueError, match=says): TableOptions(**how)


def test_numbers_in_every_notation(tmp_path):
    def values(text, **how): return read_table(written(tmp_path, text), TableOptions(**how), windows=True).data.tolist()
    assert values('v;w\n0,5;1\n-1,25;2\n') == [[.5, -1.25], [1, 2]]
    assert values('v;w\n1.234,5;1\n2.345,5;2\n', read=dict(decimal=',', thousands='.')) == [[1234.5, 2345.5], [1, 2]]
    assert values('v,w\n"1,234",1\n', read=dict(thousands=',')) == [[1234], [1]]
    assert np.isnan(values('v,w\n?,1\n2,2\n', na_values='?')[0][0]) and np.isnan(values('v,w\nNA,1\n2,2\n')[0][0])
    assert values('v,w\nTrue,1\nFalse,2\n') == [[1, 0], [1, 2]]
    got = values('v,w\nTrue,1\n,2\n')
    assert got[0][0] == 1 and np.isnan(got[0][1])
    assert values('v, w\n1, 2\n3, 4\n') == [[1, 3], [2, 4]]
    assert values('1.5 2\n3.5 4\n', read=dict(sep=r'\s+', header=None, names=['a', 'b'])) == [[1.5, 3.5], [2, 4]]
    assert values('a,b\ns,mV\n1,2\n3,4\n', read=dict(header=[0, 1])) == [[1, 3], [2, 4]]
    assert np.isinf(values('v,w\ninf,1\n')[0][0])


def test_labels_and_ids_as_written(tmp_path):
    def target(cells, **how):
        text = 'id,time,v,label\n' + ''.join(f'{k},0,1,{c}\n' for k, c in enumerate(cells))
        t = read_table(written(tmp_path, text), TableOptions(**how))
        return t.roles.y_type, list(t.y)
    assert target(['None', 'NA', 'nan']) == ('text', ['None', 'NA', 'nan'])
    assert target(['1', '-2', '0']) == ('int', [1, -2, 0]) and target(['01', '1']) == ('text', ['01', '1'])
    assert target(['1.5', '2']) == ('number', [1.5, 2]) and target(['1.5', '2'], y_kind='class') == ('text', ['1.5', '2'])
    assert target(['1', '2'], y_kind='number') == ('number', [1., 2.]) and target(['1', '']) == ('int', [1, None])
    assert target(['True', 'False']) == ('text', ['True', 'False'])
    with pytest.raises(ValueError, match="line 3, column 'label': the target 'x' is no number"): target(['1', 'x'], y_kind='number')


def test_targets_per_series_and_per_step(tmp_path):
    text = 'id,time,v,label\na,0,1,x\na,1,1,x\nb,0,1,y\nb,1,1,{}\n'
    assert read_table(written(tmp_path, text.format('y')), windows=True).y.tolist() == ['x', 'y']
    steps = read_table(written(tmp_path, text.format('z')), windows=True)
    assert steps.roles.y_per == 'step' and steps.target(1).tolist() == ['y', 'z']
    with pytest.raises(ValueError, match="line 5, column 'label': a series has more than one value"): read_table(written(tmp_path, text.format('z')))
    several = 'id,time,v,p,q\na,0,1,1,0\na,1,1,1,0\nb,0,1,1,1\n'
    with pytest.raises(ValueError, match='are several columns'): read_table(written(tmp_path, several), TableOptions(dict(y=['p', 'q'])))
    t = read_table(written(tmp_path, several), TableOptions(dict(y=['p', 'q']), y_kind='multilabel'))
    assert t.y.tolist() == [[1, 0], [1, 1]] and t.var_names == ['v']


def test_times_of_every_kind(tmp_path):
    def times(cells, **how):
        t = read_table(written(tmp_path, 'time,v\n' + ''.join(f'{c},1\n' for c in cells)), TableOptions(**how), windows=True)
        return t.times.astype('M8[s]').astype(str).tolist() if t.times.dtype.kind == 'M' else t.times.tolist(), t.zone
    assert times(['20210101', '20210102']) == ([20210101, 20210102], None)
    assert times(['20210101', '20210102'], time_format='%Y%m%d') == (['2021-01-01T00:00:00', '2021-01-02T00:00:00'], None)
    assert times(['0', '60'], time_unit='s') == (['1970-01-01T00:00:00', '1970-01-01T00:01:00'], None)
    assert times(['31/01/2021', '01/02/2021'], time_format='%d/%m/%Y')[0] == ['2021-01-31T00:00:00', '2021-02-01T00:00:00']
    assert times(['2021-10-31T02:30+02:00', '2021-10-31T02:30+01:00']) == (['2021-10-31T00:30:00', '2021-10-31T01:30:00'], 'UTC')
    assert times(['2021-10-31T02:30+02:00', '2021-10-31T02:30+01:00'], zone='Europe/Berlin')[1] == 'Europe/Berlin'
    assert times(['2021-07-01 12:00', '2021-07-01 13:00'], zone='Europe/Berlin') == (['2021-07-01T10:00:00', '2021-07-01T11:00:00'], 'Europe/Berlin')
    joined = read_table(written(tmp_path, 'Date,Time,v\n2021-01-01,10:00,1\n2021-01-01,09:00,2\n'), TableOptions(dict(time=['Date', 'Time']), sort=True), windows=True)
    assert joined.data.tolist() == [[2, 1]]
    assert times(['3', '2', '1'])[0] == [1, 2, 3]


@pytest.mark.parametrize('how, want', [('first', [1, 4]), ('last', [2, 4]), ('mean', [1.5, 4])])
def test_equal_times(tmp_path, how, want):
    t = read_table(written(tmp_path, 'id,time,v\na,1,1\na,1,2\na,2,4\n'), TableOptions(duplicates=how))
    assert t.data.tolist() == [want] and t.times.tolist() == [1, 2]


def test_frames_of_every_dtype():
    n = 4
    df = pd.DataFrame(dict(
        item_id=pd.Categorical(['b', 'b', 'a', 'a']), timestamp=pd.period_range('2021-01', periods=n, freq='M'), i=pd.array([1, None, 3, 4], 'Int64'),
        f=np.arange(n, dtype='f4'), flag=pd.array([True, None, False, True], 'boolean'), dec=pd.Series([1, 2, 3, 4]).map(__import__('decimal').Decimal),
        digits=['1', '2', '3', '4'], u=np.arange(n, dtype='u1')))
    t = read_table(df)
    assert t.ids == ['a', 'b'] and t.var_names == ['i', 'f', 'flag', 'dec', 'digits', 'u'] and t.roles.time_kind == 'dates'
    assert t.series(0).tolist() == [[3, 4], [2, 3], [0, 1], [3, 4], [3, 4], [2, 3]] and np.isnan(t.series(1)[0, 1])
    assert df.columns.tolist()[0] == 'item_id' and str(df.i.dtype) == 'Int64'
    assert read_table(pd.DataFrame(dict(id=[1., 2.], v=[3, 4]))).roles.layout == 'rows'
    with pytest.raises(ValueError, match='3 levels'): read_table(pd.DataFrame(dict(v=[1.]), index=pd.MultiIndex.from_tuples([(1, 2, 3)])))
    with pytest.raises(ValueError, match="there as text and as a number"): read_table(pd.DataFrame(dict(id=[1, '1'], time=[0, 1], v=[1., 2])))
    with pytest.raises(ValueError, match='not rows'): read_table(pd.DataFrame(dict(v=[1., 2]), index=pd.date_range('2021', periods=2)))


def test_lists_are_series(tmp_path):
    df = pd.DataFrame(dict(item_id=['b', 'a'], start=['2020-01-01']*2, target=[np.arange(3.), np.arange(5.)]))
    df.to_parquet(tmp_path/'t.parquet')
    for data in (df, tmp_path/'t.parquet'):
        t = read_table(data, horizon=True, windows=True)
        assert t.ids == ['a', 'b'] and np.diff(t.indptr).tolist() == [5, 3] and t.series(1).tolist() == [[0, 1, 2]] and list(t.static) == ['start']
    with pytest.raises(ValueError, match="row 0, column 'cat': the list has 2 values"): read_table(df.assign(cat=[[1, 2], [3, 4]]), windows=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.permutations(['id', 'time', 'v', 'w', 'label']))
def test_order_of_lines_and_columns_means_nothing(tmp_path_factory, seed, columns):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 30))
    df = pd.DataFrame(dict(id=rng.choice(['01', '1', 'x'], n), time=rng.permutation(n), v=rng.normal(size=n), w=rng.integers(0, 9, n)))
    df['label'] = df.id.map({'01': 'None', '1': 'a', 'x': 'b'})
    folder = tmp_path_factory.mktemp('t')
    df.to_csv(folder/'a.csv', index=False)
    df.sample(frac=1, random_state=seed)[columns].to_csv(folder/'b.csv', index=False)
    assert series(read_table(folder/'a.csv')) == series(read_table(folder/'b.csv'))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_a_folder_of_files_equals_one_long_table(tmp_path_factory, seed, dates):
    rng = np.random.default_rng(seed)
    folder, parts = tmp_path_factory.mktemp('t'), []
    (folder/'many').mkdir()
    for name in rng.permutation(['a', 'a-b', 'b', 'B'])[:rng.integers(1, 5)]:
        n = int(rng.integers(6, 12))
        time = pd.date_range('2021', periods=n).strftime('%Y-%m-%d') if dates else np.arange(n)
        part = pd.DataFrame(dict(time=time, v=rng.normal(size=n), w=rng.integers(0, 9, n), label=rng.choice(['1', '02'], n), ward=rng.choice(['x', 'y'])))
        part.to_csv(folder/'many'/f'{name}.csv', index=False)
        parts.append(part.assign(id=name))
    pd.concat(parts).sample(frac=1, random_state=seed).to_csv(folder/'long.csv', index=False)
    many, one = (open_members(folder/p, window=3, stride=2) for p in ('many', 'long.csv'))
    assert list(many.sources) == list(one.sources) and many.info.equals(one.info)
    for a, b in zip(many.sources.values(), one.sources.values()):
        assert a.var_names == b.var_names and a.dtype == b.dtype and np.array_equal(a.open()[0], b.open()[0]) and list(a.y) == list(b.y)
        assert np.array_equal(a.clock.times, b.clock.times)


def test_names_of_series(tmp_path):
    for name in 'pq': written(tmp_path, LONG, f'{name}.csv')
    assert list(members(tmp_path/'p.csv', window=2)) == ['001', '1', 'ü']
    assert list(members(tmp_path, window=2)) == [f'{n}/{i}' for n in 'pq' for i in ('001', '1', 'ü')]
    written(tmp_path, 'id,time,v,w\nz,0,1,2\nz,1,1,2\n', 'q.csv')
    assert list(members(tmp_path, window=2)) == ['001', '1', 'ü', 'z']


def test_tables_that_do_not_belong_together(tmp_path):
    written(tmp_path, 'time,v\n1,2\n2,3\n', 'a.csv')
    for text, says in [('t,v\n1,2\n', 'the time is time in .*a.csv and absent in .*b.csv'), ('time,v\n2021-01-01,2\n', 'numbers in .*a.csv, dates in .*b.csv'),
                       ('time,v\n1,x\n', "b.csv, line 2, column 'v': 'x' is no number")]:
        written(tmp_path, text, 'b.csv')
        with pytest.raises(ValueError, match=says): members(tmp_path, window=1)
    with pytest.raises(ValueError, match='lines are steps in time .*window='): members(tmp_path/'a.csv')


def test_notes_in_a_folder_are_left_alone(tmp_path):
    written(tmp_path, 'v,w\n1,2\n', 'a.csv')
    written(tmp_path, 'Thank you for reading me.\n', 'README.txt')
    assert list(members(tmp_path)) == ['a']


def test_roles_read_new_data_without_inferring(tmp_path):
    t = read_table(written(tmp_path, 'id;time;v;site;label\n01;0;0,5;n;1\n2;0;1,5;s;2\n'), TableOptions(na_values='?', rename=dict(v='hr')))
    roles = TableRoles.from_dict(json.loads(json.dumps(t.roles.to_dict())))
    assert roles == t.roles and roles.values == ('hr',) and roles.static == ('site',)
    new = read_table(written(tmp_path, 'v;time;id\n?;3;7\n2;1;7\n'), roles=roles)
    assert new.ids == ['7'] and new.times.tolist() == [1, 3] and new.y is None and new.static is None and np.isnan(new.data[0, 1])
    with pytest.raises(ValueError, match="the label '1.5' is no whole number, as all labels were"):
        read_table(written(tmp_path, 'v;time;id;label\n2;1;7;1.5\n'), roles=roles)
    with pytest.raises(ValueError, match="has no column|there is none"): read_table(written(tmp_path, 'u;time;id\n2;1;7\n'), roles=roles)
    with pytest.raises(ValueError, match='do not hold moon'): TableRoles.from_dict(dict(moon=1))
    with pytest.raises(ValueError, match='rename is a function'): read_table(tmp_path/'t.csv', TableOptions(rename=str.lower)).roles.to_dict()


def unusual(rng, path):
    "Writes a table of an unusual kind; returns what is right: series by id, or `None` where it has no meaning."
    ids = rng.permutation(['007', '7', 'ä ö', 'NA', 'x;y', 'p-1'])[:rng.integers(1, 4)]
    n = int(rng.integers(2, 6))
    df = pd.DataFrame(dict(id=np.repeat(ids, n), time=np.tile(np.arange(n), len(ids)), v=rng.normal(size=n*len(ids)).round(3) + .0001,
                           w=rng.integers(0, 9, n*len(ids))))
    right = {i: (g.v.tolist(), g.w.tolist()) for i, g in df.groupby('id')}
    shown = df.sample(frac=1, random_state=int(rng.integers(99))) if rng.random() < .5 else df
    sep, decimal = [(',', '.'), (';', ','), (';', '.'), ('\t', '.'), ('|', '.')][rng.integers(5)]
    how = rng.choice(['plain', 'bom', 'gz', 'utf-16', 'index', 'empty column', 'crlf', 'dates', 'quoted', 'blank lines', 'text column', 'flags', 'holes',
                      'ragged', 'bad cell', 'same header', 'no id', 'two headers', 'cut off', 'bad time', 'twice'])
    options = dict(index=how == 'index')
    if how == 'empty column': shown = shown.assign(u=np.nan)
    if how == 'text column': shown = shown.assign(note=[f'n{k}' for k in range(len(shown))])
    if how == 'flags': shown = shown.assign(w=shown.w > 4)
    if how == 'holes': shown = shown.assign(w=shown.w.astype(float).where(shown.w != shown.w.iloc[0]))
    if how == 'dates': shown = shown.assign(time=pd.Timestamp('2021-10-30') + pd.to_timedelta(shown.time, 'h'))
    text = shown.to_csv(sep=sep, decimal=decimal, quoting=1 if how == 'quoted' else 0, lineterminator='\r\n' if how == 'crlf' else '\n', **options)
    lines = text.split('\n')
    if how == 'blank lines': lines = [lines[0], '', *lines[1:], '', '']
    if how == 'ragged': lines[1] += f'{sep}1'
    if how == 'bad cell': lines[1] = lines[1].rsplit(sep, 1)[0] + f'{sep}--'
    if how == 'same header': lines[0] = sep.join(['id', 'time', 'v', 'v'])
    if how == 'no id': lines[1] = sep + lines[1].split(sep, 1)[1] if 'x;y' not in lines[1] else sep*3
    if how == 'two headers': lines.insert(1, sep.join(['-', 's', 'mV', 'bpm']))
    if how == 'cut off': lines = [*lines[:-2], lines[-2].rsplit(sep, 1)[0]]
    if how == 'bad time': lines[1] = lines[1].replace(sep, f'{sep}?', 1)
    if how == 'twice': lines[-1] = lines[-2]
    if how == 'flags': right = {i: (v, [float(o > 4) for o in w]) for i, (v, w) in right.items()}
    if how == 'holes': right = {i: (v, [np.nan if o == shown_hole(df, shown) else o for o in w]) for i, (v, w) in right.items()}
    path = written(path, '\n'.join(lines), 't.csv.gz' if how == 'gz' else 't.csv', {'bom': 'utf-8-sig', 'utf-16': 'utf-16'}.get(how, 'utf-8'))
    broken = {'ragged', 'bad cell', 'same header', 'no id', 'two headers', 'cut off', 'bad time', 'twice'}
    return path, None if how in broken else right, how


def shown_hole(df, shown):
    "Returns the value that was made a hole."
    return df.w[shown.index[0]]


def test_two_hundred_unusual_tables(tmp_path):
    "Each gives the right series or an error that names file and line, column or what is missing; those that have a meaning are read."
    rng, right, wrong = np.random.default_rng(7), 0, []
    for k in range(200):
        path, want, how = unusual(rng, tmp_path)
        try: t = read_table(path)
        except (ValueError, TypeError) as e:
            if 't.csv' not in str(e) or want is not None: wrong.append((k, how, str(e)))
            continue
        got = {i: tuple(t.series(j).tolist()) for j, i in enumerate(t.ids)}
        same = want is not None and got.keys() == want.keys() and all(np.allclose(a, b, 1e-12, equal_nan=True) for i in want for a, b in zip(got[i], want[i]))
        if same: right += 1
        else: wrong.append((k, how, got))
    assert not wrong, wrong[:3]
    assert right >= 100
