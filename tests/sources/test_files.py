"Members in files of every kind: read by processes of every start method, few files open, faults named."
import multiprocessing as mp
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tsmeta.sources.files import Handles, StoredSource
from tsmeta.sources.base import library
from tsmeta.batches.gather import Gather, check_gather
from tsmeta.sources.files import members
from tsmeta.sources.base import FileSource, NpyFile, check_source
from tsmeta.sources.recordings import WindowSource

ROOT = Path(__file__).resolve().parents[2]
KINDS = ['npy', 'npz', 'zarr2', 'zarr3', 'h5', 'parquet', 'feather', 'csv', 'ts']


def write(kind, folder, name, X):
    "The same rows (one variable) in a file of a kind"
    path = folder/f'{name}.{kind.rstrip("23")}'
    wide = pd.DataFrame(X[:, 0], columns=[str(i) for i in range(X.shape[2])])
    if kind == 'npy': np.save(path, X)
    elif kind == 'npz': np.savez(path, X=X)
    elif kind.startswith('zarr'): library('zarr').save_array(str(path), X, zarr_format=int(kind[-1]))
    elif kind == 'h5':
        with library('h5py').File(path, 'w') as f: f['X'] = X
    elif kind == 'parquet': wide.to_parquet(path)
    elif kind == 'feather': wide.to_feather(path)
    elif kind == 'csv': wide.to_csv(path, index=False)
    else:
        lines = [','.join(map(repr, map(float, r))) + ':a' for r in X[:, 0]]
        head = f'@problemName a\n@timeStamps false\n@univariate true\n@equalLength true\n@seriesLength {X.shape[2]}\n@classLabel true a b\n@data\n'
        path.write_text(head + '\n'.join(lines) + '\n')
    return path


def read(gather, ids, queue): queue.put(gather(ids)[0])


def in_process(method, gather, ids):
    "What a gather gives in another process"
    ctx = mp.get_context(method)
    queue = ctx.Queue()
    p = ctx.Process(target=read, args=(gather, ids, queue))
    p.start()
    try: return queue.get(timeout=60)
    finally: p.join(20)


@pytest.fixture(scope='module')
def kinds(tmp_path_factory):
    "One gather over files of every kind, opened here already, and what their rows are"
    folder, rng = tmp_path_factory.mktemp('kinds'), np.random.default_rng(0)
    X = {k: rng.normal(size=(4, 1, 6)).astype('float32') for k in KINDS}
    return {k: Gather(list(members(write(k, folder, k, x)).values())) for k, x in X.items()}, X


@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])
def test_every_kind_in_every_worker(kinds, method):
    gathers, X = kinds
    ids = np.array([3, 0, 3, 1])
    for k, g in gathers.items(): np.testing.assert_allclose(g(ids)[0], X[k][ids], rtol=1e-6, err_msg=k)
    whole = Gather([s for g in gathers.values() for s in g.sources])
    all_ids = np.random.default_rng(0).permutation(len(whole.index))
    got = in_process(method, whole, all_ids)
    np.testing.assert_allclose(got, np.concatenate(list(X.values()))[all_ids], rtol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_sources_follow_the_protocol_and_travel_light(kinds, kind):
    src = kinds[0][kind].sources[0]
    check_source(src)
    check_source(pickle.loads(pickle.dumps(src)))
    assert len(pickle.dumps(src)) < 800


@pytest.mark.parametrize('kind', KINDS)
def test_truncated_or_replaced_files_are_named(tmp_path, kind):
    X = np.random.default_rng(0).normal(size=(50, 1, 30)).astype('float32')
    path = write(kind, tmp_path, 'beat', X)
    src = list(members(path).values())[0]
    fresh = pickle.loads(pickle.dumps(src))
    if kind.startswith('zarr'):
        import shutil
        shutil.rmtree(path)
        write(kind, tmp_path, 'beat', X[:-1])
    else: path.write_bytes(path.read_bytes()[:-40])
    code = f'import pickle; src = pickle.loads({pickle.dumps(fresh)!r}); x, _ = src.open(); src.read([0]) if x is None else x'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert 'ValueError' in done.stderr and 'beat' in done.stderr, done.stderr


@pytest.mark.parametrize('kind', KINDS)
def test_rubbish_is_an_error_that_names_the_file(tmp_path, kind):
    path = tmp_path/f'junk.{kind.rstrip("23")}'
    if kind.startswith('zarr'):
        path.mkdir()
        (path/'zarr.json').write_text('{')
    else: path.write_bytes(b'\x00\xffnothing at all\n"')
    with pytest.raises(ValueError, match='junk'): members(path)


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path/'bad.npy', np.array([object()]), allow_pickle=True)
    np.savez(tmp_path/'bad.npz', X=np.array([[object()]]))
    with pytest.raises(TypeError, match='never unpickles'): members(tmp_path/'bad.npy')
    with pytest.raises(ValueError): members(tmp_path/'bad.npz')


def test_maps_keep_no_file_open(tmp_path):
    for i in range(50): np.save(tmp_path/f'{i}.npy', np.full((3, 1, 4), i, 'float32'))
    before = len(os.listdir('/proc/self/fd'))
    gather = Gather(list(members(tmp_path).values()))
    check_gather(gather, np.arange(150))
    assert len(os.listdir('/proc/self/fd')) == before


def test_maps_end_with_their_arrays(tmp_path):
    np.save(tmp_path/'a.npy', np.zeros((3, 1, 4)))
    lines = lambda: sum(str(tmp_path) in o for o in open('/proc/self/maps'))
    view = NpyFile(tmp_path/'a.npy')()[1:]
    assert lines() == 1 and view.sum() == 0
    del view
    assert lines() == 0


@pytest.mark.parametrize('order', ['C', 'F'])
def test_rows_read_one_by_one_are_the_mapped_rows(tmp_path, order):
    X = np.asarray(np.random.default_rng(0).normal(size=(9, 2, 5)), order=order)
    np.save(tmp_path/'a.npy', X)
    src = FileSource(tmp_path/'a.npy')
    np.testing.assert_array_equal(src.read([8, 0, 8, 3]), src.open()[0][[8, 0, 8, 3]])
    gather = Gather([src, FileSource(tmp_path/'a.npy')], max_open=1)
    np.testing.assert_array_equal(gather(np.arange(18))[0], np.concatenate([X, X]).astype('float32'))


def test_handles_let_go_and_are_left_behind_by_a_fork():
    handles = Handles(2)
    for k in 'abca': handles.get(k, k.upper)
    assert len(handles) == 2
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        handles.get('z', lambda: 'Z')
        os.write(write_end, str(len(handles)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read_end, 9) == b'1' and len(handles) == 2


MANY = '''
import resource, sys, numpy as np, os
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from tsmeta.batches.gather import Gather
from tsmeta.sources.files import members
gather = Gather(list(members(sys.argv[1]).values()), max_open=int(sys.argv[2]) or None)
ids = np.random.default_rng(0).permutation(len(gather.index))
for part in np.split(ids, 10): x, _ = gather(part)
names = sorted(os.listdir(sys.argv[1]))
first = np.array([float(n[:-4]) for n in names])
assert np.array_equal(x[:, 0, 0], first[part//2]), 'wrong rows'
print('fine', len(gather.opened.lazy), len(os.listdir('/proc/self/fd')) < 20)
'''


@pytest.mark.parametrize('max_open', [0, 500])
def test_thousands_of_files_under_a_low_limit(tmp_path, max_open):
    "`TSMETA_FILES=100000` runs it at full size"
    n = int(os.environ.get('TSMETA_FILES', 2000))
    for i in range(n): np.save(tmp_path/f'{i}.npy', np.full((2, 1, 8), i, 'float32'))
    done = subprocess.run([sys.executable, '-c', MANY, str(tmp_path), str(max_open)], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.stdout.split() == ['fine', str(min(n, max_open or 1 << 14)), 'True'], done.stderr


def test_long_tables_and_names(tmp_path):
    long = pd.DataFrame(dict(unique_id=np.repeat(['b', 'a'], 4), ds=np.tile([3, 2, 1, 0], 2), v=np.arange(8.), w=-np.arange(8.)))
    for write_table, name in [(long.to_parquet, 'a.parquet'), (long.to_feather, 'a.arrow')]:
        write_table(tmp_path/name)
        x, y = StoredSource(tmp_path/name).open()
        np.testing.assert_array_equal(x[0], [[7, 6, 5, 4], [-7, -6, -5, -4]])


def test_several_datasets_in_one_file(tmp_path):
    rng = np.random.default_rng(0)
    with library('h5py').File(tmp_path/'a.h5', 'w') as f:
        for p in ['p1', 'p2']: f[f'{p}/X'], f[f'{p}/y'] = rng.normal(size=(3, 1, 4)), np.array([b'u', b'v', b'u'])
    found = members(tmp_path)
    assert list(found) == ['a/p1', 'a/p2'] and found['a/p1'].y.tolist() == ['u', 'v', 'u']
    assert list(members(f'{tmp_path}/a.h5::p2')) == ['a']
    g = library('zarr').open_group(str(tmp_path/'g.zarr'), mode='w')
    for p in ['p1', 'p2']: g.create_array(f'{p}/X', data=rng.normal(size=(3, 1, 4)))
    assert list(members(tmp_path/'g.zarr')) == ['g/p1', 'g/p2']


def test_missing_library_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path/'a.h5').write_bytes(b'')
    monkeypatch.setitem(sys.modules, 'h5py', None)
    with pytest.raises(ImportError, match=r"pip install 'tsmeta\[hdf5\]'"): members(tmp_path)


@pytest.mark.parametrize('kind', ['h5', 'zarr3', 'npz'])
@pytest.mark.parametrize('horizon', [0, 2])
def test_recordings_stay_in_their_file(tmp_path, kind, horizon):
    X = np.random.default_rng(0).normal(size=(3, 2, 40)).astype('float32')
    path = write(kind, tmp_path, 'walks', X)
    found = members(path, window=10, stride=3, horizon=horizon)
    want = [WindowSource(x, 10, 3, horizon) for x in X]
    assert list(found) == ['walks/0', 'walks/1', 'walks/2']
    for got, w in zip(found.values(), want):
        check_source(got)
        assert (len(got), got.shape, got.stride, got.time) == (len(w), w.shape, w.stride, 40)
        np.testing.assert_array_equal(got.recording(), w.recording())
    if kind != 'npz': assert all(s.open() == (None, None) for s in found.values()) and len(pickle.dumps(found)) < 5000
    gather, plain = Gather(list(found.values())), Gather(want)
    ids = np.random.default_rng(1).integers(0, len(plain.index), 20)
    for a, b in zip(gather(ids), plain(ids)): np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(in_process('spawn', gather, ids), plain(ids)[0])


def test_one_recording_with_a_target_per_step(tmp_path):
    with library('h5py').File(tmp_path/'walk.h5', 'w') as f: f['X'], f['y'] = np.arange(40.).reshape(2, 20), np.repeat([0, 1], 10)
    walk = members(tmp_path/'walk.h5', window=5)['walk']
    assert walk.y.tolist() == [0, 0, 1, 1] and walk.read([3])[0, 1].tolist() == [35, 36, 37, 38, 39]
