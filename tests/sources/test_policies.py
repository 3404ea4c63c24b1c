"Datasets that differ: every policy against a slow and obvious reference, number by number."
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner, load_learner
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly
from tsmeta.batches import gather as gather_module
from tsmeta.sources import align
from tsmeta.sources.align import FILL, NANS, REAL, ZERO, Framed, RaggedSource
from tsmeta.batches.gather import Gather, OpenDatasets, check_gather
from tsmeta.sources.align import Ragged
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.sources.align import Missing
from tsmeta.sources.policies import Vars
from tsmeta.sources.base import ArraySource, FileSource, check_source
from tsmeta.sources.recordings import Times

import tsmeta.all

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
NAMES = list('abcde')


def as_written(rows, have, want, n, ragged, absent, nan):
    "One row per row, put together step by step"
    out = []
    for row in rows:
        k = row.shape[1]
        at = {'right': 0, 'left': k - n, 'center': (k - n)//2}[ragged.side]
        one = np.full((len(want), n), np.nan)
        for i, name in enumerate(want):
            kind, _, of = name.rpartition(':')
            for s in range(n):
                real = 0 <= s + at < k
                if name == 'mask': v = float(real)
                elif kind == 'has': v = float(real and of in have)
                elif kind == 'nan': v = float(real and of in have and np.isnan(row[have.index(of), s + at]))
                elif name not in have: v = absent
                elif not real: v = ragged.value
                else:
                    v = row[have.index(name), s + at]
                    if np.isnan(v) and nan is not None: v = nan
                one[i, s] = v
        out.append(one)
    return np.array(out, np.float32).reshape(len(rows), len(want), n)


dataset = st.tuples(st.integers(0, 2**32), st.integers(1, 5), st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True),
                    st.sampled_from(['f4', 'f8', 'i2', 'f2', '>f4']), st.sampled_from(['array', 'list', 'mixed', 'fortran', 'npy']))


def make(spec, folder):
    "A member, its rows one by one, and the names of its variables"
    seed, n, have, dtype, kind = spec
    rng = np.random.default_rng(seed)
    ragged = kind in ('list', 'mixed')
    most = int(rng.choice([9, 45]))
    rows = [rng.normal(scale=9, size=(len(have), int(k))) for k in (rng.integers(1, most, n) if ragged else [rng.integers(1, most)]*n)]
    if dtype != 'i2': rows = [np.where(rng.random(r.shape) < .2, np.nan, r) for r in rows]
    rows = [r.astype(dtype) for r in rows]
    if kind == 'mixed': given = [np.asfortranarray(r) if i % 2 else r for i, r in enumerate(rows)]
    elif kind == 'list': given = rows
    elif kind == 'npy':
        given = str(folder/f'{len(list(folder.iterdir()))}.npy')
        np.save(given, np.stack(rows))
    else: given = np.asfortranarray(np.stack(rows)) if kind == 'fortran' else np.stack(rows)
    return (RaggedSource(given) if ragged else given), [r.astype('f4').astype('f8') for r in rows], have


ragged_kinds = st.tuples(st.sampled_from(['pad', 'crop', 'fit']), st.sampled_from(['right', 'left', 'center']), st.sampled_from([0., -1.5, np.nan]), st.booleans())
vars_kinds = st.tuples(st.sampled_from(['union', 'intersect']), st.sampled_from([0., 7., np.nan]), st.booleans())


@quick
@given(specs=st.lists(dataset, min_size=1, max_size=4), how=ragged_kinds, vs=vars_kinds, missing=st.sampled_from(['keep', 2., 'mask']), data=st.data())
def test_lengths_variables_and_holes_together(tmp_path_factory, specs, how, vs, missing, data):
    folder = tmp_path_factory.mktemp('npy')
    made = [make(s, folder) for s in specs]
    lens = [r.shape[1] for _, rows, _ in made for r in rows]
    n = {'pad': max(lens), 'crop': min(lens), 'fit': 5}[how[0]]
    ragged = Ragged(how[0], 5 if how[0] == 'fit' else None, *how[1:])
    kind = Vars(vs[0], *vs[1:]) if vs[0] == 'union' else Vars('intersect')
    everywhere = [v for v in made[0][2] if all(v in h for *_, h in made)]
    assume(vs[0] == 'union' or everywhere)
    want = list(dict.fromkeys(v for *_, h in made for v in h)) if vs[0] == 'union' else everywhere
    names = [*want, *(f'has:{v}' for v in want if kind.mask and any(v not in h for *_, h in made)),
             *(f'nan:{v}' for v in want if missing == 'mask'), *(['mask'] if ragged.mask else [])]
    meta = TSMetaDataset([g for g, *_ in made], var_names=[h for *_, h in made], ragged=ragged, vars=kind, missing=missing)
    assert (meta.schema.var_names, meta.vars, meta.len) == (names, len(names), n)
    nan = {'keep': None, 2.: 2., 'mask': 0.}[missing]
    X = np.concatenate([as_written(rows, h, names, n, ragged, kind.fill, nan) for _, rows, h in made])
    ids = data.draw(st.lists(st.integers(0, len(X)-1), min_size=1, max_size=12))
    assert np.array_equal(meta[ids][0].numpy(), X[ids], equal_nan=True)
    there = pickle.loads(pickle.dumps(meta))
    assert np.array_equal(there[ids][0].numpy(), X[ids], equal_nan=True)
    if all(lo.shape[1] == n for _, rows, _ in made for lo in rows) and missing == 'keep': assert not meta.summary().padded.any()
    for s in meta.datasets: check_source(s)
    check_gather(meta.gather, np.array(ids))


def test_the_general_path_gives_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    rows = [rng.normal(size=(2, n)).astype('f4') for n in (3, 9, 6, 1)]
    x = np.where(rng.random((5, 3, 7)) < .3, np.nan, rng.normal(size=(5, 3, 7)))
    make = lambda: Gather([Framed(RaggedSource(rows), [1, FILL, REAL, NANS], 6, side, -1, absent=3) for side in ('right', 'left', 'center')]
                          + [Framed(ArraySource(x), [2, FILL, ZERO, NANS - 1], 6, side, nan=8) for side in ('right', 'left', 'center')])
    ids = rng.permutation(27)
    quick = make()(ids)[0]
    monkeypatch.setattr(gather_module, 'HAS_NUMBA', False)
    assert np.array_equal(quick, make()(ids)[0], equal_nan=True)


def test_rows_without_a_step_are_filled():
    rows = [np.ones((2, n), np.float32) for n in (3, 0, 40)]
    x = TSMetaDataset([rows], ragged=Ragged('pad', value=-1, mask=True))[:][0].numpy()
    assert (x[1, :2] == -1).all() and (x[:, 2].sum(1) == [3, 0, 40]).all() and (x[0, :2].sum(1) == 3 - 37).all()


def test_files_come_and_go(tmp_path):
    X = [np.full((3, 2, n), n, np.float32) for n in range(2, 14)]
    for k, x in enumerate(X): np.save(tmp_path/f'{k}.npy', x)
    srcs = [Framed(FileSource(tmp_path/f'{k}.npy'), [1, REAL], 8) for k in range(12)]
    gather = Gather(srcs, max_open=3)
    ids = np.random.default_rng(0).permutation(36)
    for _ in range(3): assert np.array_equal(gather(ids)[0][:, 1].sum(1), np.minimum(np.repeat(range(2, 14), 3), 8)[ids])
    assert len(gather.opened.lazy) <= 3 and len(gather.opened.views) <= 3


@quick
@given(seed=st.integers(0, 2**32), how=st.sampled_from(['mean', 'median', 'ffill', 'linear']), mask=st.booleans(), ragged=st.booleans())
def test_holes_are_filled_from_the_row_itself(seed, how, mask, ragged):
    rng = np.random.default_rng(seed)
    rows = [np.where(rng.random((2, n)) < .4, np.nan, rng.normal(size=(2, n))) for n in (rng.integers(2, 9, 6) if ragged else [6]*6)]
    meta = TSMetaDataset([rows if ragged else np.stack(rows)], ragged=Ragged('pad', 9), missing=Missing(how, value=-3, mask=mask))
    for i, row in enumerate(rows):
        for v in range(2):
            s, n = pd.Series(row[v]), row.shape[1]
            full = {'mean': lambda: s.fillna(s.mean()), 'median': lambda: s.fillna(s.median()), 'ffill': lambda: s.ffill().bfill(),
                    'linear': lambda: s.interpolate().bfill()}[how]().fillna(-3)
            assert np.allclose(meta[i][0][v], np.r_[full, np.zeros(9 - n)])
            if mask: assert np.array_equal(meta[i][0][2 + v], np.r_[s.isna(), np.zeros(9 - n)])
    assert meta.count_missing().missing[0] == sum(np.isnan(r).sum() for r in rows)


@quick
@given(seed=st.integers(0, 2**32), steps=st.sampled_from([slice(2), slice(-3, None), slice(1, None, 2), slice(1, -1)]), sel=st.sampled_from([[1], [2, 0], slice(1, 3)]))
def test_selected_steps_and_variables(seed, steps, sel):
    rng = np.random.default_rng(seed)
    X, rows = rng.normal(size=(3, 3, 7)).astype('f4'), [rng.normal(size=(3, n)).astype('f4') for n in rng.integers(3, 9, 4)]
    want = [r[sel][:, steps] for r in [*X, *rows]]
    n = max(r.shape[1] for r in want)
    meta = TSMetaDataset([X, rows] if len({r.shape for r in rows}) > 1 else [X, RaggedSource(rows)], ragged='pad', sel_vars=sel, sel_steps=steps)
    assert np.array_equal(meta[:][0], np.stack([np.pad(r, ((0, 0), (0, n - r.shape[1]))) for r in want]))


def test_per_variable():
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(4, 2, 6)), [rng.normal(size=(3, n)) for n in (5, 8)]
    var_names = dict(a=['x', 'y'], b=['y', 'z', 'x'])
    meta = TSMetaDataset(dict(a=(A, list('uvuv')), b=(B, ['u', 'w'])), var_names=var_names, info=dict(site=['s', 't']), ragged=Ragged('pad', mask=True), vars='union', per_variable=True)
    assert meta.names == ['a/x', 'a/y', 'b/x', 'b/y', 'b/z'] and (meta.vars, meta.len, len(meta)) == (2, 8, 4*2 + 2*3)
    assert meta.info.member.tolist() == ['a', 'a', 'b', 'b', 'b'] and meta.info.site.tolist() == ['s', 's', 't', 't', 't']
    for i in range(len(meta)):
        w = meta.where([i]).iloc[0]
        row = (A if w['member'] == 'a' else B)[w['row']][var_names[w['member']].index(w['variable'])]
        x, y = meta[i]
        assert np.allclose(x[0], np.pad(row, (0, 8 - len(row)))) and x[1].sum() == len(row)
        assert meta.vocab[y] == (list('uvuv') if w['member'] == 'a' else ['u', 'w'])[w['row']]
    parts = meta.split(lambda o: tsmeta.all.HoldoutSplitter(.5, groups='member')(o))
    assert not {n.split('/')[0] for n, k in zip(meta.names, parts.train.lens) if k} & {n.split('/')[0] for n, k in zip(meta.names, parts.valid.lens) if k}
    new = meta.add_dataset(TSMetaDataset(dict(n=np.ones((2, 1, 4))), var_names=['z']))
    assert len(new) == 2 and new.where([1])['variable'][0] == 'z' and new[0][0].sum() == 8
    with pytest.raises(ValueError, match='keep their labels apart'): TSMetaDataset([(A, list('uvuv'))], per_variable=True, labels='namespaced')


def test_windows_stay_windows(tmp_path):
    rng = np.random.default_rng(0)
    recs = [rng.normal(size=(2, 40)).astype('f4'), rng.normal(size=(3, 30)).astype('f4')]
    var_names = [['x', 'y'], ['y', 'z', 'x']]
    for kw, want in ((dict(vars='intersect'), ['x', 'y']), (dict(vars=Vars('union', mask=True)), ['x', 'y', 'z', 'has:z'])):
        meta = TSMetaDataset.from_recordings(recs, window=8, stride=3, y=list('uv'), var_names=var_names, **kw)
        assert meta.windowed and meta.schema.var_names == want and np.array_equal(meta.stride, [3, 3]) and np.array_equal(meta.extent, [8, 8])
        assert np.array_equal(meta[len(meta)-1][0][0], recs[1][2, 21:29]) and meta.where([2])['start'][0] == 6
        packed = meta.pack(tmp_path/'-'.join(want).replace(':', ''))
        assert np.array_equal(packed[:][0], meta[:][0]) and np.array_equal(packed.stride, [3, 3])
    ahead = TSMetaDataset.from_recordings(recs, window=8, horizon=2, var_names=var_names, vars='intersect', ragged=Ragged('pad', mask=True))
    x, y = ahead[[1, 5]]
    assert x.shape == (2, 3, 8) and np.array_equal(y, np.stack([recs[0][:, 16:18], recs[1][[2, 0], 16:18]])) and ahead.d == [2, 2]
    with pytest.raises(ValueError, match="'0' .0. lacks 'z', so nothing is known of the steps to come"):
        TSMetaDataset.from_recordings(recs, window=8, horizon=2, var_names=var_names, vars='union')
    with pytest.raises(ValueError, match='not cropped: cut windows of 5'): TSMetaDataset.from_recordings(recs[:1], window=8, ragged=Ragged('crop', 5))
    with pytest.raises(ValueError, match='choose window= instead of sel_steps'): TSMetaDataset.from_recordings(recs[:1], window=8, sel_steps=slice(3))


def test_policies_travel_with_the_learner(tmp_path):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 2, 12)).astype('f4'), ['x', 'y']*20
    b = [rng.normal(size=(3, n)).astype('f4') for n in rng.integers(5, 20, 30)], ['y', 'z']*15
    meta = TSMetaDataset(dict(a=a, b=b), var_names=dict(a=['p', 'q'], b=['q', 'r', 'p']), ragged=Ragged('pad', mask=True), vars='union', missing='mask')
    dls = meta.split(tsmeta.all.EachSplitter(.25)).dataloaders(bs=16, seed=1, device='cpu')
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(dls.vars*dls.len, dls.c)), path=tmp_path)
    learn.export('model.pkl')
    again = load_learner(tmp_path/'model.pkl')
    rows = [rng.normal(size=(2, n)).astype('f4') for n in (3, 7)]
    rows[0][0, 1] = np.nan
    table = again.predict_table(data=TSMetaDataset(dict(new=rows), var_names=['r', 'p'], ragged='pad'), probs=True)
    x = np.zeros((2, meta.vars, meta.len), np.float32)
    at = {v: i for i, v in enumerate(meta.schema.var_names)}
    for k, r in enumerate(rows):
        n = r.shape[1]
        x[k, at['r'], :n], x[k, at['p'], :n] = np.nan_to_num(r)
        x[k, at['nan:r'], :n], x[k, at['nan:p'], :n] = np.isnan(r)
        x[k, at['mask'], :n] = 1
    with torch.no_grad(): want = learn.model(torch.from_numpy(x)).softmax(1).numpy()
    assert np.allclose(table[[f'p_{v}' for v in meta.vocab]], want, atol=1e-6) and table.name.tolist() == ['new', 'new']
    for bad, says in (((rng.normal(size=(1, 2, 8))), '2 variables, expected 3'), (rng.normal(size=(1, 3, 21)), 'longer ones: 21 steps')):
        with pytest.raises(ValueError, match=says): again.predict_table(data=bad)
    assert (tmp_path/'model.pkl').stat().st_size < 100_000
    for w in (0, 1):
        dl = TSMetaDataLoader(meta, bs=8, shuffle=True, seed=3, num_workers=w)
        for xb, yb in dl: assert np.array_equal(xb, meta[dl.ids][0])


def test_wrong_requests():
    A, B = np.zeros((2, 2, 5)), np.zeros((2, 3, 7))
    for kw, error, says in [
        (dict(ragged='stretch'), ValueError, "ragged must be 'error', 'pad'"),
        (dict(ragged='pad'), ValueError, "3 variables x 7 steps: 'b' \\(1\\)"),
        (dict(vars='union'), ValueError, 'say what they are called with var_names='),
        (dict(sel_vars=[0, 2], ragged='pad'), ValueError, "'a' \\(0\\) has \\['0', '1'\\]|asks for \\[2\\]"),
        (dict(sel_vars=['x'], ragged='pad'), ValueError, 'needs var_names='),
        (dict(missing={'c': 'mean'}), ValueError, "datasets \\['c'\\]"),
        (dict(missing='guess'), ValueError, "missing must be 'keep'"),
        (dict(var_names=dict(a=['x', 'y'], b=['u', 'v', 'w']), vars='intersect'), ValueError, 'no variable that all 2 datasets have'),
        (dict(colour='red'), TypeError, 'colour'),
    ]:
        with pytest.raises(error, match=says): TSMetaDataset(dict(a=A, b=B), **kw)
    A[1, 1, 3] = np.nan
    with pytest.raises(ValueError, match="'a' \\(0\\), row 1, variable 1: a value is missing"): TSMetaDataset(dict(a=A), missing='error')


@quick
@given(seed=st.integers(0, 2**32), window=st.integers(1, 6), stride=st.integers(1, 9), horizon=st.integers(0, 2), gap=st.integers(0, 4), share=st.sampled_from([.2, .4]))
def test_windows_cross_no_gap_and_splits_share_no_step(seed, window, stride, horizon, gap, share):
    rng = np.random.default_rng(seed)
    times = [np.cumsum(rng.choice([1, 1, 1, 1, 5], n)) for n in rng.integers(20, 60, 2)]
    recs = [np.stack([np.arange(len(t)), -t]).astype('f4') for t in times]
    want = [(d, s) for d, t in enumerate(times) for run in np.split(np.arange(len(t)), np.flatnonzero(np.diff(t) > 1) + 1)
            for s in range(int(run[0]), int(run[-1]) + 2 - window - horizon, stride)]
    assume(len(want) > 8)
    meta = TSMetaDataset.from_recordings(recs, window=window, stride=stride, horizon=horizon, times=Times(times, max_gap=1))
    w = meta.where(meta.ids())
    assert list(zip(w.dataset, w.start)) == want and (w.end - w.start == window).all()
    assert all(w.start_time[i] == times[d][s] and w.end_time[i] == times[d][s + window - 1] == times[d][s] + window - 1 for i, (d, s) in enumerate(want))
    x, *y = meta[:]
    for i, (d, s) in enumerate(want):
        assert np.array_equal(x[i], recs[d][:, s:s+window])
        if horizon: assert np.array_equal(y[0][i], recs[d][:, s+window:s+window+horizon])
    try: parts = meta.split(tsmeta.all.EachSplitter(share, gap=gap))
    except ValueError: return
    steps = lambda part: {(d, s + k) for d, s in (want[i] for i in part.ids()) for k in range(window + horizon)}
    train, valid = steps(parts.train), steps(parts.valid)
    near = {(d, s + k) for d, s in train for k in range(-gap, gap + 1)}
    assert not near & valid
    cut = sorted(rng.choice(len(want), 2, replace=False))
    sides = np.arange(cut[0]), np.arange(cut[0], cut[1])
    shared = {(d, s + k) for d, s in (want[i] for i in sides[0]) for k in range(window + horizon)} & {(d, s + k) for d, s in (want[i] for i in sides[1]) for k in range(window + horizon)}
    found = tsmeta.all.check_leakage(meta, [*map(list, sides)]) if len(sides[0]) and len(sides[1]) else ()
    assert len(found) or not shared


def test_times_reach_the_table(tmp_path):
    rng = np.random.default_rng(0)
    recs = dict(ann=rng.normal(size=(2, 300)).astype('f4'), bob=rng.normal(size=(2, 200)).astype('f4'))
    np.save(tmp_path/'ann.npy', recs['ann'])
    meta = TSMetaDataset.from_recordings({'ann': str(tmp_path/'ann.npy'), 'bob': recs['bob']}, window=20, y=list('uv'),
                                         times=Times(start={'ann': '2026-01-01', 'bob': '2026-02-01'}, rate={'ann': 10, 'bob': 20}), ragged=Ragged('pad', mask=True))
    dls = meta.split(tsmeta.all.EachSplitter(.3)).dataloaders(bs=8, seed=0, device='cpu')
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(dls.vars*dls.len, dls.c)), path=tmp_path)
    table = learn.predict_table()
    bob = table[table.name == 'bob'].iloc[0]
    assert bob.start_time == pd.Timestamp('2026-02-01') + pd.Timedelta(seconds=bob.start/20) and bob.end_time - bob.start_time == pd.Timedelta(seconds=19/20)
    for bad, says in ((Times({'ann': [0, 1], 'bob': np.arange(200)}), "'ann' .0.: there are 300 steps but times of shape"), (Times(rate=-1), 'above 0'),
                      ([np.arange(300)], '2 datasets but 1 times')):
        with pytest.raises(ValueError, match=says): TSMetaDataset.from_recordings(recs, window=20, times=bad)
    gaps = TSMetaDataset.from_recordings(recs, window=20, times=Times([np.r_[:100, 200:400], np.arange(200)], max_gap=1))
    assert gaps.pack(tmp_path/'store').where(gaps.ids()).equals(gaps.where(gaps.ids()))


def test_files_of_series_of_different_lengths(tmp_path):
    series = {k: np.random.default_rng(k).normal(size=n) for k, n in enumerate((4, 9, 6))}
    pd.concat([pd.DataFrame(dict(id=k, time=range(len(v)), hr=v, label='ab'[k % 2])) for k, v in series.items()]).to_csv(tmp_path/'a.csv', index=False)
    meta = TSMetaDataset.open(tmp_path/'a.csv', ragged=Ragged('pad', side='left', value=np.nan))
    want = np.stack([np.r_[np.full(9 - len(v), np.nan), v] for v in series.values()])[:, None].astype('f4')
    assert np.array_equal(meta[:][0], want, equal_nan=True) and [meta.vocab[i] for i in meta.targets()] == list('aba')
    assert np.array_equal(pickle.loads(pickle.dumps(meta))[[2, 0]][0], want[[2, 0]], equal_nan=True)
    with pytest.raises(ValueError, match="1 variables x 4–9 steps: 'a' .0."): TSMetaDataset.open(tmp_path/'a.csv')
    assert np.array_equal(meta.pack(tmp_path/'store')[:][0], want, equal_nan=True)


@pytest.mark.parametrize('rate', [25, 100, 30, 12.5])
def test_one_rate(tmp_path, rate):
    rng, target = np.random.default_rng(0), 50
    rec, row = rng.normal(size=(int(rate*8), 2)), rng.normal(size=(3, 2, int(rate*2)))
    up, down = {25: (2, 1), 100: (1, 2), 30: (5, 3), 12.5: (4, 1)}[rate]
    want = lambda x: resample_poly(x, up, down, axis=-1, padtype='line').astype('f4')
    np.save(tmp_path/'r.npy', rec.T)
    steps = np.repeat(list('ab'), len(rec)//2)
    info = dict(rate=[rate, 50.])
    meta = TSMetaDataset.from_recordings({'a': rec, 'b': rng.normal(size=(400, 2))}, window=60, stride=20, y=[steps, np.repeat('a', 400)], time_first=True, info=info, resample=target)
    full = want(rec.T)
    assert meta.lens[0] == (full.shape[1] - 60)//20 + 1 and (meta.schema.policies.resample, meta.len) == (50, 60)
    for r in range(meta.lens[0]):
        x, y = meta[r]
        assert np.array_equal(x, full[:, 20*r:20*r+60]) and meta.vocab[y] == steps[min(len(steps)-1, (20*r + 59)*down//up)]
    assert np.array_equal(TSMetaDataset.from_recordings([str(tmp_path/'r.npy')], window=60, info=dict(rate=[rate]), resample=target)[0][0], full[:, :60])
    assert np.array_equal(meta.pack(tmp_path/'store')[:][0], meta[:][0])
    timed = TSMetaDataset.from_recordings([rec.T], window=60, times=Times(start='2026-01-01', rate=rate), resample=target)
    assert (timed.where([1]).start_time[0] - pd.Timestamp('2026-01-01')).total_seconds() == 60/target
    rows = TSMetaDataset({'a': row, 'b': [np.zeros((2, n)) for n in (90, 70)]}, info=info, resample=target, ragged='crop')
    assert rows.len == 70 and np.array_equal(rows[:3][0], want(row)[:, :, :70])
    assert rows.summary().cropped.tolist() == [3*(want(row).shape[2] - 70), 20]
    with pytest.raises(ValueError, match='sampled at different rates'): TSMetaDataset({'a': row, 'b': row}, info=info)
    with pytest.raises(ValueError, match="nothing is known of 'new'"): rows.add_dataset(row)
    assert rows.add_dataset(TSMetaDataset([np.zeros((1, 2, 200))], info=dict(rate=[100])))[0][0].shape == (2, 70)
    with pytest.raises(ValueError, match='at which rate each recording is sampled'): TSMetaDataset.from_recordings([rec.T], window=60, resample=50)


def test_policies_stay_with_stores_and_safe_exports(tmp_path):
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(2, n)).astype('f4') for n in (9, 4, 7, 6)]
    meta = TSMetaDataset(dict(a=(rows, list('uvuv'))), var_names=['p', 'q'], ragged=Ragged('pad', value=np.nan, mask=True), missing=0)
    store = meta.pack(tmp_path/'store')
    again = TSMetaDataset.open(tmp_path/'store')
    for m in (meta, store, again):
        assert repr(m.schema.policies) == repr(meta.schema.policies) and m.schema.var_names == ['p', 'q', 'mask']
        new = m.add_dataset([rows[1], rows[3]])
        assert np.array_equal(new[:][0], meta[[1, 3]][0], equal_nan=True)
    dls = again.split([[0, 1], [2, 3]]).dataloaders(bs=2, seed=0, device='cpu')
    from tsai.models.FCN import FCN
    learn = Learner(dls, FCN(dls.vars, dls.c))
    learn.export_safe(tmp_path/'safe')
    other = tsmeta.all.load_safe(tmp_path/'safe')
    a, b = (o.predict_table(data=rows[:2]) for o in (learn, other))
    assert a.equals(b) and len(a) == 2


@pytest.mark.parametrize('how', ['bucket', 'per_dataset'])
def test_batches_of_one_length(how, monkeypatch):
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(n, 2, k)).astype('f4') for n, k in ((30, 5), (17, 9), (25, 5), (9, 12))]
    rows = [rng.normal(size=(2, k)).astype('f4') for k in (3, 8, 6)]
    meta = TSMetaDataset([*((x, ['a']*len(x)) for x in X), (rows, ['b']*3)], ragged=Ragged(how, mask=True))
    assert (meta.vars, meta.len) == (3, 12)
    full = [np.pad(r, ((0, 0), (0, 12 - r.shape[1]))) for x in [*X, rows] for r in x]
    steps = [r.shape[1] for x in [*X, rows] for r in x]
    own = np.repeat([5, 9, 5, 12, 8], [30, 17, 25, 9, 3])
    for loader in (dict(shuffle=True, seed=1), dict(), dict(shuffle=True, seed=1, num_workers=1)):
        seen = []
        for x, y in (dl := TSMetaDataLoader(meta, bs=8, **loader)):
            ds = meta.index.locate(dl.ids)[0]
            assert len(set(own[dl.ids])) == 1 and x.shape[2] == own[dl.ids[0]] and (how == 'bucket' or len(set(ds)) == 1)
            assert all(np.array_equal(x[k, :2], full[i][:, :x.shape[2]]) and x[k, 2].sum() == steps[i] for k, i in enumerate(dl.ids))
            seen += dl.ids.tolist()
        assert sorted(seen) == list(range(len(meta)))
    ids = np.array([0, 31, 83])
    monkeypatch.setattr(gather_module, 'HAS_NUMBA', False)
    assert np.array_equal(pickle.loads(pickle.dumps(meta))[ids][0], meta[ids][0]) and meta[ids][0].shape == (3, 3, 9)
    with pytest.raises(ValueError, match="done at the end: side='right'"): Ragged(how, side='left')


def long_rows(n=40):
    "Rows whose values tell row and step: `100*row + step`"
    rng = np.random.default_rng(5)
    lens = rng.integers(6, 30, n)
    return {d: ([(100.*i + np.arange(k))[None].astype('f4') for i, k in enumerate(lens) if i % 2 == p], ['u', 'v']*(n//4)) for p, d in enumerate(('even', 'odd'))}


def crops(dl):
    "Of each row of an epoch: its id, and its steps; those that the loader tells are the ones that were delivered"
    out = {}
    for x, _ in dl:
        w = dl.where
        for i, row, start, end in zip(dl.ids.tolist(), x[:, 0].numpy(), w['start'], w['end']):
            assert np.array_equal(row % 100, np.arange(start, end))
            out[i] = row.copy()
    return out


same = lambda a, b: a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize('how', [Ragged('crop', side='random'), Ragged('crop', 4, side='random')])
def test_training_rows_are_cropped_at_random_by_seed_epoch_and_id(how):
    meta = TSMetaDataset(long_rows(), ragged=how)
    parts = meta.split(tsmeta.all.EachSplitter(.25))
    make = lambda **kw: parts.dataloaders(device='cpu', drop_last=False, **{'seed': 3, 'bs': 8, **kw})
    dls = make()
    first, second = crops(dls.train), crops(dls.train)
    assert not same(first, second) and len(first) == len(parts.train)
    for other in (make(num_workers=2), make(num_workers=1, multiprocessing_context='spawn'), make(bs=5)):
        assert same(crops(other.train), first) and same(crops(other.train), second)
    assert not same(crops(make(seed=4).train), first)
    halves = {}
    for rank in range(2): halves |= crops(parts.dataloaders(bs=8, device='cpu', drop_last=False, seed=3, rank=rank, world_size=2).train)
    assert same(halves, first)
    lens = [r.shape[1] for rows, _ in long_rows().values() for r in rows]
    starts = {int(row[0] % 100): 0 for _ in range(20) for row in crops(dls.train).values()}
    assert len(starts) > 5
    for i, row in {**first, **second}.items(): assert 0 <= row[0] % 100 <= lens[i] - meta.len
    for x, _ in dls.valid:
        for i, row in zip(dls.valid.ids, x[:, 0]): assert row[0] % 100 == (lens[i] - meta.len)//2
        assert 'start' not in dls.valid.where
    again = make()
    again.train.set_epoch(1)
    assert same(crops(again.train), second)


def test_random_crops_by_the_general_path_and_at_inference(tmp_path, monkeypatch):
    rows = long_rows()
    meta = TSMetaDataset(rows, ragged=Ragged('fit', 12, side='random', value=-1, mask=True))
    ids = np.random.default_rng(0).permutation(len(meta))
    quick = meta.gather(ids, 9)[0]
    monkeypatch.setattr(gather_module, 'HAS_NUMBA', False)
    assert np.array_equal(quick, meta.gather(ids, 9)[0])
    monkeypatch.undo()
    assert np.array_equal(pickle.loads(pickle.dumps(meta)).gather(ids, 9)[0], quick)
    for i, x, (a, b) in zip(ids, quick, meta.gather.steps_taken(ids, 9)):
        w = meta.where([i]).iloc[0]
        full = rows[w['name']][0][w['row']][0]
        if len(full) >= 12: assert b - a == 12 and np.array_equal(x, [full[a:b], np.ones(12)])
        else:
            at = -((len(full) - 12)//2)
            assert np.array_equal(x[0], np.r_[np.full(at, -1), full, np.full(12 - at - len(full), -1)]) and x[1].sum() == len(full)
    assert "side='random'" in repr(meta) and meta.summary().cropped.sum() == sum(max(0, r.shape[1] - 12) for rs, _ in rows.values() for r in rs)
    dls = meta.split(tsmeta.all.EachSplitter(.25)).dataloaders(bs=8, seed=1, device='cpu')
    learn = Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 2)), path=tmp_path)
    learn.export('m.pkl')
    again = load_learner(tmp_path/'m.pkl')
    assert repr(again.dls.train.dataset.schema.policies.ragged) == "Ragged('fit', len=12, side='random', value=-1, mask=True)"
    table = again.predict_table(data=TSMetaDataset([rows['odd'][0]], ragged='pad'), with_input=True)
    for x, full in zip(table.input, rows['odd'][0]):
        at = (full.shape[1] - 12)//2
        assert x[0, max(0, -at)] == full[0, max(0, at)]
    x = learn.predict_table(0, with_input=True)
    assert all(np.array_equal(o, meta[int(i)][0]) for o, i in zip(x.input, dls.train.dataset.ids()))
    for bad in ('pad', 'bucket'):
        with pytest.raises(ValueError, match="which Ragged..%s'. does not do" % bad): Ragged(bad, side='random')


def test_resampled_recordings_take_bounded_memory(monkeypatch):
    rng = np.random.default_rng(0)
    recs = [rng.normal(size=(2, 400)).astype('f4') for _ in range(12)]
    meta = TSMetaDataset.from_recordings(recs, window=10, info=dict(rate=[20.]*12), resample=10., ragged=Ragged('pad', 12))
    monkeypatch.setattr(OpenDatasets, 'max_bytes', 4000)
    ids = rng.permutation(len(meta))
    for part in np.split(ids, 8):
        x = meta.gather(part)[0]
        for row, i in zip(x, part):
            d, w = divmod(int(i), 20)
            want = resample_poly(recs[d].astype('f8'), 1, 2, axis=-1, padtype='line')[:, w*10:w*10 + 10]
            assert np.allclose(row, np.pad(want, ((0, 0), (0, 2))), atol=1e-5)
        assert 0 < meta.gather.opened.made <= 4000 and len(meta.gather.opened.lazy) == 2


@pytest.mark.parametrize('policies', [{}, dict(missing='mean'), dict(missing='linear', ragged=Ragged('pad', 12)), dict(missing=Missing('median', mask=True)), dict(missing='ffill', per_variable=True)], ids=str)
@pytest.mark.parametrize('where', ['memory', 'files'])
def test_recordings_are_resampled_once_while_they_are_kept(tmp_path, monkeypatch, policies, where):
    rng, calls = np.random.default_rng(0), []
    recs = [rng.normal(size=(2, 400)).astype('f4') for _ in range(6)]
    for d, r in enumerate(recs):
        r[0, 300:] = np.nan
        np.save(tmp_path/f'{d}.npy', r)
    given = recs if where == 'memory' else [str(tmp_path/f'{d}.npy') for d in range(6)]
    meta = TSMetaDataset.from_recordings(given, window=10, info=dict(rate=[20.]*6), resample=10., **policies)
    ids, slow = rng.permutation(len(meta)), align.resampled
    want = np.concatenate([s.read(np.arange(len(s))) if s.open()[0] is None else s.open()[0] for s in meta.datasets])[ids]
    def counted(x, up, down):
        calls.append(1)
        return slow(x, up, down)
    monkeypatch.setattr(align, 'resampled', counted)
    gather = Gather(meta.gather.sources, meta.gather.targets)
    def check(gather): assert np.array_equal(np.concatenate([gather(p)[0] for p in np.array_split(ids, 9)]), want, equal_nan=True)
    check(gather), check(gather)
    assert len(calls) == 6
    if 'per_variable' in policies: return
    other = pickle.loads(pickle.dumps(gather))
    check(other)
    assert len(calls) == 12 and gather.opened.made == 6*2*200*4
    few = Gather(pickle.loads(pickle.dumps(gather.sources)), gather.targets, max_open=2)
    check(few)
    assert len(few.opened.lazy) == 2 and 12 + 6 < len(calls) <= 12 + 9*6
    monkeypatch.setattr(OpenDatasets, 'max_bytes', 4000)
    check(tight := Gather(pickle.loads(pickle.dumps(gather.sources)), gather.targets))
    assert 0 < tight.opened.made <= 4000


def test_new_rows_are_resampled_where_their_rate_is_known(tmp_path):
    rng = np.random.default_rng(0)
    X = {n: (rng.normal(size=(12, 2, k)).astype('f4'), ['u', 'v']*6) for n, k in (('a', 40), ('b', 20))}
    meta = TSMetaDataset(X, info=dict(rate=[20., 10.]), resample=10.)
    dls = meta.split(tsmeta.all.EachSplitter(.25)).dataloaders(bs=8, device='cpu')
    Learner(dls, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(40, 2)), path=tmp_path).export('m.pkl')
    again, new = load_learner(tmp_path/'m.pkl'), rng.normal(size=(3, 2, 40)).astype('f4')
    table = again.predict_table(data=TSMetaDataset([new], info=dict(rate=[20.])), with_input=True)
    assert np.allclose(np.stack(table.input), resample_poly(new.astype('f8'), 1, 2, axis=-1, padtype='line'), atol=1e-5)
    with pytest.raises(ValueError, match='of new rows too: TSMetaDataset.X, info='): again.predict_table(data=new)


def test_the_summary_tells_of_missing_values_and_rates():
    X = {n: np.arange(24.).reshape(3, 2, 4) + k for k, n in enumerate('abc')}
    X['b'][0, 1, 2:] = X['b'][2, 0, 0] = np.nan
    got = TSMetaDataset(X, missing=dict(b='mean', **{'*': 'keep'})).summary()
    assert got.nans.tolist() == [0, 3, 0] and got.missing.tolist() == ["'keep'", "'mean'", "'keep'"]
    assert TSMetaDataset(X, missing='mask').summary().nans.tolist() == [0, 3, 0] and 'nans' not in TSMetaDataset(X).summary()
    assert TSMetaDataset(X, missing=0).split('train[:2]', 'train[2:]').train.summary().nans.tolist() == [0, 3, 0]
    recs = TSMetaDataset.from_recordings({n: x.reshape(2, 12) for n, x in X.items()}, 4, missing=0.)
    assert recs.summary().nans[1] == 3
    rates = TSMetaDataset(X, info=dict(rate=[4, 4, 4]), resample=2)
    assert rates.summary().resampled_to.tolist() == [2]*3 and 'resample=2' in repr(rates)
    assert 'missing' in TSMetaDataset(X, missing=0, per_variable=True, var_names=['u', 'v']).summary()
