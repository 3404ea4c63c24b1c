"Statistics of datasets and groups against numpy, and the transforms that use them, through loaders, training, export and streams."
import pickle

import fastai.callback.progress  # brings no_bar
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner, load_learner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.splits.index import View
from tsmeta.sources.align import Ragged
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.sources.policies import Vars
from tsmeta.data.transforms import MinMaxScaleByDataset, RobustScaleByDataset, StandardizeByDataset
from tsmeta.splits.splitters import EachSplitter
from tsmeta.data.transforms import moments, quartiles
from tsmeta.load.stream_loader import TSStreamLoader
from tsmeta.sources.recordings import Times
import tsmeta.train.predict, tsmeta.data.open, tsmeta.store.pack, tsmeta.data.dataset


def values_of(meta, d):
    "The values of a dataset that a set covers, each time step once: `(vars, n)`, slowly and plainly"
    s, rows = meta.datasets[d], np.unique(meta.mapping[meta.mapping[:, 0] == d][:, 1])
    if s.windowed and hasattr(s, 'recording'):
        steps = sorted({t for r in rows for t in range(r*s.stride, r*s.stride + s.window)})
        return np.asarray(s.recording(), np.float64)[:, steps]
    x = s.open()[0]
    return np.asarray(s.read(rows) if x is None else x[rows], np.float64).transpose(1, 0, 2).reshape(s.shape[0], -1)


@st.composite
def sets(draw):
    "Parts of metadatasets of arrays or recordings, of any dtype, with holes"
    rng = np.random.default_rng(draw(st.integers(0, 2**32-1)))
    n, nv, windowed = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.booleans())
    dtype = draw(st.sampled_from(['f4', 'f8', 'i2', 'u1', '?', 'f2', '>f4', '>f8', '>i2']))
    def numbers(*shape):
        x = rng.normal(draw(st.sampled_from([0, 1e4])), 3, size=shape).clip(0 if dtype == 'u1' else -np.inf).astype(dtype)
        if x.dtype.kind == 'f' and draw(st.booleans()): x[rng.random(shape) < .3] = np.nan
        return x
    if windowed:
        w, stride = draw(st.integers(1, 6)), draw(st.integers(1, 8))
        meta = TSMetaDataset.from_recordings([numbers(nv, draw(st.integers(w, 30))) for _ in range(n)], window=w, stride=stride)
    else: meta = TSMetaDataset([numbers(draw(st.integers(1, 6)), nv, 4) for _ in range(n)])
    if draw(st.booleans()): return meta
    ids = rng.integers(0, len(meta), draw(st.integers(1, 12)))
    return meta.part(View(ids, len(meta)) if draw(st.booleans()) else slice(0, int(ids[0])+1))


@settings(max_examples=120, deadline=None)
@given(sets())
def test_moments_and_quartiles_are_those_of_numpy(meta):
    found, q = moments(meta), quartiles(meta)
    for d in range(len(meta.names)):
        for v, a in enumerate(values_of(meta, d)):
            ok = a[~np.isnan(a)]
            assert found.n[d, v] == len(ok) and found.missing[d, v] == len(a) - len(ok)
            if not len(ok): assert np.isnan(found.mean[d, v]) and np.isnan(q[d, v]).all(); continue
            scale = max(1, abs(ok).max())
            assert abs(found.mean[d, v] - ok.mean()) < 1e-11*scale
            assert abs(found.std[d, v] - ok.std()) < 1e-9*scale
            assert (found.low[d, v], found.high[d, v]) == (ok.min(), ok.max())
            np.testing.assert_allclose(q[d, v], np.percentile(ok, [25, 50, 75]))


@settings(max_examples=40, deadline=None)
@given(sets(), st.data())
def test_groups_pool_exactly(meta, data):
    codes = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=len(meta.names), max_size=len(meta.names))))
    found = moments(meta).pooled(codes, 3)
    for g in range(3):
        of = [values_of(meta, d) for d in np.flatnonzero(codes == g)]
        for v in range(meta.vars):
            a = np.concatenate([o[v] for o in of]) if of else np.zeros(0)
            a = a[~np.isnan(a)]
            assert found.n[g, v] == len(a)
            if len(a):
                np.testing.assert_allclose(found.mean[g, v], a.mean(), rtol=1e-11, atol=1e-11)
                np.testing.assert_allclose(found.std[g, v], a.std(), rtol=1e-8, atol=1e-8*max(1, abs(a).max()))


def test_a_large_offset_loses_no_digits():
    x = 1e8 + np.random.default_rng(0).normal(size=(400, 1, 100))
    np.testing.assert_allclose(moments(TSMetaDataset([x])).std[0, 0], x.std(), rtol=1e-9)


def test_many_values_are_sampled_evenly():
    x = np.random.default_rng(0).normal(size=(5000, 1, 20))
    np.testing.assert_allclose(quartiles(TSMetaDataset([x]), most=5000)[0, 0], np.percentile(x, [25, 50, 75]), atol=.05)


def test_files_and_stores_have_the_statistics_of_their_arrays(tmp_path):
    rng, X = np.random.default_rng(0), {}
    for k in range(3): X[f's{k}'] = rng.normal(k, k+1, size=(5+k, 2, 7)).astype(np.float32); np.save(tmp_path/f's{k}.npy', X[f's{k}'])
    plain, files = TSMetaDataset(X), TSMetaDataset.open(str(tmp_path/'*.npy'))
    stored = files.pack(tmp_path/'store')
    for other in (files, stored): np.testing.assert_allclose(moments(other).std, moments(plain).std, rtol=1e-12)
    recs = TSMetaDataset.from_recordings({n: x[0] for n, x in X.items()}, window=3, stride=1)
    np.testing.assert_allclose(moments(recs.pack(tmp_path/'walks')).mean, moments(recs).mean, rtol=1e-12)


# --- transforms

def shops(n=4, rows=30, kind='class', seed=0):
    rng = np.random.default_rng(seed)
    X = {f'shop{d}': rng.normal(10.**d, 10.**d/3, size=(rows+d, 2, 12)).astype(np.float32) for d in range(n)}
    return TSMetaDataset({n: (x, rng.choice(['a', 'b'], len(x))) for n, x in X.items()}, info=pd.DataFrame(dict(town=['Ulm', 'Ulm', 'Bonn', 'Bonn'][:n])))


@pytest.mark.parametrize('kind', [StandardizeByDataset, RobustScaleByDataset, MinMaxScaleByDataset])
@pytest.mark.parametrize('groups', [None, 'town', 'all', 'row'])
@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_scaled_by_the_dataset_of_each_row(kind, groups, workers):
    meta = shops()
    mds = TSMetaDatasets(meta, EachSplitter(.3))
    dls = mds.dataloaders(bs=16, batch_tfms=kind(groups=groups), seed=1, num_workers=workers, device='cpu')
    names = np.array({'town': ['Bonn' if d > 1 else 'Ulm' for d in range(4)], 'all': ['all']*4}.get(groups, list(map(str, range(4)))))
    centre = {StandardizeByDataset: lambda a: (a.mean(-1), a.std(-1)), MinMaxScaleByDataset: lambda a: (a.min(-1), a.max(-1) - a.min(-1)),
              RobustScaleByDataset: lambda a: (np.percentile(a, 50, -1), np.percentile(a, 75, -1) - np.percentile(a, 25, -1))}[kind]
    known = {g: centre(np.concatenate([values_of(mds.train, d) for d in np.flatnonzero(names == g)], 1)) for g in set(names)}
    for dl in dls:
        for x, y in dl:
            ds, raw = meta.index.locate(dl.ids)[0], meta[dl.ids][0].numpy().astype(np.float64)
            at, width = map(np.stack, zip(*[centre(r) if groups == 'row' else known[names[d]] for r, d in zip(raw, ds)]))
            np.testing.assert_allclose(x.numpy(), (raw - at[..., None])/width[..., None], rtol=2e-4, atol=2e-4)
            assert type(x) is type(meta[0][0])


def test_statistics_know_nothing_of_validation():
    meta = shops()
    mds = TSMetaDatasets(meta, EachSplitter(.3))
    tfm = StandardizeByDataset()
    mds.dataloaders(bs=16, batch_tfms=tfm, device='cpu')
    np.testing.assert_allclose(tfm._at[..., 0], moments(mds.train).mean, rtol=1e-6)
    assert not np.allclose(tfm._at[..., 0], moments(meta).mean, rtol=1e-6)


@pytest.mark.parametrize('unseen,like', [('own', None), ('all', 'all'), ('town', 'town')])
def test_datasets_never_trained_on(unseen, like):
    meta = shops()
    train = meta.subset(range(meta.index.starts[3]))
    tfm = StandardizeByDataset(unseen=unseen, first=None).fit(train)
    rows = np.arange(meta.index.starts[3], meta.index.starts[4])
    got = tfm(meta[rows])[0].numpy()
    m = moments(meta.part(rows)) if unseen == 'own' else moments(train).pooled(np.where([like == 'all', like == 'all', True, True], 0, -1), 1)
    at, std = (o[3] if unseen == 'own' else o[0] for o in (m.mean, m.std))
    np.testing.assert_allclose(got, (meta[rows][0].numpy() - at[:, None])/std[:, None], rtol=1e-3, atol=1e-3)


def test_own_statistics_of_the_first_rows_only():
    meta = shops()
    tfm = StandardizeByDataset(first=5).fit(meta.subset(range(meta.index.starts[3])))
    rows = np.arange(meta.index.starts[3], meta.index.starts[4])
    m = moments(meta.part(rows[:5]))
    np.testing.assert_allclose(tfm(meta[rows[::-1]])[0].numpy()[::-1], (meta[rows][0].numpy() - m.mean[3][:, None])/m.std[3][:, None], rtol=1e-3)


def test_constant_and_missing_values():
    X = np.ones((4, 2, 6), np.float32)
    X[:, 1] = np.nan
    meta = TSMetaDataset([X, np.random.default_rng(0).normal(size=(4, 2, 6)).astype(np.float32)])
    tfm = StandardizeByDataset().fit(meta)
    x = tfm(meta[[0, 5]])[0]
    assert (x[0, 0] == 0).all() and x[0, 1].isnan().all() and not x[1].isnan().any()
    lost = TSMetaDataset({'gone': np.full((3, 2, 6), np.nan, np.float32)})
    with pytest.raises(ValueError, match="no values for 'gone'"): tfm(lost[[0]])


def test_mistakes_are_explained():
    meta = shops()
    with pytest.raises(ValueError, match='its info has town'): meta.dataloaders(bs=8, batch_tfms=StandardizeByDataset(groups='city'))
    with pytest.raises(ValueError, match='no statistics yet'): StandardizeByDataset()(meta[[0, 1]])
    tfm = StandardizeByDataset().fit(meta)
    b = meta[[0, 1, 2]]
    b[0].ids = b[0].ids[:1]
    with pytest.raises(ValueError, match='3 rows carries 1 ids'): tfm(b)
    with pytest.raises(ValueError, match='first=0'): StandardizeByDataset(first=0)
    other = TSMetaDataset([np.zeros((2, 3, 12))])
    with pytest.raises(ValueError, match='3 variables, but the statistics are of 2'): tfm(other[[0]])


def test_in_training_export_prediction_and_decoding(tmp_path):
    meta = shops()
    mds = TSMetaDatasets(meta, EachSplitter(.3))
    dls = mds.dataloaders(bs=16, batch_tfms=StandardizeByDataset(groups='town'), seed=1, device='cpu')
    torch.manual_seed(0)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(24, 2)), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    with learn.no_bar(): want = learn.get_preds()[0]
    x, y = dls.one_batch()
    np.testing.assert_allclose(dls.train.decode((x, y))[0], meta[dls.train.ids][0], rtol=1e-3)
    dls.show_batch()
    learn.export(tmp_path/'m.pkl')
    again = load_learner(tmp_path/'m.pkl')
    with again.no_bar():
        assert torch.equal(again.get_preds(dl=again.dls.test_dl(mds.valid))[0], want)
        new = again.dls.test_dl(np.full((3, 2, 12), 7, np.float32))
        assert torch.isfinite(again.get_preds(dl=new)[0]).all()


def test_forecasts_are_scaled_and_put_back():
    t = np.arange(80)
    meta = TSMetaDataset.from_recordings({f's{k}': (np.sin(t/5) + k)[None]*10**k for k in range(4)}, window=12, horizon=4)
    dls = TSMetaDatasets(meta, EachSplitter(.25)).dataloaders(bs=8, batch_tfms=StandardizeByDataset(), seed=0, device='cpu')
    x, y = dls.one_batch()
    assert y.abs().max() < 5
    np.testing.assert_allclose(dls.train.after_batch.decode((x, y))[1], meta[dls.train.ids][1], rtol=1e-3, atol=1e-3)


def test_streams_are_scaled_too():
    meta = shops()
    with meta.stream(bs=16, shuffle=True, seed=3) as s:
        tfm = StandardizeByDataset().fit(meta)
        for (x, y), (a, b) in zip(TSStreamLoader(s, device='cpu', batch_tfms=tfm), TSMetaDataLoader(meta, bs=16, shuffle=True, seed=3, batch_tfms=tfm)): assert torch.equal(x, a)


def test_an_export_of_ten_thousand_datasets_is_small():
    X = np.random.default_rng(0).normal(size=(20_000, 1, 4)).astype(np.float32)
    tfm = StandardizeByDataset().fit(TSMetaDataset([X[i:i+2] for i in range(0, 20_000, 2)]))
    tfm(TSMetaDataset({'new': X[:3]})[[0]])
    assert len(pickle.dumps(tfm)) < 500_000 and len(tfm._at) == 10_001 and len(pickle.loads(pickle.dumps(tfm))._at) == 10_000


@pytest.mark.parametrize('how', [dict(times=Times([np.r_[:25, 100:135], np.arange(60)], max_gap=1)), dict(tfms=[lambda x: x[:, ::2], None]), dict(missing='mean'),
                                 dict(vars='union', var_names=dict(a=['u', 'v'], b=['v', 'w'])), dict(resample=10., info=dict(rate=[10., 20.]))])
def test_recordings_with_gaps_policies_and_transforms(how):
    rng = np.random.default_rng(0)
    recs = {n: rng.normal(k, 1, (2, 60)) for k, n in enumerate('ab')}
    meta = TSMetaDataset.from_recordings(recs, window=10, **how)
    rows = [meta.gather(np.arange(a, b))[0].astype(float) for a, b in zip(meta.index.starts, meta.index.starts[1:])]
    want = np.array([x.mean((0, 2)) for x in rows])
    if 'vars' in how: want[0, 2] = want[1, 0] = np.nan
    np.testing.assert_allclose(moments(meta).mean, want, atol=1e-5)
    for x, *y in meta.dataloaders(bs=4, batch_tfms=StandardizeByDataset(), device='cpu').train: assert torch.isfinite(x).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32-1), st.sampled_from(['pad', 'fit', 'crop', 'bucket']), st.sampled_from(['right', 'left', 'center']), st.booleans(), st.booleans(),
       st.sampled_from(['keep', 'mask', 'mean', 5.]), st.sampled_from([None, 'all', 'row']), st.sampled_from([StandardizeByDataset, RobustScaleByDataset, MinMaxScaleByDataset]))
def test_only_what_was_measured_counts_and_changes(seed, how, side, mask, union, missing, groups, kind):
    rng, value, absent = np.random.default_rng(seed), -7., 3.
    side, have = 'right' if how == 'bucket' else side, [list('ab'), list('bca')] if union else [list('ab'), list('ba')]
    rows = [[rng.normal(d, d+1, (len(h), n)).astype(np.float32) for n in rng.integers(3, 12, 5)] for d, h in enumerate(have)]
    if missing != 'keep': rows = [[np.where(rng.random(r.shape) < .2, np.nan, r).astype(np.float32) for r in rs] for rs in rows]
    ragged = Ragged(how, 7 if how == 'fit' else None, side, value, mask)
    meta = TSMetaDataset(rows, ragged=ragged, var_names=have, missing=missing, vars=Vars('union', absent, mask) if union else 'strict')
    tfm = kind(groups=groups) if groups == 'row' else kind(groups=groups).fit(meta)
    x = tfm(meta[:])[0].numpy().astype(float)
    raw, names, width = meta[:][0].numpy().astype(float), meta.schema.var_names, meta.len
    centre = {StandardizeByDataset: lambda a: (a.mean(), a.std()), MinMaxScaleByDataset: lambda a: (a.min(), np.ptp(a)),
              RobustScaleByDataset: lambda a: (np.median(a), np.percentile(a, 75) - np.percentile(a, 25))}[kind]
    def shown(r):
        n = len(r)
        at = {'right': 0, 'left': n - width, 'center': (n - width)//2}[side]
        return at, r[max(0, at):max(0, at + width)]
    def real(d, i, v):
        return shown(rows[d][i][have[d].index(v)])[1].astype(float) if v in have[d] else np.zeros(0)
    for k in range(10):
        d, i = divmod(k, 5)
        for j, v in enumerate(names):
            of = [(d, i)] if groups == 'row' else [(e, o) for e in range(2) if groups == 'all' or e == d for o in range(5)]
            a = np.concatenate([real(e, o, v) for e, o in of]) if len(v) == 1 else np.zeros(0)
            if len(v) > 1 or v not in have[d]: assert np.array_equal(x[k, j], raw[k, j]); continue
            if groups == 'row' and missing == 'mean' or groups == 'row' and missing == 5.: a = np.concatenate([filled(real(d, i, v), rows[d][i][have[d].index(v)], missing)])
            a = a[~np.isnan(a)]
            at, sd = centre(a) if len(a) else (0, 1)
            first = max(0, -shown(rows[d][i][0])[0])
            inside = np.zeros(width, bool)
            inside[first:first + len(real(d, i, v))] = True
            if missing == 'mask': inside[inside] = ~np.isnan(real(d, i, v))
            np.testing.assert_allclose(x[k, j], np.where(inside, (raw[k, j] - at)/(sd or 1), raw[k, j]), rtol=1e-3, atol=1e-3)


def filled(shown, row, how):
    return np.where(np.isnan(shown), 5. if how == 5. else 0. if np.isnan(row).all() else np.nanmean(row.astype(float)), shown)


@pytest.mark.parametrize('value', [0.1, 1/3, 1e6 + .1, 3e-7, -7.7])
@pytest.mark.parametrize('groups', ['row', None])
def test_rows_that_never_change_become_zero(value, groups):
    X = np.full((4, 2, 50), value, np.float32)
    X[:, 1, 20:] = np.nan
    meta = TSMetaDataset([X])
    tfm = StandardizeByDataset(groups=groups) if groups == 'row' else StandardizeByDataset(groups=groups).fit(meta)
    x = tfm(meta[:])[0].numpy()
    assert (x[:, 0] == 0).all() and (x[:, 1, :20] == 0).all()


@pytest.mark.parametrize('groups', [None, 'row'])
@pytest.mark.parametrize('how', [dict(ragged='pad'), dict(ragged=Ragged('pad', mask=True), vars='union'), dict(ragged='pad', missing='mask'), dict(missing='mean')], ids=str)
def test_models_trained_on_a_store_of_filled_rows_scale_new_rows_as_those(groups, how, tmp_path):
    rng = np.random.default_rng(0)
    X = {n: rng.normal(k, k+1, (12, 2 if 'vars' in how and k else 3, 7+k if 'ragged' in how else 7)) for k, n in enumerate('ab')}
    if 'missing' in how:
        for x in X.values(): x[rng.random(x.shape) < .1] = np.nan
    names = [list('uvw'), list('vu') if 'vars' in how else list('uvw')]
    make = lambda: TSMetaDataset({n: (x, np.arange(12) % 2) for n, x in X.items()}, var_names=names, **how)
    make().pack(tmp_path/'store')
    store = TSMetaDataset.open(tmp_path/'store')
    dls = TSMetaDatasets(store, dict(train=range(0, 24, 2), valid=range(1, 24, 2))).dataloaders(bs=8, batch_tfms=StandardizeByDataset(groups=groups), device='cpu')
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(dls.vars*dls.len, 2)))
    learn.export(tmp_path/'l.pkl')
    again = load_learner(tmp_path/'l.pkl')
    with learn.no_bar(), again.no_bar(): want, one, other = learn.predict_table(data=store), learn.predict_table(data=make()), again.predict_table(data=make())
    for found in (one, other): np.testing.assert_allclose(found.loss, want.loss, rtol=1e-6)
    n = store.schema.policies.n_masks
    if n:
        x = learn.dls.valid.new().one_batch()[0][:, -n:]
        assert set(np.unique(x.numpy())) <= {0, 1}
