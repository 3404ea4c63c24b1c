"The gather beside plain NumPy: any types, strides and targets; what ids may be; threads; a cache of compiled code that is damaged or missing"
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tsmeta import gather as gather_module
from tsmeta.sources.align import Framed
from tsmeta.batches.gather import Gather, check_gather
from tsmeta.sources.base import ArraySource, FileSource

ROOT = Path(__file__).parents[2]
TYPES = 'f4', 'f8', 'i2', 'i4', 'i8', 'f2', '>f4', 'u1', '?'
needs_numba = pytest.mark.skipif(not gather_module.HAS_NUMBA, reason='needs numba')


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    out = raw.view(a.dtype).reshape(a.shape)
    out[...] = a
    return out


def every_second(a):
    out = np.zeros([2*n for n in a.shape], a.dtype)[tuple([slice(None, None, 2)]*a.ndim)]
    out[...] = a
    return out


def backwards(a): return np.flip(np.flip(a).copy())


LAYOUTS = dict(c=np.ascontiguousarray, fortran=np.asfortranarray, backwards=backwards, second=every_second, unaligned=unaligned)


def numbers(rng, shape, dtype):
    "Numbers over the whole range of a type; of floats, some are NaN, infinite or -0"
    if np.dtype(dtype).kind == 'b': return rng.random(shape) < .5
    if np.dtype(dtype).kind in 'iu':
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, np.dtype(dtype).newbyteorder('='), endpoint=True).astype(dtype)
    x = rng.normal(scale=10.**rng.integers(-3, 4), size=shape)
    x[rng.random(shape) < .2] = rng.choice([np.nan, np.inf, -np.inf, -0.])
    return x.astype(dtype)


def same_bits(a, b): return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('labels', [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize('y_type', ['f4', 'f8', 'i2', 'i4', 'i8', 'u1', '?'])
def test_rows_and_targets_of_all_types_and_strides(layout, labels, y_type):
    rng = np.random.default_rng(len(labels))
    X = [LAYOUTS[layout](numbers(rng, (4, 3, 7), t)) for t in TYPES]
    Y = [LAYOUTS[layout](numbers(rng, (4, *labels), y_type)) for _ in TYPES]
    gather = Gather([ArraySource(x) for x in X], Y)
    ids = rng.integers(0, 4*len(TYPES), 50)
    x, y = gather(ids)
    assert same_bits(x, np.concatenate([a.astype('f4') for a in X])[ids])
    assert same_bits(y, np.concatenate(Y).astype('i8' if y_type[0] in 'iu?' else 'f4')[ids])
    check_gather(gather, ids)


@pytest.mark.parametrize('fill', [0., np.nan])
@pytest.mark.parametrize('nan', [None, 5.])
@pytest.mark.parametrize('side', ['right', 'left', 'center'])
def test_what_is_filled_stays_what_was_asked(side, nan, fill):
    "NaN that is filled in is no missing value, and -0 and infinity are numbers"
    x = np.array([[[1, np.nan, -0., np.inf]]], 'f4')
    got = Gather([Framed(ArraySource(x), None, 7, side, fill, nan)])(np.array([0]))[0][0, 0]
    row = np.where(np.isnan(x[0, 0]), np.nan if nan is None else nan, x[0, 0]).astype('f4')
    before = dict(right=0, left=3, center=2)[side]
    want = np.concatenate([np.full(before, fill), row, np.full(3 - before, fill)]).astype('f4')
    assert np.array_equal(got, want, equal_nan=True) and np.array_equal(np.signbit(got), np.signbit(want))


def some_rows(): return Gather([ArraySource(np.arange(40.).reshape(10, 2, 2)), ArraySource(np.arange(40, 60.).reshape(5, 2, 2))], [np.arange(10), np.arange(10, 15)])


@pytest.mark.parametrize('numba', [True, False])
@pytest.mark.parametrize('bad, match', [
    (np.array([2**64 - 1], np.uint64), 'beyond int64'), (np.array([2**63, 3], np.uint64), 'beyond int64'), (np.ones(15, bool), 'not truth values'),
    ([True, False], 'not truth values'), (np.array([[0, 1]]), r'one-dimensional.*\(1, 2\)'), (3, 'one-dimensional'), (np.array([0., 1.]), 'float64'),
    (['0'], 'integers'), (np.array([0, 15]), 'global id 15'), (np.array([0, -1], np.int8), 'global id -1'), (np.array([15], np.uint8), 'global id 15')], ids=repr)
def test_what_is_no_id_is_an_error(monkeypatch, numba, bad, match):
    if not numba: monkeypatch.setattr(gather_module, 'HAS_NUMBA', False)
    with pytest.raises(IndexError, match=match): some_rows()(bad)


@needs_numba
def test_ids_of_any_integer_type_need_one_compilation():
    gather, ids = some_rows(), [14, 0, 3]
    want = gather(np.array(ids))
    readonly = np.array(ids)
    readonly.flags.writeable = False
    given = [np.array(ids, t) for t in ('i1', 'i4', 'u2', 'u8', '>i8')] + [ids, readonly, np.array([ids, ids]).T[:, 0], np.array(ids)[::-1][::-1], unaligned(np.array(ids))]
    for a in given: assert all(same_bits(o, w) for o, w in zip(gather(a), want))
    for empty in ([], np.zeros(0, int), np.zeros(0, bool)): assert [o.shape for o in gather(empty)] == [(0, 2, 2), (0,)]
    Gather([Framed(ArraySource(np.zeros((3, 2, 2), 'i2')), [1, 0], 3, 'random')])(np.array([1]), 2**64 - 1)
    Gather([ArraySource(np.zeros((3, 2, 2)))], [np.zeros((3, 4), 'f4')])([1])
    assert len(gather_module.copy_rows.signatures) == 1


def test_arrays_with_fewer_rows_than_promised_are_not_read_beyond_their_end():
    class Short(ArraySource):
        def __len__(self): return 9
    gather = Gather([Short(np.zeros((5, 1, 3), 'f4'))], [np.zeros(9)])
    with pytest.raises(IndexError): gather(np.array([8]))
    gather = Gather([ArraySource(np.zeros((9, 1, 3), 'f4'))], [np.zeros(5)])
    with pytest.raises(IndexError): gather(np.array([8]))
    assert gather(np.array([4]))[0].shape == (1, 1, 3)


@pytest.mark.parametrize('max_open', [None, 3])
def test_threads_may_open_and_close_files(tmp_path, max_open):
    for k in range(24): np.save(tmp_path/f'{k}.npy', np.full((40, 2, 500), k, 'f4'))
    class Mapped(FileSource):
        read = property() # Not there: each file has to be mapped
    for kind in (FileSource, Mapped):
        for trial in range(4):
            gather, start, wrong = Gather([kind(tmp_path/f'{k}.npy') for k in range(24)], max_open=max_open), threading.Barrier(8), []
            def read(seed):
                ids = np.random.default_rng(seed).integers(0, 960, 300)
                start.wait()
                for part in np.split(ids, 10):
                    if not (gather(part)[0] == (part//40)[:, None, None]).all(): wrong.append(seed)
            threads = [threading.Thread(target=read, args=(8*trial + k,)) for k in range(8)]
            for t in threads: t.start()
            for t in threads: t.join()
            assert not wrong and (max_open is None or len(gather.opened.lazy) <= max_open)


FIRST_BATCH = '''
import numpy as np, sys
from tsmeta.batches.gather import Gather
from tsmeta.batches.kernel import copy_rows
from tsmeta.sources.base import ArraySource
x = np.arange(12.).reshape(3, 2, 2)
assert (Gather([ArraySource(x)])(np.array([2, 0]))[0] == x[[2, 0]]).all()
print(sum(copy_rows.stats.cache_hits.values()))
'''


def first_batch(package, cache, home):
    "Whether compiled code was found on disk, and the warnings that were given"
    env = {k: v for k, v in os.environ.items() if not k.startswith(('NUMBA', 'XDG', 'PYTHON'))}
    env |= dict(PYTHONPATH=str(package), NUMBA_CACHE_DIR=str(cache), HOME=str(home), PYTHONDONTWRITEBYTECODE='1', PYTHONWARNINGS='default')
    done = subprocess.run([sys.executable, '-c', FIRST_BATCH], env=env, cwd=package, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout), [line for line in done.stderr.splitlines() if 'Warning: Compiled code' in line]


@needs_numba
def test_without_a_folder_to_write_to_code_is_compiled_each_time(tmp_path):
    package, file = tmp_path/'package', tmp_path/'file'
    shutil.copytree(ROOT/'tsmeta', package/'tsmeta', ignore=shutil.ignore_patterns('__pycache__'))
    file.write_text('')
    for part in ('splits', 'batches'): (package/'tsmeta'/part/'__pycache__').write_text('')
    for _ in range(2):
        found, warned = first_batch(package, file/'below', file/'home')
        assert found == 0 and len(warned) == 1 and 'NUMBA_CACHE_DIR' in warned[0]


@pytest.fixture(scope='module')
def compiled_code(tmp_path_factory):
    "A folder with the compiled code of a first batch"
    folder = tmp_path_factory.mktemp('code')
    assert first_batch(ROOT, folder, folder) == (0, [])
    return folder


@needs_numba
@pytest.mark.parametrize('rest', [b'', b'\x80\x05garbage'], ids=['empty', 'garbage'])
@pytest.mark.parametrize('suffix', ['nbi', 'nbc'])
def test_damaged_code_on_disk_is_made_anew(tmp_path, compiled_code, suffix, rest):
    cache = shutil.copytree(compiled_code, tmp_path/'cache')
    files = list(cache.rglob(f'*.{suffix}'))
    assert files
    for f in files: f.write_bytes(rest)
    found, warned = first_batch(ROOT, cache, tmp_path)
    folders = {f.parent for f in files}
    assert found == 0 and len(warned) == len(folders)
    assert all(str(cache) in w and 'made anew' in w for w in warned)
    assert first_batch(ROOT, cache, tmp_path) == (1, [])
