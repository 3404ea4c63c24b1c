"Manifests with changed fields, signed again: the store is refused by name, or all that is read lies within its files."
import copy
import os

import numpy as np
import pytest
from store_tools import ward
from tsmeta.all import Times, TSMetaDataset
from tsmeta.store.disk import MANIFEST, sign
from tsmeta.store.store import Store

CHANGES = int(os.environ.get('TSMETA_FUZZ', 600))
SEED = int(os.environ.get('TSMETA_FUZZ_SEED', 7))
DAY = np.datetime64('2026-03-01T08:00', 'ns')


def recordings(n=3, dtype='f4'):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, 40 + 7*k)).astype(dtype) for k in range(n)]


def plain(root):
    meta = ward()
    labels = {'deep/note': np.arange(len(meta)), 'text': np.array(['é']*len(meta))}
    return meta.pack(root, splits=dict(a='train[:50%]', b=[3, 1, 0]), labels=labels, part_rows=20)


def windows(root):
    return TSMetaDataset.from_recordings(recordings(), window=6, stride=2, y=list('aba')).pack(root, part_rows=20)


def horizon(root):
    return TSMetaDataset.from_recordings(recordings(), window=6, stride=2, horizon=3).pack(root)


def gaps(root):
    times = [DAY + np.cumsum(np.where(np.arange(r.shape[1]) % 20, 1, 9)).astype('m8[s]') for r in recordings()]
    return TSMetaDataset.from_recordings(recordings(), window=5, stride=2, y=list('aba'), times=Times(times, max_gap='2s')).pack(root)


def clocks(root):
    times = Times(start=[0., 5., 2.], rate=4., max_gap=1)
    return TSMetaDataset.from_recordings(recordings(), window=5, times=times).pack(root, splits=dict(half='train[:50%]'))


def ragged(root):
    rng = np.random.default_rng(0)
    data = {k: ([rng.normal(size=(2, n)) for n in (5, 8, 7)], ['x', 'y', 'x']) for k in 'pq'}
    return TSMetaDataset(data, ragged='pad', missing='mask', var_names=['u', 'v']).pack(root)


def multi(root):
    x = np.random.default_rng(0).normal(size=(4, 2, 8)).astype('f8')
    return TSMetaDataset([(x, [['a'], ['a', 'b'], [], ['c']])]).pack(root)


MAKERS = [plain, windows, horizon, gaps, clocks, ragged, multi]
VALUES = [None, True, -1, 0, 1, 2, 3, 7, 40, 1 << 31, (1 << 48) - 1, 1 << 62, 1 << 63, 10**30, -(1 << 63), .5, -2.5, 1e308, '', 'x', 'y', '../x', 'a/b', '/etc/passwd',
          '1.0', 'dates', 'float', 'class', 'train[', 'train[:150%]', '2s', '-1s', 'nonsense', 'a\0b', [], {}, [[1]], [None], [-1], ['x'], {'a': 1}, [1 << 62]*3, 'x'*300]


def places(o, path=()):
    "Yield the paths of all values in nested JSON"
    for k in (o if isinstance(o, dict) else range(len(o))):
        yield (*path, k)
        if isinstance(o[k], (dict, list)) and o[k]: yield from places(o[k], (*path, k))


def at(o, path):
    for k in path: o = o[k]
    return o


def change(m, rng):
    "Change one or two fields of a manifest; return what was done"
    done = []
    for _ in range(1 + (rng.random() < .2)):
        found = list(places(m))
        path = found[rng.integers(len(found))]
        owner, key = at(m, path[:-1]), path[-1]
        old, how = owner[key], rng.integers(8)
        if how == 0: del owner[key]
        elif how == 1: owner[key] = copy.deepcopy(at(m, found[rng.integers(len(found))]))
        elif how == 2 and type(old) in (int, float): owner[key] = old*int(rng.integers(2, 1 << 40))
        elif how == 3 and type(old) in (int, float): owner[key] = old + int(rng.choice([-3, -1, 1, 2, 25]))
        elif how == 4 and isinstance(owner, list): owner.insert(key, copy.deepcopy(old))
        elif how == 5 and isinstance(owner, dict): owner[f'{key}?'] = owner.pop(key)
        else: owner[key] = VALUES[rng.integers(len(VALUES))]
        done.append((path, old, owner[key] if how > 0 and key in (owner if isinstance(owner, dict) else range(len(owner))) else 'gone'))
    return done


def check_addresses(store):
    "Compare every address with the map that it must lie in, in whole numbers that cannot overflow"
    layout = store.sources.layout()
    targets = [] if store.targets is None else [store.targets.layout()]
    for table, steps in [(layout['x'], store.row_shape[1]), (layout['y'], store.horizon)]:
        if table is None: continue
        lens = table.get('lens', store.index.lens)
        for address, strides, code, n in zip(table['address'].tolist(), table['strides'].tolist(), table['code'].tolist(), lens.tolist()):
            part = table['keep'][code]
            lowest = part.__array_interface__['data'][0]
            last = address + (n-1)*strides[0] + (store.row_shape[0]-1)*strides[1] + (steps-1)*strides[2] + part.itemsize
            assert n == 0 or lowest <= address and last <= lowest + part.nbytes and min(strides) >= 0
    for table in targets:
        assert len(table['keep']) == len(store) and (table['address'] >= table['keep'].__array_interface__['data'][0]).all()


def read_all(root):
    "Read what a store has"
    meta = TSMetaDataset.open(root)
    store = meta.store
    check_addresses(store)
    ids = np.arange(len(meta))
    meta.gather(ids)
    meta.where(ids)
    meta[ids[:3]]
    for s in meta.datasets[:]: assert len(s.open()[0] if s.has_recording or not s.windowed else s.read(np.arange(len(s)))) == len(s)
    assert [repr(store), repr(meta), store.about, store.info, store.labels, store.sources[0].y] and meta.summary() is not None
    store.split_views(stale=True)
    store.verify(quick=True)


@pytest.mark.parametrize('make', MAKERS, ids=lambda f: f.__name__)
def test_no_changed_manifest_reads_outside_or_fails_without_the_name_of_its_store(tmp_path, make):
    root, rng, bad, refused = tmp_path/'s', np.random.default_rng(SEED), [], 0
    good = make(root).store.manifest
    meta_yaml = (root/'meta.yaml').read_bytes()
    read_all(root)
    for trial in range(CHANGES):
        m = copy.deepcopy(good)
        done = change(m, rng)
        try: data = sign(m)
        except ValueError: continue
        (root/MANIFEST).write_bytes(data)
        (root/'meta.yaml').write_bytes(meta_yaml)
        try: read_all(root)
        except (ValueError, TypeError, OSError) as e:
            refused += 1
            if str(root) not in str(e) or isinstance(e, UnicodeError): bad.append((trial, done, repr(e)))
        except Exception as e: bad.append((trial, done, repr(e)))
    assert not bad, f'{len(bad)} of {CHANGES}, such as {bad[:8]}'
    assert refused > CHANGES//2


def changed(good, **fields):
    out = copy.deepcopy(good)
    for path, value in fields.items():
        *owners, key = path.split('__')
        at(out, owners)[int(key) if key.isdigit() else key] = value
    return out


def in_column(column, d, value): return lambda m: m['datasets'][column].__setitem__(d, value)


ROWS = {
    'stride of rows': in_column('stride', 1, 40), 'start beyond': in_column('start', 1, 1 << 62), 'start before': in_column('start', 1, -1),
    'one row too many': lambda m: m['datasets']['rows'].__setitem__(-1, m['datasets']['rows'][-1] + 1), 'time of rows': in_column('time', 0, 4),
    'rows that overflow': in_column('rows', 0, (1 << 63) - 1), 'part beyond': in_column('part', 0, 9), 'no stride': in_column('stride', 0, 0),
    'rows are bool': in_column('rows', 0, True), 'rows are float': in_column('rows', 0, 2.), 'rows are huge': in_column('rows', 0, 10**30),
}
WINDOWS = {
    'one window too many': lambda m: m['datasets']['rows'].__setitem__(0, m['datasets']['rows'][0] + 1), 'stride too long': in_column('stride', 0, 1 << 40),
    'stride that overflows': lambda m: m['datasets'].update(rows=[3, 3, 3], stride=[1 << 47, 1 << 47, 1 << 47]), 'recording too long': in_column('time', 2, 100),
    'longer windows': lambda m: m['schema'].update(len=60), 'start beyond': in_column('start', 2, 90),
}


@pytest.mark.parametrize('make, change', [(plain, ROWS), (windows, WINDOWS)], ids=['rows', 'windows'])
def test_addresses_outside_a_part_are_refused_by_name_and_field(tmp_path, make, change):
    root = tmp_path/'s'
    good = make(root).store.manifest
    for name, edit in change.items():
        m = copy.deepcopy(good)
        edit(m)
        with pytest.raises(ValueError) as e: Store(root, sign(m))
        text = str(e.value)
        assert str(root) in text and 'datasets.' in text, f'{name}: {text}'
    Store(root, sign(good))


FIELDS = {
    'schema.vars': dict(schema__vars=0), 'schema.len': dict(schema__len='8'), 'schema.kind': dict(schema__kind='moons'), 'schema.vocab': dict(schema__vocab=['a', 'a']),
    'schema.var_names': dict(schema__var_names=['u']), 'schema.y_shape': dict(schema__y_shape=[-1]), 'schema.kind must': dict(schema__horizon=2), 'schema.labels': dict(schema__labels=None),
    'schema.policies': dict(schema__policies={'ragged': 1}), 'parts': dict(parts=['data/none.npy']), 'files': dict(files={}), 'version': dict(version='1'), 'meta': dict(meta=None),
    'before': dict(before='?'), 'info': dict(info='manifest.json'), 'labels': dict(labels={}), 'splits': dict(splits={'a': {}}), 'datasets.names': dict(datasets__names=['x']*6),
    'datasets.rows': dict(datasets__rows=[1]), 'clocks.kind': dict(clocks={}),
}


@pytest.mark.parametrize('field', FIELDS)
def test_errors_name_the_field(tmp_path, field):
    good = plain(tmp_path/'s').store.manifest
    with pytest.raises(ValueError) as e: Store(tmp_path/'s', sign(changed(good, **FIELDS[field])))
    assert f'{tmp_path}/s/{MANIFEST}' in str(e.value) and field in str(e.value)


def test_labels_and_targets_that_do_not_fit_are_refused(tmp_path):
    root = tmp_path/'s'
    good = plain(root).store.manifest
    note, text, y = good['labels']['deep/note'], good['labels']['text'], good['labels']['y']
    ranges = good['splits']['b']['ranges']
    for name, file, says in [('y', text, 'targets are'), ('y', ranges, 'for 39 rows'), ('deep/note', ranges, 'for 39 rows')]:
        m = copy.deepcopy(good)
        m['labels'][name] = file
        with pytest.raises(ValueError, match=says): Store(root, sign(m)).label(name)
    m = changed(good, splits={'b': dict(good['splits']['b'], ranges=note)})
    with pytest.raises(ValueError, match="split 'b'.*not made of ranges"): Store(root, sign(m)).split_views()
    m = changed(good, schema__kind='float', schema__vocab=None)
    assert Store(root, sign(m)).label('y').tolist() == np.load(root/y).tolist()


def test_headers_whose_shape_overflows_are_refused(tmp_path):
    root = tmp_path/'s'
    good = plain(root).store.manifest
    name = good['labels']['deep/note']
    head = (root/name).read_bytes()[:128]
    shape = head[head.index(b"'shape'"):].split(b'}')[0]
    for wrong in (b"'shape': (4294967296, 4294967296), ", b"'shape': (-39,), ", b"'shape': (-3, -13), "):
        new = head.replace(shape, wrong).rstrip()[:127]
        body = new.ljust(127) + b'\n' + b'\0'*(0 if b'42949' in wrong else 39*8)
        (root/name).write_bytes(body)
        m = copy.deepcopy(good)
        m['files'][name]['bytes'] = len(body)
        with pytest.raises(ValueError, match='note-'): Store(root, sign(m)).label('deep/note')


def test_verify_names_a_replacement(tmp_path):
    root = tmp_path/'s'
    store = plain(root).store
    ward(1).pack(root, overwrite=True)
    with pytest.raises(ValueError, match='replaced meanwhile: version 1.0 was opened, now there is 2.0'): store.verify()
    store = Store(root)
    store.describe(description='new')
    with pytest.raises(ValueError, match='replaced meanwhile'): store.verify()


def test_verify_during_an_overwrite(tmp_path, monkeypatch):
    "The store is replaced after the first files were looked at, before the rest"
    import tsmeta.store.store as module
    root, real, seen = tmp_path/'s', module.sha256_of, []
    store = plain(root).store
    def replace(path):
        if not seen: ward(1).pack(root, overwrite=True)
        seen.append(path)
        return real(path)
    monkeypatch.setattr(module, 'sha256_of', replace)
    with pytest.raises(ValueError, match='replaced meanwhile'): store.verify()
    assert seen


def test_json_that_is_no_manifest_is_refused_by_name(tmp_path):
    root = tmp_path/'s'
    plain(root)
    good = (root/MANIFEST).read_bytes()
    for data in [b'', b'[]', b'null', b'{}', b'{"sha256": 3}', b'[' * 100_000, good[:-1], good.replace(b'"version"', b'"\xff"'), good.replace(b'1.0', b'1.1')]:
        (root/MANIFEST).write_bytes(data)
        with pytest.raises(ValueError) as e: Store(root)
        assert f'{root}/{MANIFEST}' in str(e.value)
