"Orders, draws and splits are those of version 0.1.0: a seed gives the same rows in every later version."

import json
from functools import cache

import pytest
from golden_cases import FILES
from golden_cases import GOLDEN
from golden_cases import pin
from golden_cases import plans

CHANGE = 'Rows or draws come otherwise than before, so old seeds, states and splits mean something else.'


@cache
def made(file):
    return json.loads(json.dumps(FILES[file]()))


@cache
def stored(file):
    return json.loads((GOLDEN / file).read_text())


CASES = [(file, name) for file in FILES for name in stored(file)]


@pytest.mark.parametrize('file,name', CASES, ids=[f'{f.removesuffix(".json")}: {n}' for f, n in CASES])
def test_as_it_was(file, name):
    want = stored(file)[name]
    got = made(file)[name]
    assert got == want, f'{file}, {name!r}: was {json.dumps(want)[:700]}, is {json.dumps(got)[:700]}. {CHANGE}'


@pytest.mark.parametrize('file', FILES)
def test_every_case_is_stored(file):
    assert sorted(made(file)) == sorted(stored(file))


def test_a_pin_notices_one_row_out_of_place():
    batches = plans(5_000)['shuffled'].many(0, 0, 79)
    rows = [i for b in batches for i in b.tolist()]
    before = pin(rows)
    rows[2_000], rows[2_001] = rows[2_001], rows[2_000]
    after = pin(rows)
    assert before != after and before['first'] == after['first'] and before['last'] == after['last']
