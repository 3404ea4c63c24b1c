"The smartwatch recordings: what the reader refuses, and what it does when it is interrupted or called twice."
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tsmeta.data.open import package_file, read_array_pickle, write_watch


def payload(path, pickled):
    "Writes a .npy file whose header announces one object, followed by the given pickle."
    with open(path, 'wb') as f:
        np.lib.format.write_array_header_1_0(f, dict(descr='|O', fortran_order=False, shape=()))
        f.write(pickled)
    return path


@pytest.fixture
def small(tmp_path):
    "A file like the one of seglearn, with three short recordings."
    X = [np.arange(n*6, dtype=float).reshape(n, 6)/7 for n in (5, 8, 6)]
    data = dict(X=X, y=np.array([1, 0, 1]), y_labels=['PEN', 'ABD'], subject=np.array([3, 10, 1]), side=np.array([1., 0., 0.]), X_labels=list('abcdef'))
    np.save(tmp_path/'small.npy', data, allow_pickle=True)
    return tmp_path/'small.npy', X


def test_pickles_that_numpy_writes_are_read(tmp_path):
    for protocol in range(2, 6):
        a = dict(X=[np.arange(6.).reshape(2, 3), np.zeros((2, 2), 'f4', 'F')], who=np.array(['a', 'bc']), words=['x'], one=3)
        file = payload(tmp_path/'a.npy', pickle.dumps(np.array(a, dtype=object), protocol=protocol)) if protocol < 5 else tmp_path/'b.npy'
        if protocol == 5: np.save(file, a, allow_pickle=True)
        got = read_array_pickle(file)
        assert got['words'] == ['x'] and got['one'] == 3
        assert all(np.array_equal(g, w) and g.dtype == w.dtype for g, w in zip([*got['X'], got['who']], [*a['X'], a['who']]))


class Calls:
    def __init__(self, f, *args): self.f, self.args = f, args
    def __reduce__(self): return self.f, self.args


@pytest.mark.parametrize('evil', [Calls(os.system, 'touch was-here'), Calls(eval, 'open("was-here", "w")'), Calls(open, 'was-here', 'w'), Calls(np.fromfile, 'x'),
                                  Calls(getattr, 'x', 'upper'), Calls(np.load, 'x'), Calls(subprocess.Popen, 'touch was-here'), np.float64])
@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
def test_pickles_that_call_anything_else_are_refused(tmp_path, monkeypatch, evil, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='Refused; nothing was run'):
        read_array_pickle(payload(tmp_path/'evil.npy', pickle.dumps([evil], protocol=protocol)))
    assert not (tmp_path/'was-here').exists()


def test_hidden_names_are_refused(tmp_path):
    for name in (b'cnumpy\nndarray.tofile\n.', b'\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.', b'c_codecs\ndecode\n.', b'cnumpy.core.multiarray\nfromfile\n.'):
        with pytest.raises(ValueError, match='Refused'): read_array_pickle(payload(tmp_path/'evil.npy', name))
    for codec in ('zlib', 'idna'):
        evil = b'\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX' + len(codec).to_bytes(4, 'little') + codec.encode() + b'\x86R.'
        with pytest.raises(ValueError, match='encoding'): read_array_pickle(payload(tmp_path/'evil.npy', evil))
    with pytest.raises(ValueError, match='objects outside'): read_array_pickle(payload(tmp_path/'evil.npy', b'P7\n.'))


def test_damaged_files_are_named(tmp_path, small):
    file, _ = small
    whole = file.read_bytes()
    for n in (0, 5, 60, 130, len(whole)//2, len(whole)-1):
        (tmp_path/'cut.npy').write_bytes(whole[:n])
        with pytest.raises(ValueError, match='cut.npy'): read_array_pickle(tmp_path/'cut.npy')
    np.save(tmp_path/'plain.npy', np.zeros(3))
    with pytest.raises(ValueError, match='no pickled object'): read_array_pickle(tmp_path/'plain.npy')


def test_one_file_per_recording(tmp_path, small):
    file, X = small
    table = write_watch(tmp_path/'w', file)
    assert table.name.tolist() == ['P01-left-ABD', 'P03-right-ABD', 'P10-left-PEN']
    assert table.exercise.tolist() == ['abduction', 'abduction', 'pendulum'] and table.steps.tolist() == [6, 5, 8]
    for path, x in zip(table.path, [X[2], X[0], X[1]]):
        got = np.load(path)
        assert got.dtype == np.float32 and got.flags.c_contiguous and np.array_equal(got, x.T.astype(np.float32))
    assert not [f for f in os.listdir(tmp_path/'w') if f.startswith('.')]


def test_writing_again_repairs_and_changes_nothing_else(tmp_path, small):
    file, _ = small
    table = write_watch(tmp_path/'w', file)
    before = {p: (os.stat(p).st_mtime_ns, open(p, 'rb').read()) for p in table.path}
    again = write_watch(tmp_path/'w', tmp_path/'is-not-read-again.npy')
    assert again.equals(table) and all(os.stat(p).st_mtime_ns == t for p, (t, _) in before.items())
    os.remove(table.path[0])
    with open(table.path[1], 'r+b') as f: f.truncate(20)
    assert write_watch(tmp_path/'w', file).equals(table)
    assert all(open(p, 'rb').read() == data for p, (_, data) in before.items())


def test_nothing_half_written_is_taken_for_whole(tmp_path, small, monkeypatch):
    file, _ = small
    saved, real = [], np.save
    def failing(f, x):
        saved.append(1)
        if len(saved) == 2: f.write(b'half'); raise OSError('disk full')
        real(f, x)
    monkeypatch.setattr(np, 'save', failing)
    with pytest.raises(OSError, match='disk full'): write_watch(tmp_path/'w', file)
    assert sorted(os.listdir(tmp_path/'w')) == ['P03-right-ABD.npy']
    assert len(write_watch(tmp_path/'w', file)) == 3


def test_somebody_elses_table_is_left_alone(tmp_path, small):
    (tmp_path/'recordings.csv').write_text('mine\n1\n')
    with pytest.raises(ValueError, match='Choose another folder'): write_watch(tmp_path, small[0])
    assert (tmp_path/'recordings.csv').read_text() == 'mine\n1\n'


def test_the_package_is_found_but_not_imported(tmp_path):
    pytest.importorskip('seglearn')
    code = 'import sys; from tsmeta.data.open import *; t = write_watch(sys.argv[1]); print(len(t), t.steps.min(), t.steps.max(), "seglearn" in sys.modules)'
    done = subprocess.run([sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split() == ['140', '947', '2618', 'False'], done.stderr


def test_a_missing_package_is_named():
    with pytest.raises(ModuleNotFoundError, match="pip install 'tsmeta"): package_file('no_such_package', 'data.npy')
