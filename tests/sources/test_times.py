"Clocks of recordings: in files, in stores, across gaps, against a slow and obvious reference."
import json
import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner, load_learner
from hypothesis import given, settings, strategies as st
from tsmeta.batches import gather as gather_module
from tsmeta.all import TSMetaDataset, check_leakage
from tsmeta.batches.gather import Gather, check_gather
from tsmeta.sources.files import StoredWindows
from tsmeta.store.remote import open_store
from tsmeta.store.store import Store
from tsmeta.store.disk import check_signature, sign
from tsmeta.splits.splitters import EachSplitter
from tsmeta.sources.recordings import Clock, Times, as_times
from store_tools import in_fork, moments

quick = settings(max_examples=25, deadline=None)
DAY = np.datetime64('2026-03-01T08:00', 'ns')
KINDS = {'numbers': lambda t: t.astype(float), 'whole numbers': lambda t: t.astype(np.int32), 'dates': lambda t: DAY + t.astype('m8[s]'),
         'milliseconds': lambda t: (DAY + t.astype('m8[s]')).astype('M8[ms]'),
         'zoned': lambda t: pd.DatetimeIndex(DAY + t.astype('m8[s]')).tz_localize('UTC').tz_convert('Europe/Berlin')}


def slow_windows(recs, times, window, stride, horizon, gap):
    "Dataset and first step of every window, found by trying: no two of its steps are farther apart than allowed"
    out = []
    for d, t in enumerate(times):
        step, last = 0, None
        while step + window + horizon <= len(t):
            inside = np.diff(t[step:step+window+horizon])
            if (inside > gap).any():
                step += int(np.argmax(inside > gap)) + 1
                continue
            out.append((d, step))
            ahead = np.diff(t[step:step+stride+1])
            step += int(np.argmax(ahead > gap)) + 1 if (ahead > gap).any() else stride
    return out


def made(seed, n=3, steps=(5, 60)):
    rng = np.random.default_rng(seed)
    times = [np.cumsum(rng.choice([1, 1, 1, 1, 2, 7], k)) if rng.random() < .8 else 3 + np.arange(k) for k in rng.integers(*steps, n)]
    return [rng.normal(size=(2, len(t))).astype(rng.choice(['f4', 'f8', 'i2', 'u1'])) for t in times], times


def check_like(meta, recs, times, want, window, horizon, shown):
    "The rows, times and steps of a metadataset are those wanted"
    assert len(meta) == len(want)
    w = meta.where(meta.ids())
    assert list(zip(w.dataset, w.start)) == want and (w.end - w.start == window).all()
    zone = isinstance(shown[0], pd.DatetimeIndex)
    for col, at in (('start_time', 0), ('end_time', window - 1)):
        found = pd.Series([shown[d][s + at] for d, s in want])
        assert (w[col].reset_index(drop=True) == (found.dt.tz_convert('UTC') if zone else found)).all()
    order = np.random.default_rng(0).permutation(len(want))
    x, *y = meta.gather(order)
    for k, i in enumerate(order):
        d, s = want[i]
        assert np.array_equal(x[k], recs[d][:, s:s+window].astype('f4'))
        if horizon: assert np.array_equal(y[0][k], recs[d][:, s+window:s+window+horizon].astype('f4'))


@quick
@given(seed=st.integers(0, 2**32), window=st.integers(1, 6), stride=st.integers(1, 9), horizon=st.integers(0, 3), gap=st.integers(1, 3), kind=st.sampled_from(list(KINDS)))
def test_windows_with_gaps_are_those_found_by_trying(tmp_path_factory, seed, window, stride, horizon, gap, kind):
    recs, times = made(seed)
    want, shown = slow_windows(recs, times, window, stride, horizon, gap), [KINDS[kind](t) for t in times]
    how = dict(window=window, stride=stride, horizon=horizon)
    if not want: return
    meta = TSMetaDataset.from_recordings(recs, times=Times(shown, max_gap=gap), **how)
    check_like(meta, recs, times, want, window, horizon, shown)
    if len({r.dtype for r in recs}) > 1 and len(want) < 2: return
    root = tmp_path_factory.mktemp('s')/'store'
    packed = meta.pack(root)
    check_like(packed, recs, times, want, window, horizon, shown)
    check_like(TSMetaDataset.open(root), recs, times, want, window, horizon, shown)
    assert np.array_equal(packed.stride, meta.stride) and np.array_equal(packed.extent, meta.extent)
    check_gather(packed.gather, np.arange(len(packed)))
    check_like(packed.pack(root.parent/'again'), recs, times, want, window, horizon, shown)
    packed.store.verify()


@pytest.mark.parametrize('numba', [True, False])
@pytest.mark.parametrize('where', ['memory', 'time first', 'files'])
@pytest.mark.parametrize('policies', [{}, dict(missing=-1.), dict(sel_vars=[1]), dict(sel_vars=[1, 0], missing=-1.), dict(missing='mask'), dict(per_variable=True)], ids=str)
def test_windows_with_gaps_in_memory_and_in_files(tmp_path, monkeypatch, numba, where, policies):
    "The compiled loop and the general path give the rows found by trying, whatever else is done to them"
    if not numba: monkeypatch.setattr(gather_module, 'HAS_NUMBA', False)
    for seed, (stride, horizon) in enumerate([(1, 0), (3, 0), (9, 0), (2, 3)]):
        if horizon and 'mask' in policies.values(): continue
        recs, times = made(seed, 6)
        for r in recs:
            if r.dtype.kind == 'f': r[np.random.default_rng(seed).random(r.shape) < .2] = np.nan
        want = slow_windows(recs, times, 4, stride, horizon, 2)
        given = [r.T if where == 'time first' else r for r in recs]
        if where == 'files':
            for d, r in enumerate(recs): np.save(tmp_path/f'{d}.npy', r)
            given = [str(tmp_path/f'{d}.npy') for d in range(len(recs))]
        labels = None if horizon else [np.arange(len(t)) for t in times]
        meta = TSMetaDataset.from_recordings(given, window=4, stride=stride, horizon=horizon, y=labels, y_reduce='first', vocab=None if horizon else list(range(99)),
                                             times=Times(times, max_gap=2), time_first=where == 'time first', **policies)
        vs = policies.get('sel_vars', [0, 1])
        if policies.get('per_variable'): want = [(d, s, [v]) for d in range(6) for v in vs for e, s in want if e == d]
        else: want = [(d, s, vs) for d, s in want]
        fill = dict(missing=policies['missing']) if isinstance(policies.get('missing'), float) else {}
        gather = Gather(meta.gather.sources, meta.gather.targets, max_open=None if seed % 2 else 2)
        for order in np.array_split(np.random.default_rng(0).permutation(len(want)), 3):
            x, y = gather(order)
            for k, i in enumerate(order):
                d, s, v = want[i]
                row = recs[d][v, s:s+4].astype('f4')
                if 'mask' in policies.values(): row = np.r_[np.nan_to_num(row), np.isnan(row)]
                elif fill: row = np.where(np.isnan(row), fill['missing'], row)
                assert np.array_equal(x[k], row, equal_nan=True)
                if horizon: assert np.array_equal(y[k], recs[d][v, s+4:s+7].astype('f4'), equal_nan=True)
                else: assert meta.vocab[y[k]] == s
        check_gather(gather, np.arange(len(want)))
        check_gather(pickle.loads(pickle.dumps(gather)), np.arange(len(want))[::-1].copy())


@pytest.mark.skipif(not gather_module.HAS_NUMBA, reason='needs numba')
@pytest.mark.parametrize('where', ['memory', 'files'])
@pytest.mark.parametrize('policies', [{}, dict(missing=0.), dict(sel_vars=[1, 0])], ids=str)
@pytest.mark.parametrize('horizon', [0, 2])
def test_no_window_of_a_recording_with_gaps_is_left_to_the_general_path(tmp_path, monkeypatch, where, policies, horizon):
    recs, times = made(8, 5, (30, 60))
    recs = [r.astype(t) for r, t in zip(recs, ('f4', 'f8', 'i2', 'i4', 'i8'))]
    for d, r in enumerate(recs): np.save(tmp_path/f'{d}.npy', r)
    given = recs if where == 'memory' else [str(tmp_path/f'{d}.npy') for d in range(5)]
    meta = TSMetaDataset.from_recordings(given, window=4, stride=2, horizon=horizon, y=None if horizon else list('abcab'), times=Times(times, max_gap=2), **policies)
    ids, gather = meta.ids(), meta.gather
    want = gather(ids)
    stretches = sum(1 + int((np.diff(t) > 2).sum()) for t in times)
    assert len(gather.table.lines) == len(gather.table.index.lens) == stretches > 5
    def refuse(*args): raise AssertionError('rows were left')
    monkeypatch.setattr(Gather, '_copy_left', refuse)
    for a, b in zip(want, gather(ids)): assert np.array_equal(a, b)


@pytest.mark.parametrize('horizon', [0, 2])
def test_recordings_with_gaps_in_containers_stay_there(tmp_path, monkeypatch, horizon):
    recs, times = made(3, 3, (40, 60))
    recs = [r.astype('f4') for r in recs]
    for d, (r, t) in enumerate(zip(recs, times)):
        with pytest.importorskip('h5py').File(tmp_path/f'r{d}.h5', 'w') as h: h['ecg'], h['ecg_t'] = r, t.astype(float)
    def refuse(self): raise AssertionError('a whole recording was read')
    monkeypatch.setattr(StoredWindows, 'recording', refuse)
    want = slow_windows(recs, times, 5, 2, horizon, 2)
    for policies in ({}, dict(missing=0.)):
        meta = TSMetaDataset.open(tmp_path, window=5, stride=2, horizon=horizon, times=Times('t', max_gap=2), **policies)
        for _ in range(2):
            x, y = meta.gather(np.arange(len(want)))
            assert np.array_equal(x, [recs[d][:, s:s+5] for d, s in want]) and (not horizon or np.array_equal(y, [recs[d][:, s+5:s+7] for d, s in want]))


@quick
@given(seed=st.integers(0, 2**32), horizon=st.integers(0, 2), stride=st.integers(1, 4))
def test_stores_with_gaps_grow(tmp_path_factory, seed, horizon, stride):
    recs, times = made(seed, 4, (30, 60))
    recs = [r.astype('f4') for r in recs]
    how = dict(window=4, stride=stride, horizon=horizon)
    make = lambda part: TSMetaDataset.from_recordings({f'r{d}': recs[d] for d in part}, times=Times([times[d] for d in part], max_gap=2), y=None if horizon else [d % 2 for d in part], vocab=None if horizon else [0, 1], **how)
    try: a, b = make([0, 1]), make([2, 3])
    except ValueError: return
    root = tmp_path_factory.mktemp('s')/'store'
    store = a.pack(root).store.append(b).append(TSMetaDataset.from_recordings({'bare': recs[0]}, y=None if horizon else [1], vocab=None if horizon else [0, 1], **how))
    whole, grown = make(range(4)), TSMetaDataset.of_store(store)
    n = len(whole)
    pd.testing.assert_frame_equal(whole.where(whole.ids()), grown.where(np.arange(n)))
    for k in (0, 1): assert np.array_equal(whole.gather(np.arange(n))[k], grown.gather(np.arange(n))[k])
    assert grown.where(np.arange(n, len(grown))).start_time.isna().all()
    store.verify()


def test_even_clocks_take_two_numbers(tmp_path):
    n = 10_000
    recs = [np.zeros((1, 20), 'f4')]*n
    meta = TSMetaDataset.from_recordings(recs, window=10, times=Times(start=[DAY + np.timedelta64(d, 'h') for d in range(n)], rate=50))
    tracemalloc.start()
    packed = meta.pack(tmp_path/'s')
    opened = TSMetaDataset.open(tmp_path/'s')
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held/n < 3000, held
    assert not [f for f in packed.store.manifest['files'] if 'clock' in f] and packed.store.manifest['format'] == 'tsmeta-store 1'
    ids = np.array([0, 2*n - 1, 77])
    pd.testing.assert_frame_equal(opened.where(ids), meta.where(ids))
    assert pickle.loads(pickle.dumps(opened)).where(ids).equals(meta.where(ids))
    listed = TSMetaDataset.from_recordings([np.zeros((1, 300), 'f4')]*2, window=10, times=[pd.date_range('2026-03-01', periods=300, freq='20ms'), pd.date_range('2026-03-01', periods=300, freq='33ms')])
    store = listed.pack(tmp_path/'t').store
    assert [round(r, 4) for r in store.manifest['clocks']['rate']] == [50, 30.303] and len(store.manifest['files']) == 1


@pytest.mark.parametrize('column', ['numbers', 'dates', 'milliseconds', 'zoned'])
@pytest.mark.parametrize('form', ['csv', 'parquet', 'long', 'npz', 'hdf5', 'zarr', 'npy', 'frames'])
def test_files_tell_when(tmp_path, form, column):
    recs, times = made(3, 3, (40, 60))
    recs = [r.astype('f8') for r in recs]
    shown = [KINDS[column](t) for t in times]
    if form in ('npz', 'hdf5', 'zarr', 'npy') and column == 'zoned' or form in ('hdf5', 'zarr') and column != 'numbers': return
    frames = [pd.DataFrame(dict(t=s, hr=r[0], ox=r[1])) for s, r in zip(shown, recs)]
    folder, how = tmp_path/'data', dict(window=5, stride=2, times=Times('t', max_gap=2))
    folder.mkdir()
    for d, (f, r) in enumerate(zip(frames, recs)):
        if form == 'csv': f.to_csv(folder/f'r{d}.csv', index=False)
        if form == 'parquet': (f.set_index('t') if d else f).to_parquet(folder/f'r{d}.parquet')
        if form == 'npz': np.savez(folder/f'r{d}.npz', X=r, t=shown[d])
        if form == 'npy': np.save(folder/f'r{d}.npy', r); np.save(folder/f'r{d}_t.npy', shown[d])
        if form == 'hdf5':
            with pytest.importorskip('h5py').File(folder/f'r{d}.h5', 'w') as h: h['ecg'], h['ecg_t'] = r, shown[d]
        if form == 'zarr':
            z = pytest.importorskip('zarr').open_group(str(folder/f'r{d}.zarr'), mode='w')
            z.create_array('X', data=r); z.create_array('t', data=np.asarray(shown[d]))
    if form == 'long': pd.concat([f.assign(id=f'r{d}') for d, f in enumerate(frames)]).sample(frac=1, random_state=0).to_csv(folder/'all.csv', index=False)
    meta = TSMetaDataset.from_recordings(frames, **how) if form == 'frames' else TSMetaDataset.open(folder, **how)
    assert meta.vars == 2 and len(meta.names) == 3
    check_like(meta, recs, times, slow_windows(recs, times, 5, 2, 0, 2), 5, 0, shown)
    check_like(meta.pack(tmp_path/'store'), recs, times, slow_windows(recs, times, 5, 2, 0, 2), 5, 0, shown)
    plain = TSMetaDataset.from_recordings(recs, window=5, stride=2)
    assert len(plain) > len(meta)


def test_what_is_wrong_with_times_is_said(tmp_path):
    good = pd.DataFrame(dict(t=pd.date_range('2026-03-01', periods=30, freq='s'), hr=np.arange(30.)))
    def opened(bad, **kw):
        good.to_csv(tmp_path/'good.csv', index=False)
        bad.to_csv(tmp_path/'odd.csv', index=False)
        return TSMetaDataset.open(tmp_path, window=5, times=Times('t', **kw))
    backwards = good.assign(t=good.t.iloc[[1, 0, *range(2, 30)]].values)
    berlin = pd.date_range('2026-10-25T00:30', periods=30, freq='10min', tz='UTC').tz_convert('Europe/Berlin')
    for bad, says in [(good.rename(columns=dict(t='clock')), "odd.csv has no column 't'; its columns are clock, hr"), (backwards, "odd.csv, line 3: times must not run backwards: 2026-03-01T00:00:00"),
                      (good.assign(t=good.t.where(good.index != 7)), "odd.csv, line 9, column 't': there is no time"), (good.assign(t=good.t.dt.tz_localize('UTC')), "dates in .*good.csv, dates with a zone in .*odd.csv"),
                      (good.assign(t=np.arange(30)), "dates in .*good.csv, numbers in .*odd.csv"), (good.assign(t=berlin.tz_localize(None)), 'Local times do where clocks are set back'),
                      (good.assign(t='noon'), "odd.csv, line 2, column 't': 'noon' is no number or ISO date such as"),
                      (good.assign(t=[*good.t[:29].astype(str), '2026-03-01T00:00:29+01:00']), 'some times have a zone and others have none')]:
        with pytest.raises(ValueError, match=says): opened(bad)
    with pytest.raises(ValueError, match='max_gap is a length of time'): opened(good, max_gap=-1)
    with pytest.raises(ValueError, match='max_gap is a length of time'): opened(good, max_gap=float('nan'))
    with pytest.raises(ValueError, match='without clocks|needs? times|one of them'): TSMetaDataset.from_recordings([np.zeros((1, 20))], window=5, times=Times(max_gap=2))
    with pytest.raises(ValueError, match='years 1678 to 2261'): TSMetaDataset.from_recordings([np.zeros((1, 2))], window=1, times=[np.array(['1500-01-01', '2500-01-01'], 'M8[s]')])
    rec = np.zeros((1, 20))
    np.save(tmp_path/'walk.npy', rec); np.save(tmp_path/'walk_t.npy', np.arange(19))
    with pytest.raises(ValueError, match="'walk' .0.: there are 20 steps but times of shape"): TSMetaDataset.open(tmp_path/'walk.npy', window=5, times='t')
    with pytest.raises(ValueError, match="no file of times 'clock' beside it; that would be walk_clock.npy or clock.npy"): TSMetaDataset.open(tmp_path/'walk.npy', window=5, times='clock')


def test_clocks_set_forward_and_back_leave_no_gap():
    for night in ('2026-03-29T00:00', '2026-10-25T00:00'):
        t = pd.date_range(night, periods=400, freq='min', tz='Europe/Berlin')
        meta = TSMetaDataset.from_recordings([np.zeros((1, 400))], window=10, times=Times([t], max_gap='1min'))
        assert len(meta) == 40 and (meta.where(meta.ids()).end_time.diff().dropna() == pd.Timedelta('10min')).all()
    same = [['2026-10-25T02:59+02:00', '2026-10-25T02:00+01:00'], [pd.Timestamp('2026-10-25T00:59', tz='UTC'), pd.Timestamp('2026-10-25T01:00', tz='UTC')]]
    assert as_times(same[0])[0].tolist() == as_times(same[1])[0].tolist() and as_times(same[0])[1] == 'UTC'


def test_small_whole_numbers_do_not_hide_a_gap():
    clock = Clock(np.array([-100, -99, 100, 101], np.int8))
    assert clock.stretches(4, 5)[0].tolist() == [0, 2]


def test_splits_by_time_do_not_leak(tmp_path):
    recs, times = made(11, 5, (60, 90))
    meta = TSMetaDataset.from_recordings([r.astype('f4') for r in recs], window=6, stride=2, horizon=2, times=Times(times, max_gap=2)).pack(tmp_path/'s')
    steps = lambda part: {(d, s + k) for d, s in meta.where(part.ids())[['dataset', 'start']].itertuples(index=False) for k in range(8)}
    parts = meta.split(EachSplitter(.3))
    assert not steps(parts.train) & steps(parts.valid) and not len(check_leakage(meta, parts))
    n = int(meta.index.starts[1]//2)
    shared = steps(meta.part(np.arange(n))) & steps(meta.part(np.arange(n, 2*n)))
    assert len(check_leakage(meta, [list(range(n)), list(range(n, 2*n))])) or not shared


def packed_gaps(root):
    recs, times = made(5, 3, (60, 90))
    return TSMetaDataset.from_recordings([r.astype('f4') for r in recs], window=5, stride=2, y=list('aba'), times=Times(times, max_gap=2)).pack(root)


def test_a_store_notices_what_is_done_to_its_clocks(tmp_path):
    root = tmp_path/'s'
    store = packed_gaps(root).store
    files = [f for f in store.manifest['files'] if 'clock' in f]
    assert len(files) == 2 and store.manifest['format'] == 'tsmeta-store 2'
    for f in files:
        data = (root/f).read_bytes()
        (root/f).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ValueError, match='clock-.*has changed|outside|other rows'): Store(root).verify()
        (root/f).write_bytes(data)
    store.verify()
    m = check_signature((root/'manifest.json').read_bytes(), 'm')
    for change, says in [(dict(rate=[-1., None, None]), r'clocks\.rate'), (dict(kind='moons'), 'moons'), (dict(times=None), 'times'), (dict(start=[0]), 'does not fit'),
                         (dict(stretches=m['clocks']['times']), r'clocks\.stretches does not fit'), (dict(times=m['clocks']['stretches']), r'clocks\.times does not fit')]:
        with pytest.raises(ValueError, match=says): Store(root, sign({**m, 'clocks': {**m['clocks'], **change}}))


def test_times_go_through_training_workers_and_export(tmp_path):
    meta = packed_gaps(tmp_path/'s')
    tables = []
    for workers in (0, 2):
        dls = meta.split(EachSplitter(.3)).dataloaders(bs=8, seed=0, device='cpu', num_workers=workers)
        torch.manual_seed(0)
        learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(dls.vars*dls.len, dls.c)), path=tmp_path)
        tables.append(learn.predict_table())
        seen = [w for _ in dls.train for w in dls.train.where.start_time]
        tables[-1].attrs['seen'] = seen
    pd.testing.assert_frame_equal(*tables)
    assert tables[0].attrs['seen'] == tables[1].attrs['seen'] and (tables[0].end_time >= tables[0].start_time).all()
    learn.dls.train.num_workers = 0
    learn.export('l.pkl')
    new = TSMetaDataset.from_recordings({'new': np.zeros((2, 40), 'f4')}, window=5, times=Times([np.r_[:20, 100:120]], max_gap=1))
    table = load_learner(tmp_path/'l.pkl').predict_table(data=new)
    assert len(table) == 8 and table.start_time.tolist() == [0, 5, 10, 15, 100, 105, 110, 115]


@pytest.mark.parametrize('how', ['overwrite', 'append'])
def test_killed_while_clocks_are_written(tmp_path, how):
    "There is the old store with its clocks, or the new one with its own; `TSMETA_KILLS` says how many moments"
    recs, times = made(5, 4, (60, 90))
    make = lambda part: TSMetaDataset.from_recordings({f'r{d}': recs[d].astype('f4') for d in part}, window=5, stride=2, times=Times([times[d] for d in part], max_gap=2))
    old, more = make([0, 1]), make([2, 3])
    new, seen = more if how == 'overwrite' else make(range(4)), set()
    work = lambda root: more.pack(root, overwrite=True) if how == 'overwrite' else open_store(root).append(more)
    old.pack(tmp_path/'count')
    total = in_fork(lambda: work(tmp_path/'count'), -1)
    for step in moments(total, 0):
        root = tmp_path/str(step)
        old.pack(root)
        in_fork(lambda: work(root), step)
        store = open_store(root)
        store.verify()
        want = new if len(store.names) == len(new.names) and store.names == new.names else old
        found = TSMetaDataset.of_store(store)
        pd.testing.assert_frame_equal(found.where(found.ids()), want.where(want.ids()))
        assert np.array_equal(found.gather(found.ids())[0], want.gather(want.ids())[0])
        seen.add(want is new)
        if want is old: work(root)
        assert len(Store(root)) == len(new) and not list(root.rglob('.tmp-*')) or want is new
    assert len(moments(total, 0)) < 15 or seen == {True, False}
