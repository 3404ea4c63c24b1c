"Files that are written to while they are mapped: noticed between two batches, and named."
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tsmeta.batches.gather import Gather, OpenDatasets
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.sources.base import ArraySource, FileSource
from tsmeta.sources.recordings import WindowSource
import tsmeta.data.open  # noqa: F401
from tsmeta.store.store import Store


@pytest.fixture(autouse=True)
def always(monkeypatch):
    "Files are looked at before every batch, not once a second"
    monkeypatch.setattr(OpenDatasets, 'check_every', 0)
    monkeypatch.setattr(OpenDatasets, 'check_share', float('inf'))


@pytest.fixture
def files(tmp_path):
    "Three files with rows and one recording, opened"
    paths = [tmp_path/f'{k}.npy' for k in 'abc']
    for k, p in enumerate(paths): np.save(p, np.full((20, 2, 8), k, 'f4'))
    np.save(tmp_path/'rec.npy', np.full((2, 160), 3, 'f4'))
    gather = Gather([*map(FileSource, paths), WindowSource(tmp_path/'rec.npy', 8), ArraySource(np.ones((20, 2, 8)))])
    gather(np.arange(len(gather.index)))
    return gather, paths, tmp_path/'rec.npy'


def later(path):
    "Makes the time of a file's last change another, however coarse the clock of the file system is"
    s = os.stat(path)
    os.utime(path, ns=(s.st_atime_ns, s.st_mtime_ns + 10**9))


def test_a_truncated_file_is_named_before_its_rows_are_read(files):
    gather, paths, rec = files
    for path in (paths[1], rec):
        data = path.read_bytes()
        os.truncate(path, 300)
        with pytest.raises(ValueError, match=f'{path.name} was truncated from {len(data):,} to 300 bytes'): gather(np.array([0]))
        with pytest.raises(ValueError, match=path.name): gather(np.array([0]))
        path.write_bytes(data)
        for o in gather.opened.files.values():
            now = os.stat(o.path)
            o.stamp = now.st_ino, now.st_size, now.st_mtime_ns
        gather(np.array([0]))


def test_a_file_of_the_same_size_with_other_numbers_is_named(files):
    gather, paths, _ = files
    np.save(paths[2], np.full((20, 2, 8), 9, 'f4'))
    later(paths[2])
    with pytest.raises(ValueError, match='c.npy was written to or replaced while it was open'): gather(np.array([0]))


def test_a_file_that_another_took_the_place_of_stays_readable(files):
    gather, paths, _ = files
    np.save(paths[0].with_name('new.npy'), np.full((20, 2, 8), 9, 'f4'))
    os.replace(paths[0].with_name('new.npy'), paths[0])
    assert (gather(np.array([0]))[0] == 0).all()


def test_a_file_that_was_removed_stays_readable(files):
    gather, paths, _ = files
    os.remove(paths[0])
    assert (gather(np.array([0, 19]))[0] == 0).all()


def test_files_that_are_closed_or_not_open_yet_are_not_looked_at(tmp_path):
    paths = [tmp_path/f'{k}.npy' for k in range(6)]
    for p in paths: np.save(p, np.ones((4, 1, 3), 'f4'))
    gather = Gather(list(map(FileSource, paths)), max_open=2)
    assert not gather.opened.files
    for d in range(6): gather(np.array([4*d]))
    assert set(gather.opened.files) == set(gather.opened.lazy) and len(gather.opened.files) == 2
    later(paths[5])
    assert gather(np.array([20]))[0].sum() == 3


def test_parts_of_a_store_are_looked_at(tmp_path):
    TSMetaDataset({k: np.ones((20, 2, 8), 'f4') for k in 'ab'}).pack(tmp_path/'s')
    meta = TSMetaDataset.open(tmp_path/'s')
    meta[[0]]
    later(Store(tmp_path/'s').files[0].path)
    with pytest.raises(ValueError, match='part-00000.*while it was open'): meta[[0]]


def test_the_checks_take_a_bounded_share_of_the_time(files, monkeypatch):
    gather = files[0]
    looked = []
    monkeypatch.setattr(OpenDatasets, 'check_every', 1000)
    for f in gather.opened.files.values(): monkeypatch.setattr(f, 'check_unchanged', lambda: looked.append(1))
    for _ in range(50): gather(np.array([0]))
    assert len(looked) == len(gather.opened.files)


@pytest.mark.skipif(not hasattr(signal, 'SIGBUS'), reason='no such signal here')
def test_the_death_of_a_worker_tells_of_a_truncated_file():
    from tsmeta.load.workers import Worker
    class Process:
        exitcode, pid = -signal.SIGBUS, 1
    worker, pool = Worker.__new__(Worker), type('Pool', (), dict(title=''))()
    worker.process, worker.jobs, worker.ready, worker.number = Process, [], True, 0
    assert 'a file was truncated while open?' in worker.death_message(pool)
    Process.exitcode = -signal.SIGKILL
    assert 'out of memory?' in worker.death_message(pool)


def test_an_unopened_file_is_read_as_it_is_now(tmp_path):
    np.save(tmp_path/'a.npy', np.ones((4, 1, 3), 'f4'))
    gather = Gather([FileSource(tmp_path/'a.npy')])
    np.save(tmp_path/'a.npy', np.full((4, 1, 3), 2, 'f4'))
    assert (gather(np.arange(4))[0] == 2).all()
    code = 'import pickle, sys; g = pickle.load(sys.stdin.buffer); print(g([0])[0].sum())'
    import pickle
    done = subprocess.run([sys.executable, '-c', code], input=pickle.dumps(gather), capture_output=True, timeout=120)
    assert done.stdout.split() == [b'6.0'], done.stderr
