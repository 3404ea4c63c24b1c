"Files of the UCR and Monash archives: as aeon reads them, and every error names file and line."
from pathlib import Path

import numpy as np
import pytest

from tsmeta.sources.base import library
from tsmeta.sources.files import members, read_archive

HEAD = '@problemName a\n@timeStamps false\n@univariate true\n@equalLength true\n@classLabel true a b\n@data\n'
TIMED = HEAD.replace('timeStamps false', 'timeStamps true')
TSF = '@relation a\n@attribute series_name string\n@attribute start_timestamp date\n@frequency daily\n@data\n'


def bundled():
    home = Path(library('aeon.datasets').__file__).parent/'data'
    return sorted(f for end in ('ts', 'tsf') for f in home.glob(f'*/*.{end}') if f.stat().st_size < 400_000)[:12]


@pytest.mark.parametrize('path', bundled(), ids=lambda f: f.name)
def test_archives_are_read_as_aeon_reads_them(path):
    X, y, names = read_archive(path)
    if path.suffix == '.ts':
        want, want_y = library('aeon.datasets').load_from_ts_file(str(path))
        assert list(y) == list(want_y) and names is None
    else:
        df = library('aeon.datasets').load_from_tsf_file(str(path))[0]
        want = [np.asarray(o, float)[None] for o in df['series_value']]
        assert names == [str(o) for o in df['series_name']]
    assert len(X) == len(want) and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(X, want))


def write(tmp_path, text, suffix='.ts'):
    path = tmp_path/f'a{suffix}'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize('text, match', [
    (HEAD + '1,2:a\n1,x:b\n', "line 8: value 2 is 'x'"), (HEAD + '1,2:a\n1,,2:b\n', "line 8: value 2 is ''"), (HEAD + '1,2\n', 'line 7: .*":"'),
    (HEAD + '1,2:1,2,3:a\n', 'line 7: .*different numbers of steps'), (HEAD + '1:2:a\n1:a\n', 'line 8: it has 1 variables'),
    ('hello\n@data\n1:a\n', 'line 1'), ('@\n@data\n1:a\n', 'line 1'), ('', 'no line @data'), (HEAD, 'no line after @data'),
    (TIMED + '(0,1),(1,2),(5,3):a\n', 'line 7: its timestamps'), (TIMED + '(2020-01-01 00:00:00,1),(x,2):a\n', 'line 7: its timestamps'),
    (TIMED + '1,2:a\n', r'line 7: .*\(time,value\)'), (HEAD.replace('classLabel true a b', 'targetLabel true') + '1,2:x\n', 'line 7: value 1')])
def test_errors_of_ts_files_name_the_line(tmp_path, text, match):
    with pytest.raises(ValueError, match=rf'a\.ts\b.*{match}|a\.ts has {match}'): members(write(tmp_path, text))


@pytest.mark.parametrize('text, match', [(TSF + 'A:2020:1,2\nB:1,2\n', 'line 7: 1 attributes'), (TSF + 'A:2020:1,z\n', "line 6: value 2 is 'z'")])
def test_errors_of_tsf_files_name_the_line(tmp_path, text, match):
    with pytest.raises(ValueError, match=rf'a\.tsf.*{match}'): members(write(tmp_path, text, '.tsf'))


def test_what_a_ts_file_may_hold(tmp_path):
    X, y, _ = read_archive(write(tmp_path, TIMED + '(0,1),(1,2):a\n(0,3),(1,?):b\n'))
    assert np.array_equal(X, [[[1, 2]], [[3, np.nan]]], equal_nan=True) and y.tolist() == ['a', 'b']
    X, y, _ = read_archive(write(tmp_path, '\ufeff# note\r\n' + HEAD.replace('\n', '\r\n') + '1,2:3,4: a \r\n\r\n5:6:b\r\n'))
    assert [x.tolist() for x in X] == [[[1, 2], [3, 4]], [[5], [6]]] and y.tolist() == ['a', 'b']
    X, y, _ = read_archive(write(tmp_path, '@classLabel false\n@data\n1,2\n3,4\n'))
    assert y is None and np.array_equal(X, [[[1, 2]], [[3, 4]]])
    X, y, _ = read_archive(write(tmp_path, '@targetLabel true\n@data\n1,2:.5\n'))
    assert y.tolist() == [.5]
