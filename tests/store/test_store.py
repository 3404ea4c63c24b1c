"Stores: what is packed is what is opened, and neither kills, nor flipped bits, nor full disks, nor strangers can change that."
import json
import multiprocessing as mp
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from members import make, member
from store_tools import in_fork, KILLS, moments, put_batch, same, ward

import tsmeta.data.datasets
import tsmeta.store.disk as disk
import tsmeta.data.open
import tsmeta.data.dataset
from tsmeta.store.disk import read_yaml, safe_path
from tsmeta.batches.gather import check_gather
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.store.pack import pack
from tsmeta.sources.recordings import WindowSource
from tsmeta.sources.recordings import Times
from tsmeta.store.remote import open_store
from tsmeta.store.store import StoreSource
from tsmeta.store.disk import MANIFEST, sign

ROOT = Path(__file__).resolve().parents[2]


name = st.text(st.characters(blacklist_categories=['Cs']), min_size=1, max_size=12) | st.sampled_from(['a/b', '../x', 'ü ✓', 'con', '.', 'a\\b'])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(members=st.lists(member, min_size=1, max_size=5), names=st.lists(name, min_size=5, max_size=5, unique=True), part_rows=st.sampled_from([None, 1, 7]))
def test_what_is_packed_is_opened(tmp_path, members, names, part_rows):
    folder = tmp_path/str(len(list(tmp_path.iterdir())))
    (folder/'members').mkdir(parents=True)
    windows = [m for m in members if m[3].startswith('window')]
    made = [make(*m, folder/'members') for m in members]
    if not sum(len(y) for *_, y in made): return
    texts = {type(y[0]) for *_, y in made if y}
    if len(texts) > 1: return
    meta = TSMetaDataset([m for m, *_ in made], names=names[:len(made)])
    notes = np.array([f'{i}é' for i in range(len(meta))])
    opened = TSMetaDataset.of_store(pack(meta, folder/'store', labels={'deep/notes': notes}, part_rows=part_rows))
    assert same(meta, opened) and opened.vocab == meta.vocab and opened.lens.tolist() == meta.lens.tolist()
    assert opened.stride.tolist() == meta.stride.tolist() and opened.extent.tolist() == meta.extent.tolist()
    assert [s.dtype for s in opened.datasets] == [s.dtype for s in meta.datasets]
    assert opened.store.label('deep/notes').tolist() == notes.tolist()
    check_gather(opened.gather, np.random.default_rng(0).integers(0, len(meta), 20))
    opened.store.verify()
    if windows: assert opened.where(np.arange(len(meta))).equals(meta.where(np.arange(len(meta))))


@pytest.mark.parametrize('kind', [dict(y=[1.5, 2.5]), dict(y=[['a'], ['a', 'b']]), dict(y=np.ones((2, 3, 4))), dict(y=None), dict(y=[7, 9])], ids=['float', 'multi', 'blocks', 'none', 'ints'])
def test_every_kind_of_target(tmp_path, kind):
    meta = TSMetaDataset([(np.random.rand(2, 1, 4), kind['y'])] if kind['y'] is not None else [np.random.rand(2, 1, 4)])
    opened = meta.pack(tmp_path/'s')
    assert same(meta, opened) and opened.c == meta.c and opened.d == meta.d
    assert [type(o) for o in opened[[0]]] == [type(o) for o in meta[[0]]]
    if meta.cat: assert list(opened.vocab) == list(meta.vocab)


def test_a_vocabulary_of_a_store_can_be_joined_with_another(tmp_path):
    opened = ward().pack(tmp_path/'s')
    joined = TSMetaDataset([opened.datasets[0], (np.zeros((2, 2, 8)), ['b', 'c'])])
    assert joined.vocab == ['a', 'b', 'c'] and opened.vocab == ['a', 'b']


@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])
def test_stores_travel_as_paths(tmp_path, method):
    opened = ward().pack(tmp_path/'s')
    assert len(pickle.dumps(opened.gather.sources)) < 400
    ctx = mp.get_context(method)
    queue = ctx.Queue()
    p = ctx.Process(target=put_batch, args=(opened, queue))
    p.start()
    got = queue.get(timeout=60)
    p.join()
    for a, b in zip(got, opened[[5, 0, 5]]): np.testing.assert_array_equal(a, b.numpy())
    ward(1).pack(tmp_path/'s', overwrite=True)
    with pytest.raises(ValueError, match='was replaced'): pickle.loads(pickle.dumps(opened))


def test_executors_give_the_same_bytes(tmp_path):
    meta, files = ward(n=9), {}
    with ProcessPoolExecutor(2, mp_context=mp.get_context('spawn')) as processes, ThreadPoolExecutor(3) as threads:
        for k, e in dict(here=None, processes=processes, threads=threads).items():
            pack(meta, tmp_path/k, splits=dict(a=[3, 1]), part_rows=10, executor=e)
            files[k] = {f.relative_to(tmp_path/k): f.read_bytes() for f in (tmp_path/k).rglob('*') if f.is_file()}
    assert files['here'] == files['processes'] == files['threads'] and len(files['here']) > 6


DASK = '''
import sys
sys.path.insert(0, sys.argv[2])
from distributed import Client, LocalCluster
from store_tools import ward
from tsmeta.store.pack import pack
with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
    got = pack(ward(n=9), sys.argv[1] + '/dask', part_rows=10, executor=client.get_executor())
assert got.key == pack(ward(n=9), sys.argv[1] + '/here', part_rows=10).key
print('fine')
'''


def test_dask_cluster(tmp_path):
    pytest.importorskip('distributed')
    done = subprocess.run([sys.executable, '-c', DASK, str(tmp_path), str(ROOT/'tests')], capture_output=True, text=True, timeout=120, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.stdout.strip() == 'fine', done.stderr


def test_progress_and_resume(tmp_path):
    meta, seen = ward(n=9), []
    def stop(made, total):
        for i, f in enumerate(made):
            if i == 2: raise KeyboardInterrupt
            yield f
    with pytest.raises(KeyboardInterrupt): pack(meta, tmp_path/'s', part_rows=10, progress=stop)
    before = {f: f.stat().st_mtime_ns for f in (tmp_path/'s/data').iterdir()}
    assert len(before) == 3
    pack(meta, tmp_path/'s', part_rows=10, progress=lambda made, total: seen.append(total) or made)
    assert all(f.stat().st_mtime_ns == t for f, t in before.items()) and seen == [len(list((tmp_path/'s/data').iterdir()))]


# --- kills -----------------------------------------------------------------------------------------------------------------

def check_either(root, old, new):
    "The store is whole, and is the old one or the new one"
    store = open_store(root)
    store.verify()
    found = TSMetaDataset.of_store(store)
    assert same(found, old) or same(found, new)
    return same(found, new)


@pytest.mark.parametrize('how', ['overwrite', 'append', 'describe'])
def test_killed_at_any_moment(tmp_path, how):
    "A hundred moments; `TSMETA_KILLS` says how many"
    old, other, seen = ward(0), ward(1), set()
    new = other if how == 'overwrite' else old if how == 'describe' else TSMetaDataset(
        old.datasets + other.datasets, names=old.names + other.names, vocab=['a', 'b'])
    work = dict(overwrite=lambda r: pack(other, r, splits=dict(a=[1]), part_rows=10, overwrite=True), append=lambda r: open_store(r).append(other),
                describe=lambda r: open_store(r).describe(description='new'))[how]
    def fresh(k):
        pack(old, tmp_path/k, part_rows=10)
        return tmp_path/k
    first = fresh('count')
    total = in_fork(lambda: work(first), -1)
    for step in moments(total, len(how)):
        root = fresh(str(step))
        assert in_fork(lambda: work(root), step) is None
        seen.add(check_either(root, old, new))
        if how == 'append' and check_either(root, old, new): open_store(root).describe(description='swept')
        else: work(root)
        assert check_either(root, new, new) and not [f for f in root.rglob('.tmp-*')]
    assert KILLS < 15 or how == 'describe' or seen == {True, False}


def test_killed_first_pack_leaves_nothing_that_opens_or_a_store(tmp_path):
    meta = ward()
    total = in_fork(lambda: pack(meta, tmp_path/'count', part_rows=10), -1)
    for step in moments(total, 0):
        root = tmp_path/str(step)
        in_fork(lambda: pack(meta, root, part_rows=10), step)
        if (root/MANIFEST).exists(): check_either(root, meta, meta)
        else:
            with pytest.raises(ValueError, match='not a store'): open_store(root)
        pack(meta, root, part_rows=10, overwrite=True).verify()


# --- faults ----------------------------------------------------------------------------------------------------------------

def test_any_flipped_bit_and_any_short_file_is_named(tmp_path):
    root, rng = tmp_path/'s', np.random.default_rng(0)
    store = pack(ward(), root, splits=dict(a=[1, 0], b='train[:50%]'), labels={'deep/note': np.arange(39.)}, part_rows=10)
    files = [f for f in root.rglob('*') if f.is_file() and f.name != '.lock']
    kinds = {f.relative_to(root).as_posix().split('-')[0] for f in files}
    assert kinds == {'data/part', 'labels/y', 'labels/deep/note', 'labels/splits/a', 'info', 'meta.yaml', 'manifest.json'}
    for f in files:
        good = f.read_bytes()
        for at in {0, len(good) - 1, *rng.integers(0, len(good), 4).tolist()}:
            bad = bytearray(good)
            bad[at] ^= 1 << int(rng.integers(8))
            f.write_bytes(bad)
            with pytest.raises(ValueError, match=f.name): store.verify()
        for bad in (good[:-1], good + b'\0'):
            f.write_bytes(bad)
            with pytest.raises(ValueError, match=f.name): store.verify(quick=f.name != 'meta.yaml' or True)
        f.unlink()
        with pytest.raises(ValueError, match=f.name): store.verify(quick=True)
        f.write_bytes(good)
    store.verify()


FULL = '''
import resource, sys, numpy as np
sys.path.insert(0, sys.argv[2])
from store_tools import same, ward
from tsmeta.all import TSMetaDataset
from tsmeta.store.pack import pack
from tsmeta.store.remote import open_store
root = sys.argv[1]
old = ward()
pack(old, root)
big = TSMetaDataset({f'b{i}': (np.zeros((500, 2, 8), 'f4'), ['a']*500) for i in range(10)}, vocab=['a', 'b'], info=dict(person=list('0123456789')))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for work in (lambda: pack(big, root, overwrite=True), lambda: open_store(root).append(big)):
    try: work()
    except OSError as e: assert 'untouched' in str(e) and e.errno == 27, e
    else: raise AssertionError('it fitted')
assert same(TSMetaDataset.of_store(open_store(root)), old)
open_store(root).verify()
import pathlib
assert not list(pathlib.Path(root).rglob('.tmp-*'))
print('fine')
'''


def test_a_write_that_the_system_refuses_keeps_the_old_store(tmp_path):
    "A limit on the size of files, set by the system, stands for a full disk"
    done = subprocess.run([sys.executable, '-c', FULL, str(tmp_path/'s'), str(ROOT/'tests')], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.stdout.strip() == 'fine', done.stderr


def test_full_disk(tmp_path):
    "A file system of 1 MB, where the machine allows to make one"
    disk_ = tmp_path/'disk'
    disk_.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', str(disk_)], capture_output=True).returncode: pytest.skip('no right to mount')
    try:
        old = ward()
        pack(old, disk_/'s')
        big = TSMetaDataset([(np.zeros((40_000, 2, 8), 'f4'), ['a']*40_000)], vocab=['a', 'b'])
        with pytest.raises(OSError, match='No space left.*untouched'): pack(big, disk_/'s', overwrite=True)
        assert check_either(disk_/'s', old, old) and not list((disk_/'s').rglob('.tmp-*'))
    finally: subprocess.run(['umount', '-l', str(disk_)], check=True)


def packer(seed, root, start):
    start.wait()
    pack(ward(seed), root, part_rows=5, overwrite=True)


def test_two_packers_at_once(tmp_path):
    ctx = mp.get_context('fork')
    for k in range(4):
        start = ctx.Event()
        both = [ctx.Process(target=packer, args=(s, tmp_path/str(k), start)) for s in (0, 1)]
        for p in both: p.start()
        start.set()
        for p in both: p.join(60)
        assert [p.exitcode for p in both] == [0, 0]
        check_either(tmp_path/str(k), ward(0), ward(1))
        store = open_store(tmp_path/str(k))
        there = {f.relative_to(store.root).as_posix() for f in Path(store.root).rglob('*') if f.is_file()}
        assert there == {*store.manifest['files'], MANIFEST, 'meta.yaml', '.lock'}


def test_readers_see_one_store_or_the_other_while_it_is_replaced(tmp_path):
    root, stop = tmp_path/'s', time.monotonic() + 2
    pack(ward(0), root)
    pid = os.fork()
    if pid == 0:
        k = 0
        while time.monotonic() < stop:
            k += 1
            pack(ward(k % 2), root, overwrite=True)
        os._exit(0)
    seen, metas = set(), [ward(0), ward(1)]
    while time.monotonic() < stop:
        try: found = TSMetaDataset.of_store(open_store(root))
        except ValueError as e:
            assert 'replaced' in str(e), e
            continue
        which = [same(found, m) for m in metas]
        assert any(which)
        seen.add(which.index(True))
    os.waitpid(pid, 0)
    assert seen == {0, 1}


# --- strangers -------------------------------------------------------------------------------------------------------------

HOSTILE = ['', '.', '..', '../x', '../../x', 'a/../../x', 'a/..', '/x', '//x', '/etc/passwd', '~', '~/x', '~root/x', 'C:/x', 'C:x', 'c:\\x', '\\x', '\\\\host\\x', 'a\\..\\..\\x',
           'a\0', '\0', 'a\nb', 'a\r', 'a\tb', 'a\x7f', './x', 'a/./x', 'a//x', 'a/', ' a', 'a ', 'a/ b', 'a/.. /x', 'file:///x', 'http://x/y', 'x'*256, 'out/x', 'out', 'link.npy', None, 7, ['a'], {'a': 1}]


@pytest.mark.parametrize('bad', HOSTILE, ids=lambda o: repr(o)[:20])
def test_hostile_names(tmp_path, bad):
    (tmp_path/'elsewhere').mkdir()
    root = tmp_path/'s'
    store = pack(ward(), root)
    (root/'out').symlink_to(tmp_path/'elsewhere')
    (root/'link.npy').symlink_to('/etc/passwd')
    with pytest.raises(ValueError): safe_path(root, bad)
    if not isinstance(bad, str): return
    m = json.loads(json.dumps(store.manifest))
    part = m['parts'][0]
    m['parts'][0] = bad
    m['files'][bad] = m['files'][part]
    (root/MANIFEST).write_bytes(sign(m))
    with pytest.raises(ValueError): open_store(root)


def test_tables_that_point_outside_are_refused(tmp_path):
    root = tmp_path/'s'
    good = pack(ward(), root).manifest
    for column, values in dict(start=[-1, 10**6, 2**62], rows=[-1, 10**6, 2**62], part=[-1, 99], stride=[0, -1], time=['x']).items():
        for v in values:
            m = json.loads(json.dumps(good))
            m['datasets'][column][2] = v
            (root/MANIFEST).write_bytes(sign(m))
            with pytest.raises(ValueError): open_store(root)
    for change in [dict(datasets=None), dict(parts=[]), dict(parts=[7]), dict(schema={}), dict(version=None), dict(files=[]), dict(meta=3)]:
        (root/MANIFEST).write_bytes(sign({**good, **change}))
        with pytest.raises(ValueError): open_store(root)
    recs = TSMetaDataset([WindowSource(np.zeros((1, 50), 'f4'), 8, 3)]).pack(root, overwrite=True).store.manifest
    for column, v in [('rows', 16), ('stride', 4), ('time', 49), ('start', 1)]:
        m = json.loads(json.dumps(recs))
        m['datasets'][column][0] = v
        (root/MANIFEST).write_bytes(sign(m))
        with pytest.raises(ValueError): open_store(root)


BOMBS = ['a: &a [x,x]\n' + '\n'.join(f'{chr(98+i)}: &{chr(98+i)} [*{chr(97+i)},*{chr(97+i)},*{chr(97+i)}]' for i in range(9)), '[' * 5000, '{a: ' * 2000, 'x' * (1 << 21), '? ' * 3000,
         '!!python/object:os.system {}', '!!python/name:os.system', '!!python/module:os', '!!python/object/new:tuple [[1]]', '!custom x', 'a: [' + '1,' * 200_000 + ']', '\x00', '"\\ud800', '- a', 'a',
         '%YAML 9.9\n---\na: 1' * 2, 'a: 1\n---\nb: 2', '*nothing']


@pytest.mark.parametrize('bomb', BOMBS, ids=lambda o: repr(o)[:24])
def test_yaml_that_is_not_plain_is_refused(bomb):
    with pytest.raises(ValueError): read_yaml(bomb)


def test_pickles_are_never_loaded(tmp_path):
    root = tmp_path/'s'
    m = pack(ward(), root).manifest
    evil = root/'labels/evil-1.npy'
    np.save(evil, np.array([dict()]), allow_pickle=True)
    m['labels']['evil'] = 'labels/evil-1.npy'
    m['files']['labels/evil-1.npy'] = dict(bytes=evil.stat().st_size, sha256='0'*64)
    (root/MANIFEST).write_bytes(sign(m))
    with pytest.raises(TypeError, match='never unpickles'): open_store(root).label('evil')


def test_stores_behind_a_web_server(tmp_path):
    import functools
    import http.server
    import threading
    pytest.importorskip('aiohttp')
    store, asked = pack(ward(), tmp_path/'web/s', part_rows=10), []
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a): asked.append(self.path)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(tmp_path/'web')))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f'http://127.0.0.1:{server.server_port}/s'
        away = open_store(url, tmp_path/'cache')
        assert away.key == store.key and same(TSMetaDataset.of_store(away), ward())
        asked.clear()
        store.append(ward(1))
        assert open_store(url, tmp_path/'cache').version == '2.0'
        assert not [p for p in asked if 'part-00000' in p] and [p for p in asked if f'part-{len(away.files):05d}' in p]
        part = tmp_path/'web/s'/store.manifest['parts'][0]
        part.write_bytes(b'\0' + part.read_bytes()[1:])
        with pytest.raises(ValueError, match='damaged on its way'): open_store(url, tmp_path/'other')
        with pytest.raises(ValueError, match='not a store'): open_store(url + 'x', tmp_path/'cache')
    finally: server.shutdown()


# --- the rest --------------------------------------------------------------------------------------------------------------

def test_stale_splits_are_refused(tmp_path):
    store = pack(ward(0), tmp_path/'s', splits=dict(train='train[:75%]', test=[3, 1]))
    assert store.version == '1.0' and list(store.split_views()['test']) == [3, 1]
    new = store.append(ward(1))
    assert (store.version, new.version) == ('1.0', '2.0')
    with pytest.raises(ValueError, match="'train' was made for version 1.0"): new.split_views()
    assert list(new.split_views(stale=True)['test']) == [3, 1]
    pack(ward(0), tmp_path/'t', splits=ward(0).split(dict(a=[0, 2], b=[1])))
    assert {k: list(v) for k, v in open_store(tmp_path/'t').split_views().items()} == dict(a=[0, 2], b=[1])


def test_append_keeps_the_old_parts(tmp_path):
    store = pack(ward(0), tmp_path/'s', part_rows=10)
    before = {f: f.stat().st_mtime_ns for f in (tmp_path/'s/data').iterdir()}
    store.append(ward(1))
    assert all(f.stat().st_mtime_ns == t for f, t in before.items())
    with pytest.raises(ValueError, match='already'): store.append(ward(1))
    with pytest.raises(ValueError, match='vocab'): store.append(TSMetaDataset([(np.zeros((2, 2, 8)), ['a', 'c'])], names=['new'], info=dict(person=['x'])))


def test_what_was_open_keeps_its_memory(tmp_path):
    opened, old = ward(0, n=40).pack(tmp_path/'s'), ward(0, n=40)
    opened.store.describe(description='new').append(ward(1))
    pack(ward(2), tmp_path/'s', overwrite=True)
    opened.store._mapped.clear()
    assert same(opened, old)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path/'thesis.tex').write_text('ten years of work')
    with pytest.raises(ValueError, match='thesis.tex'): pack(ward(), tmp_path, overwrite=True)
    assert [f.name for f in tmp_path.iterdir() if f.name != '.lock'] == ['thesis.tex']


def test_many_datasets_open_without_an_object_for_each(tmp_path, monkeypatch):
    n = 100_000
    whole = np.arange(n*2*4, dtype='float32').reshape(n*2, 1, 4)
    meta = TSMetaDataset([whole[:2]])
    store = pack(meta, tmp_path/'s')
    m = store.manifest
    part = disk.write_file(tmp_path/'s/data', 'part-00000-many.npy', [_npy(whole)])
    m.update(parts=['data/part-00000-many.npy'], labels={}, info=None, datasets=dict(names=[f'member {i}' for i in range(n)], part=[0]*n, start=list(range(0, 2*n, 2)), rows=[2]*n, stride=[1]*n, time=[0]*n))
    m['files'] = {'data/part-00000-many.npy': {k: part[k] for k in ('bytes', 'sha256')}}
    (tmp_path/'s'/MANIFEST).write_bytes(sign(m))
    made = []
    monkeypatch.setattr(StoreSource, '__init__', lambda self, store, d: made.append(d) or vars(self).update(store=store, d=d))
    opened = TSMetaDataset.open(tmp_path/'s')
    ids = np.random.default_rng(0).integers(0, 2*n, 1000)
    np.testing.assert_array_equal(opened.gather(ids)[0], whole[ids])
    assert len(made) < 10


def _npy(a):
    import io
    f = io.BytesIO()
    np.save(f, a)
    return f.getvalue()
