"The split language: against TensorFlow Datasets' answers, its laws, and specs that must mean the same for ever"
import importlib.util, json
from fractions import Fraction
from pathlib import Path
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
import tsmeta.splits.splits # gives views their fingerprint
from tsmeta.splits.spec import round_share
from tsmeta.splits.spec import ReadInstruction, Split, percent
from tsmeta.splits.splits import Splits, even_splits, resolve, select, split_for_process

HERE = Path(__file__).parents[1]
GOLDEN = json.loads((HERE/'golden'/'tfds_splits.json').read_text())
spec = importlib.util.spec_from_file_location('tfds_oracle', HERE.parent/'scripts'/'tfds_oracle.py')
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)
SPLITS, SMALL = Splits(oracle.SIZES), Splits({s: oracle.SIZES[s] for s in oracle.SMALL})

def ours(instruction, splits=SPLITS, rounding=None):
    try: return [list(x) for x in resolve(instruction, splits, rounding)]
    except ValueError: return None

def test_oracle_is_asked_what_is_tested():
    asked = json.loads(json.dumps(oracle.questions()))
    for kind, questions in asked.items(): assert [q for q, _ in GOLDEN[kind]] == questions
    assert len(GOLDEN['same']) > 400 and all(a is not None for _, a in GOLDEN['same'])

def test_answers_are_current():
    pytest.importorskip('tensorflow_datasets')
    assert oracle.answers() == GOLDEN

@pytest.mark.parametrize('kind', ['same', 'wrong'])
def test_same_as_tfds(kind): assert [s for s, want in GOLDEN[kind] if ours(s) != want] == []

def test_same_files_as_tfds():
    wrong = []
    for s, want in GOLDEN['files']:
        got, name = SPLITS[s], s.split('[')[0]
        shards = [[int(d[len(name)+1:].removesuffix('shard]')), skip, take] for d, skip, take in got.instructions]
        if shards != want or got.num_examples != sum(t for *_, t in want) or got.num_shards != len(want): wrong.append(s)
    assert wrong == []

def test_pct1_same_as_tfds():
    got = [[q, ours(ReadInstruction(q[0], q[1], q[2], '%', 'pct1_dropremainder'))] for q, _ in GOLDEN['pct1']]
    assert got == GOLDEN['pct1']

def test_even_splits_same_as_tfds():
    def filled(parts): return [p for p in parts if p[1] < p[2]]
    for (s, n, drop), want in GOLDEN['even']:
        assert [filled(ours(e)) for e in even_splits(s, n, drop)] == [filled(w) for w in want], (s, n, drop)

DIFFERENT = {
    'test[-50%:]': [['test', 50, 101]], 'test[:-50%]': [['test', 0, 50]], 'test[-50%:-10%]': [['test', 50, 91]],
    'val[44%:-1%]': [['val', 13, 30]], 'val[:-1%]': [['val', 0, 30]], 'val[-1%:]': [['val', 30, 30]],
    'huge[:33%]': [['huge', 0, round(Fraction(33 * 2**60, 100))]], 'huge[1%:99%]': [['huge', round(Fraction(2**60, 100)), round(Fraction(99 * 2**60, 100))]],
    'huge[:33.3%]': [['huge', 0, round(Fraction(333 * 2**60, 1000))]],
    'val[:0shard]': [['val', 0, 0]], 'val[0shard:0shard]': [['val', 0, 0]], 'train[0shard:50]': [['train', 0, 50]], 'train[0shard:50%]': [['train', 0, 100]]}

@pytest.mark.parametrize('spec, why', [(s, why) for why, specs in oracle.DIFFERENT.items() for s in specs])
def test_differs_from_tfds_on_purpose(spec, why):
    theirs = dict(map(tuple, GOLDEN['different']))[spec]
    assert ours(spec) == DIFFERENT.get(spec), why
    assert ours(spec) != theirs

def test_other_differences():
    assert [ours(e) for e in even_splits('train+test', 3)][1] == [['train', 101, 200], ['test', 0, 1]]   # a union as a whole
    with pytest.raises(ValueError, match='1 share or more'): even_splits('train', 0)
    with pytest.raises(ValueError, match='whole percents'): ReadInstruction('train', to=2.5, unit='%', rounding='pct1_dropremainder').to_absolute(SPLITS)

@pytest.mark.parametrize('spec, at, why', [
    ('train[:75%]+tset', '            ^^^^', "Did you mean 'test'"), ('test[:300]', '      ^^^', 'row 300 is beyond the end: split'), ('train[10:50%]', '      ^^^^^^', 'different units'),
    ('val[7shard]', '    ^^^^^^', 'shard 7 is beyond the 4 shards'), ('train[5]', '     ^^^', 'a slice is written'), ('train[:5:2]', '        ^^', 'steps'),
    ('train[50:20]', 'slice', 'reversed'), ('train+', '      ^', 'missing'), ('train [:5]', '     ^', 'white space'), ('train[:5]x', '         ^', 'a component is'),
    ('train[:101%]', '       ^^^^', 'between -100% and 100%'), ('train[+5:]', '      ^^', 'a bound is a number'), ('all[:5]', '^^^^^^^', 'cannot be sliced')])
def test_carets(spec, at, why):
    with pytest.raises(ValueError) as e: resolve(spec, SPLITS)
    head, text, caret = str(e.value).split('\n')
    assert repr(spec) in head and why in head and text == '    ' + spec
    if at != 'slice': assert caret == '    ' + at

def test_names():
    splits = Splits({'tra-in': 5, '2015_x': 6, 'été': 7})
    assert resolve('tra-in[-2:] + 2015_x+été', splits) == [('tra-in', 3, 5), ('2015_x', 0, 6), ('été', 0, 7)]
    for bad in ('all', 'a b', 'a[', '', 'a+b', 3):
        with pytest.raises(ValueError): Splits({bad: 5})
    assert resolve('all', splits) == [('tra-in', 0, 5), ('2015_x', 0, 6), ('été', 0, 7)]

def test_rows_beyond_64_bits_are_beyond_the_end():
    for spec in (f'train[:{2**63}]', f'train[{10**30}:]', f'train[-{2**64}:]', f'train[:-{10**30}]'):
        with pytest.raises(ValueError, match='is beyond the end: split .train. has 200 rows'): resolve(spec, SPLITS)
    with pytest.raises(ValueError, match='is beyond the end'): resolve(f'a[:{2**63}]', Splits({'a': 2**63-1}))
    assert resolve(f'a[-{2**63-1}:]', Splits({'a': 2**63-1})) == [('a', 0, 2**63-1)]

def test_shapes():
    assert resolve([], SPLITS) == [] and resolve(('train', ['test']), SPLITS) == ([('train', 0, 200)], [[('test', 0, 101)]])
    assert list(resolve(None, SPLITS)) == list(SPLITS) and resolve({'a': 'none'}, SPLITS) == {'a': [('none', 0, 0)]}
    for bad in (5, 2.5, object()):
        with pytest.raises(TypeError, match='is named by text'): resolve(bad, SPLITS)

def test_too_many_rows_are_refused():
    with pytest.raises(ValueError, match='2⁶³-1'): Splits({'a': 2**62, 'b': 2**62})
    assert resolve('a[:50%]', Splits({'a': 2**63-1})) == [('a', 0, 2**62)]

# Laws

settings.register_profile('laws', deadline=None, derandomize=True)
settings.load_profile('laws')

numbers = st.integers(0, 2**62)
shares = st.fractions(0, 1, max_denominator=10**6)

@given(st.lists(numbers, min_size=1), shares)
def test_portion_is_exact(n, p): assert round_share(np.array(n), p).tolist() == [round(p*x) for x in n]

@given(st.integers(0, 10**6), st.decimals(0, 100, places=2))
def test_a_percentage_and_its_complement_part_the_data(n, p):
    splits = Splits({'train': n})
    for a, b in ((f'train[:{p}%]', f'train[{p}%:]'), (f'train[:{p}%]', f'train[{p-100}%:]') if 0 < p < 100 else ('train', 'train[100%:]'), (f'train[:{100-p}%]', f'train[{100-p}%:]')):
        (_, lo, cut), (_, cut2, hi) = resolve(a, splits)[0], resolve(b, splits)[0]
        assert (lo, cut, hi) == (0, cut2, n)

@given(st.integers(0, 500), st.integers(3, 100))
def test_cross_validation_parts_the_data(n, step):
    splits = Splits({'train': n})
    cuts = [(k, min(100, k+step)) for k in range(0, 100, step)]
    assert np.concatenate([ids_of(splits, f'train[{a}%:{b}%]') for a, b in cuts]).tolist() == list(range(n))
    for a, b in cuts: assert sorted([*ids_of(splits, f'train[{a}%:{b}%]'), *ids_of(splits, f'train[:{a}%]+train[{b}%:]')]) == list(range(n))

def ids_of(splits, s): return splits[s].ids()

lens = st.lists(st.integers(0, 30), min_size=1, max_size=12)

@given(lens, st.integers(1, 9), st.booleans())
def test_even_shares_part_the_union(lens, n, drop):
    splits = Splits({'a': lens, 'b': lens[::-1]})
    got = [splits[e].ids() for e in even_splits('b+a', n, drop)]
    whole = splits['b+a'].ids()
    m = len(whole)
    assert [len(g) for g in got] == [m//n + (not drop and k < m % n) for k in range(n)]
    assert np.concatenate(got).tolist() == whole[:m - drop*(m % n)].tolist()

@given(lens, st.integers(1, 5), st.integers(1, 5))
def test_even_shares_nest(lens, n, m):
    splits = Splits({'a': lens, 'b': 7})
    outer = even_splits('a+b[:3]', n)
    for o in outer: assert np.concatenate([splits[e].ids() for e in even_splits(o, m)]).tolist() == splits[o].ids().tolist()
    assert eval(repr(outer[-1])) == outer[-1] and hash(eval(repr(outer[0]))) == hash(outer[0])

@given(lens, st.sampled_from(['[:50%]', '[50%:]', '[33.3%:66.6%]', '[-25%:]', '', '[0:0]']))
def test_per_dataset_is_the_language_in_each_dataset(lens, tail):
    got = select(Splits({'a': lens}), 'a' + tail, per='dataset').ids().tolist()
    starts = np.cumsum([0, *lens])
    assert got == [int(at) + i for at, n in zip(starts, lens) for _, a, b in resolve('x' + tail, {'x': n}) for i in range(a, b)]

@given(st.text('train+[]:%shard-0123456789. ', max_size=20))
@settings(max_examples=300)
def test_any_text_is_read_or_refused_and_what_is_read_writes_back(text):
    try: ri = ReadInstruction.from_spec(text)
    except ValueError as e: assert text in str(e)
    else:
        assert ReadInstruction.from_spec(str(ri)) == ri
        assert eval(repr(ri)) == ri

@given(st.sampled_from([None, '%', 'shard']), st.one_of(st.none(), st.integers(-100, 100)), st.one_of(st.none(), st.integers(-100, 100)))
def test_read_instruction_is_the_text(unit, a, b):
    if a is None and b is None: return
    text = f'val[{"" if a is None else a}{(unit or "") if a is not None else ""}:{"" if b is None else b}{(unit or "") if b is not None else ""}]'
    try: ri = ReadInstruction('val', a, b, unit)
    except ValueError:
        with pytest.raises(ValueError): ReadInstruction.from_spec(text)
    else:
        assert ri == ReadInstruction.from_spec(text) and eval(repr(ri)) == ri
        assert ours(ri) == ours(text)

def test_read_instruction_arguments():
    assert ReadInstruction('val', to=3, unit='abs') == ReadInstruction('val', to=3)
    assert ours(ReadInstruction('test', from_=33.3, unit='%')) == ours('test[33.3%:]')
    for args in (('a+b',), ('val', 1.5), ('val', 0, 5, 'rows'), ('val', 0, 5, '%', 'nearest')):
        with pytest.raises(ValueError): ReadInstruction(*args)
    with pytest.raises(TypeError): ReadInstruction('val', 'x')
    assert ReadInstruction('a') != ReadInstruction('b') and len({ReadInstruction('a'), ReadInstruction('a')}) == 1

# Processes

def test_split_for_process(monkeypatch):
    for key in ('RANK', 'WORLD_SIZE'): monkeypatch.delenv(key, raising=False)
    assert ours(split_for_process('train')) == [['train', 0, 200]]
    monkeypatch.setenv('RANK', '2'); monkeypatch.setenv('WORLD_SIZE', '3')
    assert ours(split_for_process('train')) == [['train', 134, 200]]
    assert ours(split_for_process('train', drop_remainder=True)) == [['train', 132, 198]]
    assert ours(split_for_process('train', 0, 2)) == [['train', 0, 100]]
    for args in ((3, 3), (-1, 3), (0, None), (0, 0)):
        with pytest.raises(ValueError): split_for_process('train', *args)
    monkeypatch.setenv('RANK', 'x')
    with pytest.raises(ValueError, match="RANK='x'"): split_for_process('train')
    monkeypatch.delenv('RANK')
    with pytest.raises(ValueError, match='only one of'): split_for_process('train')

# The old way

@given(st.integers(0, 1000), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_subsplits_part_the_data_by_row_number_modulo_100(n, weights):
    splits = Splits({'train': n, 'test': 250})
    parts = (Split.TRAIN + Split.TEST).subsplit(weighted=weights)
    assert sorted(i for p in parts for i in splits[p]) == list(range(n + 250))
    ends = np.cumsum([100*w // sum(weights) for w in weights[:-1]]).tolist()
    for p, lo, hi in zip(parts, [0, *ends], [*ends, 100]): assert [i for i in range(n) if lo <= i % 100 < hi] == [i for i in splits[p] if i < n]

def test_old_way():
    splits = Splits({'train': 200, 'test': 30})
    assert resolve(Split.ALL, splits) == resolve('all', splits)
    assert resolve(Split('test') + Split.TRAIN, splits) == [('test', 0, 30), ('train', 0, 200)]
    assert resolve(Split.TRAIN.subsplit(percent[-2:]), splits) == [('train', 98, 100), ('train', 198, 200)]
    for same in (Split.TRAIN.subsplit(2), Split.TRAIN.subsplit(k=2), Split.TRAIN.subsplit([1, 1]), Split.TRAIN.subsplit(weighted=[5, 5])): assert list(map(str, same)) == ['train.percent[0:50]', 'train.percent[50:100]']
    assert Split.TRAIN.subsplit(percent=percent[:10]) == Split.TRAIN.subsplit(percent[:10]) and eval(repr(Split.TRAIN.subsplit(percent[:10]))) == Split.TRAIN.subsplit(percent[:10])
    for bad in (lambda: Split.ALL + Split.TRAIN, lambda: Split.TRAIN.subsplit(0), lambda: Split.TRAIN.subsplit(101), lambda: Split.TRAIN.subsplit(weighted=[]), lambda: Split.TRAIN.subsplit(2, percent=percent[:5]),
                lambda: (Split.TRAIN.subsplit(percent[:25]) + Split.TEST).subsplit(percent[:50]), lambda: percent[::2], lambda: percent[60:40], lambda: Split('a b'), lambda: resolve(Split.VALIDATION, splits)):
        with pytest.raises(ValueError): bad()

# For ever

STORED = json.loads((HERE/'golden'/'split_specs.json').read_text())
@pytest.mark.parametrize('spec', STORED['specs'])
def test_stored_specs_keep_their_meaning(spec):
    splits = Splits(STORED['splits'])
    want = STORED['specs'][spec]
    made = eval(spec, dict(ReadInstruction=ReadInstruction, Split=Split, percent=percent, even_splits=even_splits)) if '(' in spec or '.' in spec.split('[')[0] else spec
    assert [list(r) for r in resolve(made, splits)] == want['rows']
    assert select(splits, made, per='dataset').fingerprint() == want['per dataset'] if want['per dataset'] else True
