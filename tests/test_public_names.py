"The names of `tsmeta.all` and their parameters are a promise: whoever changes one says so in the changelog."

import inspect
import json
from pathlib import Path

import pytest
import tsmeta.all

FILE = Path(__file__).parent / 'golden' / 'all_names.json'
SAY_SO = 'If that is meant, write a line about it into CHANGELOG.md, then run `python tests/test_public_names.py`.'


def signature(o):
    "Return names, kinds and defaults of the parameters of a function, or of a class's `__init__`, as text; of a value, the value"
    if not callable(o): return repr(o)
    given = inspect.signature(o.__init__ if isinstance(o, type) else o)
    parameters = [
        p.replace(annotation=p.empty)
        for name, p in given.parameters.items()
        if not (isinstance(o, type) and name == 'self')
    ]
    return str(given.replace(parameters=parameters, return_annotation=given.empty))


def public():
    return {name: signature(getattr(tsmeta.all, name)) for name in tsmeta.all.__all__}


STORED = json.loads(FILE.read_text()) if FILE.exists() else {}


@pytest.mark.parametrize('name', STORED)
def test_parameters_are_as_they_were(name):
    assert hasattr(tsmeta.all, name), f'tsmeta.all has lost {name}. {SAY_SO}'
    now = signature(getattr(tsmeta.all, name))
    assert now == STORED[name], f'{name} took {STORED[name]}, now it takes {now}. {SAY_SO}'


def test_the_list_is_as_it_was():
    now = set(tsmeta.all.__all__)
    lost, new = sorted(set(STORED) - now), sorted(now - set(STORED))
    assert not lost, f'tsmeta.all no longer lists {", ".join(lost)}. {SAY_SO}'
    assert not new, f'tsmeta.all lists {", ".join(new)}, which are not stored yet. {SAY_SO}'
    assert len(tsmeta.all.__all__) == len(now), 'tsmeta.all lists a name twice'


def test_star_import_gives_every_name():
    found = {}
    exec('from tsmeta.all import *', found)
    assert set(STORED) <= set(found)


def test_changes_are_seen():
    class Old:
        def __init__(self, a, b: int = 1, *, c='x', **kwargs):
            pass

    class Renamed:
        def __init__(self, a, d: int = 1, *, c='x', **kwargs):
            pass

    class OtherDefault:
        def __init__(self, a, b: float = 2, *, c='x', **kwargs):
            pass

    assert signature(Old) == "(a, b=1, *, c='x', **kwargs)"
    assert len({signature(o) for o in (Old, Renamed, OtherDefault)}) == 3


if __name__ == '__main__':
    FILE.write_text(json.dumps(public(), indent=1) + '\n')
