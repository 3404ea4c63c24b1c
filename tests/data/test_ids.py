"Ids ride on the batch: through transforms, loaders, processes and threads, and back again in decode."
import copy
import inspect
import multiprocessing
import pickle
import threading

import fastai.callback.progress  # noqa: F401
import numpy as np
import pytest
import torch
from fastai.learner import Learner
from fasttransform import ItemTransform
from fasttransform import Transform
from torch import nn
from tsmeta.all import DatasetInput
from tsmeta.all import OwnLabels
from tsmeta.all import StandardizeByDataset
from tsmeta.all import TensorSeries
from tsmeta.all import TSMetaDataLoader
from tsmeta.all import TSMetaDataset
from tsmeta.data.ids import batch_ids
from tsmeta.data.ids import RowIds

MEANS = dict(low=0, mid=100, high=1000)


def metadataset(seed=0, n=24, names=MEANS):
    "Three datasets whose levels are far apart, so that a wrong dataset is seen"
    rng = np.random.default_rng(seed)
    return TSMetaDataset({
        name: (rng.normal(MEANS[name], 1 + MEANS[name]/20, (n, 3, 16)).astype(np.float32), ['x', 'y']*(n//2))
        for name in names
    })


def loaders(meta, tfms=None, **kwargs):
    rng = np.random.default_rng(1)
    order = rng.permutation(len(meta))
    how = dict(bs=16, seed=3, batch_tfms=tfms, device='cpu', drop_last=False, **kwargs)
    return meta.split(order[:48], order[48:]).dataloaders(**how)


def series(meta, ids):
    "Return x of these rows as a `TensorSeries` with their ids"
    x = torch.from_numpy(meta.gather(np.asarray(ids))[0]).as_subclass(TensorSeries)
    x.ids = RowIds(ids, meta)
    return x


def rows(meta, ids): return torch.from_numpy(meta.gather(np.asarray(ids, np.int64))[0])
def plain(x): return x.detach().as_subclass(torch.Tensor)


# Loaders

@pytest.mark.parametrize('workers', [0, 2])
def test_batches_carry_ids_and_decode_later(workers):
    meta = metadataset()
    dls = loaders(meta, StandardizeByDataset(), num_workers=workers)
    for dl in dls:
        batches = [(b, dl.ids.copy()) for b in dl]
        assert len(batches) > 1
        for b, ids in reversed(batches):
            assert np.array_equal(b[0].ids, ids) and b[0].ids.meta is dl.dataset
            assert np.array_equal(np.stack(b[0].ids.locate(), 1), meta.mapping[ids])
            assert plain(b[0]).abs().max() < 10
            assert torch.allclose(plain(dl.after_batch.decode(b)[0]), rows(meta, ids), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('groups', [None, 'all', 'row'])
def test_two_metadatasets_decode_by_their_own(groups):
    a, b = metadataset(), metadataset(1, names=['high', 'low'])
    scale = StandardizeByDataset(groups=groups)
    one, two = (TSMetaDataLoader(m, bs=10, shuffle=True, seed=2, batch_tfms=scale, device='cpu') for m in (a, b))
    x, y = next(iter(one)), next(iter(two))
    for meta, batch in [(a, x), (b, y), (a, x)]:
        ids = np.asarray(batch[0].ids)
        assert torch.allclose(plain(scale.decode(batch)[0]), rows(meta, ids), rtol=1e-3, atol=1e-3)


def test_a_stream_carries_ids():
    from tsmeta.all import TSMetaDataLoaders
    meta = metadataset()
    dls = TSMetaDataLoaders.from_streams(meta.stream(bs=16, shuffle=True, seed=1), batch_tfms=StandardizeByDataset(), device='cpu')
    batches = [(b, dls.train.ids.copy()) for b in dls.train]
    for b, ids in reversed(batches):
        assert np.array_equal(b[0].ids, ids)
        assert torch.allclose(plain(dls.train.after_batch.decode(b)[0]), rows(meta, ids), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('x_type', ['TensorSeries', 'TSTensor'])
def test_inputs_of_predictions_are_decoded(x_type, monkeypatch, tmp_path):
    import tsmeta.data.dataset as dataset
    core = pytest.importorskip('tsai.data.core')
    monkeypatch.setattr(dataset, 'series_type', lambda: TensorSeries if x_type == 'TensorSeries' else core.TSTensor)
    meta = metadataset()
    scale = StandardizeByDataset()
    dls = loaders(meta, scale)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), path=tmp_path)
    with learn.no_bar(): inputs = learn.get_preds(dl=dls.train, with_input=True)[0]
    next(iter(dls.valid))
    want = rows(meta, dls.train.dataset.ids())
    assert type(inputs).__name__ == x_type and len(inputs) == 48
    if x_type == 'TSTensor':
        with pytest.raises(ValueError, match='Pass ids='): scale.decode((inputs,))
        found = scale.decode((inputs,), ids=dls.train.dataset.ids())[0]
    else:
        assert np.array_equal(inputs.ids, dls.train.dataset.ids())
        found = scale.decode((inputs,))[0]
    assert torch.allclose(plain(found), want, rtol=1e-3, atol=1e-3)


def test_own_labels_read_the_ids_of_the_batch():
    X = np.zeros((8, 1, 4), np.float32)
    meta = TSMetaDataset(dict(a=(X, ['p', 'q']*4), b=(X, ['r', 's']*4)), labels='namespaced')
    learn = Learner(meta.split(range(16), [0, 8], leak='allow').dataloaders(bs=4, device='cpu'),
                    nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), cbs=OwnLabels())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    with learn.no_bar(): probs = learn.get_preds(dl=learn.dls.train)[0]
    own = np.array([[v.startswith(n) for v in meta.vocab] for n in meta.names])
    assert np.allclose(probs.numpy()[~own[meta.mapping[learn.dls.train.dataset.ids(), 0]]], 0)


# Transforms of tsai

def tsai_transforms():
    "Return all batch transforms of tsai that can be made with defaults"
    pytest.importorskip('tsai')
    import tsai.data.preprocessing
    import tsai.data.transforms
    found = {}
    for module in (tsai.data.transforms, tsai.data.preprocessing):
        for name, cls in vars(module).items():
            if not inspect.isclass(cls) or not issubclass(cls, Transform) or cls.__module__ != module.__name__: continue
            params = inspect.signature(cls.__init__).parameters
            try: found[name] = cls(**{k: v for k, v in dict(magnitude=.5, p=1.).items() if k in params})
            except (TypeError, ImportError): pass
    return found


class Seen(ItemTransform):
    "Keep x as it comes by"
    order = 50
    def encodes(self, b):
        self.x = plain(b[0]).clone()
        return b


def test_every_transform_of_tsai_before_the_scales():
    meta, ran = metadataset(), 0
    stored = StandardizeByDataset().fit(meta)
    for name, tfm in tsai_transforms().items():
        tfm.order, seen, scale = 1, Seen(), pickle.loads(pickle.dumps(stored))
        dl = loaders(meta, [tfm, seen, scale], do_setup=name.startswith('TS')).train
        try: batches = [(b, dl.ids.copy(), seen.x) for b in dl]
        except ValueError as e:
            assert 'variables' in str(e), f'{name}: {e}'
            continue
        except IndexError:
            assert name == 'OneHot'
            continue
        for (x, _), ids, before in reversed(batches):
            assert np.array_equal(x.ids, ids), name
            ds = meta.mapping[ids, 0]
            want = np.stack([scaled(scale, before[[i]], meta, d) for i, d in enumerate(ds)])
            assert np.allclose(plain(x), want, rtol=1e-3, atol=1e-3, equal_nan=True), name
        ran += 1
    assert ran > 50


def scaled(scale, x, meta, d):
    "Scale one row by statistics worked out here"
    at = meta.gather(np.arange(meta.index.starts[d], meta.index.starts[d+1]))[0].astype(float)
    mean, std = at.mean((0, 2)), at.std((0, 2))
    return ((x[0].double().numpy() - mean[:, None])/std[:, None]).astype(np.float32)


# The tensor

def test_rows_of_a_series_keep_their_ids():
    meta = metadataset()
    ids = [5, 40, 70, 5, 12]
    x = series(meta, ids)
    r = np.arange(5)
    mask = np.array([True, False, True, True, False])
    kept = {
        'slice': (x[1:4], r[1:4]), 'backwards': (x[[4, 3, 0]], [4, 3, 0]), 'mask': (x[mask], r[mask]), 'bools': (x[mask.tolist()], r[mask]),
        'tensor': (x[torch.tensor([2, 2])], [2, 2]), 'mask tensor': (x[torch.from_numpy(mask)], r[mask]), 'variables': (x[:, 1:], r),
        'one variable': (x[:, 0], r), 'rows and steps': (x[[3, 1], :, ::2], [3, 1]), 'dots': (x[..., 3], r), 'pairs': (x[[3, 1], [0, 2]], [3, 1]),
        'flip': (x.flip(0), r[::-1]), 'flip all': (torch.flip(x, (-3, 2)), r[::-1]), 'flip steps': (x.flip(-1), r), 'dims': (x.flip(dims=[0]), r[::-1]),
        'roll': (x.roll(2, 0), np.roll(r, 2)), 'roll many': (torch.roll(x, (1, 3), (0, 2)), np.roll(r, 1)), 'roll steps': (x.roll(3, -1), r),
        'cat': (torch.cat([x[:2], x[4:]]), [0, 1, 4]), 'cat variables': (torch.cat([x, x], 1), r), 'cat plain': (torch.cat([x, torch.zeros(5, 1, 16)], 1), r),
        'clone': (x.clone(), r), 'deepcopy': (copy.deepcopy(x), r), 'copy': (copy.copy(x), r), 'detach': (x.detach(), r), 'double': (x.double(), r),
        'sum': (x + 1, r), 'both': (x*x.clone(), r), 'in place': (x.clone().mul_(2), r), 'where': (torch.where(x > 0, x, 0), r), 'meta': (x.to('meta'), r),
    }
    for name, (new, want) in kept.items():
        assert hasattr(new, 'ids'), f'{name}: no ids'
        assert np.array_equal(new.ids, np.array(ids)[want]), name
        assert new.ids.meta is meta, name
    assert np.array_equal(x.ids, ids)


def test_a_series_drops_ids_it_cannot_follow():
    meta = metadataset()
    x = series(meta, np.arange(3))[:, :, :3]
    order = torch.tensor([2, 0, 1])
    other = series(meta, [7, 8, 9])[:, :, :3]
    lost = dict(
        transpose=x.transpose(0, 1), permute=x.permute(2, 1, 0), sort=x.sort(0).values, index_select=x.index_select(0, order),
        gather=x.gather(0, torch.zeros(3, 3, 3, dtype=torch.long)), matmul=torch.ones(3, 3, 3) @ x, mean=x.mean(0), row=x[1], new_axis=x[None],
        after_axis=x[:, None], flat_roll=x.roll(1), mixed=x + x.flip(0), lerp=x.lerp(other, .5), others=torch.maximum(x, other),
        cat=torch.cat([x, other, torch.zeros(1, 3, 3)]), stack=torch.stack([x, x, x]), split=x.split(2)[0], unbind=x.unbind(1)[0],
        rot=torch.rot90(x, 1, (0, 1)), zeros=torch.zeros_like(x), flipud=torch.flipud(x), take=x[order[:, None], order], broadcast=x[:1] + torch.zeros(3, 3, 3),
        higher=x + torch.zeros(3, 1, 1, 1), cumsum=x.cumsum(0), shared=series(metadataset(2), np.arange(3))[:, :, :3] + x,
    )
    for name, new in lost.items(): assert not hasattr(new, 'ids'), f'{name}: {new.ids}'
    assert np.array_equal(x.ids, [0, 1, 2])


def test_a_changed_batch_is_decoded_row_by_row():
    meta = metadataset()
    scale = StandardizeByDataset().fit(meta)
    ids = np.array([50, 3, 30, 71, 0])
    x = scale((series(meta, ids),))[0]
    for new, want in [(x[[4, 0]], [4, 0]), (x.flip(0), [4, 3, 2, 1, 0]), (torch.cat([x[3:], x[:1]]), [3, 4, 0])]:
        assert torch.allclose(plain(scale.decode((new,))[0]), rows(meta, ids[want]), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match='carries no ids.*Pass ids='): scale.decode((x.sort(0).values,))
    found = scale.decode((x.sort(0).values,), ids=ids)[0]
    assert found.shape == x.shape and np.array_equal(found.ids, ids)


def test_rows_scaled_by_themselves_come_back_as_whole_batches():
    meta = metadataset()
    dl = TSMetaDataLoader(meta, bs=12, shuffle=True, seed=0, batch_tfms=StandardizeByDataset(groups='row'), device='cpu')
    batches = list(dl)
    for x, y in batches:
        assert torch.allclose(plain(dl.after_batch.decode((x, y))[0]), rows(meta, x.ids), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match='whole batch|Pass ids='): dl.after_batch.decode((batches[0][0][:3], batches[0][1][:3]))


def test_wrong_ids_are_errors():
    meta = metadataset()
    scale = StandardizeByDataset().fit(meta)
    x = rows(meta, [0, 1, 2])
    with pytest.raises(ValueError, match='Pass ids='): scale((x,))
    with pytest.raises(ValueError, match='Pass ids='): DatasetInput().fit(meta)((x,))
    x.ids = RowIds([0, 1], meta)
    with pytest.raises(ValueError, match='3 rows carries 2 ids.*Pass ids='): scale((x,))
    with pytest.raises(IndexError): scale((x,), ids=[0, 1, 10**6])
    assert torch.allclose(scale((x,), ids=[0, 1, 2])[0], plain(scale((series(meta, [0, 1, 2]),))[0]))


def test_variables_that_a_transform_added_are_an_error():
    meta = metadataset()
    scale = StandardizeByDataset().fit(meta)
    x = series(meta, [0, 1])
    with pytest.raises(ValueError, match='4 variables, but the statistics are of 3'): scale((torch.cat([x, x[:, :1]], 1),))


# Pickles, processes, threads

def test_pickled_batches_keep_ids_alone():
    meta = metadataset()
    scale = StandardizeByDataset().fit(meta)
    x = scale((series(meta, [60, 2]),))[0]
    again = pickle.loads(pickle.dumps(x))
    assert np.array_equal(again.ids, [60, 2]) and again.ids.meta is None
    assert len(pickle.dumps(x)) < 5000
    assert torch.allclose(plain(scale.decode((again,))[0]), rows(meta, [60, 2]), rtol=1e-3, atol=1e-3)
    other = StandardizeByDataset().fit(metadataset(4))
    with pytest.raises(ValueError, match='pickled or read in another process'): other.decode((again,))
    away = pickle.loads(pickle.dumps(scale))
    with pytest.raises(ValueError, match='pickled or read in another process'): away.decode((again,))
    assert torch.allclose(plain(away.decode((again,), ids=x.ids)[0]), rows(meta, [60, 2]), rtol=1e-3, atol=1e-3)


def test_batches_of_a_metadataset_carry_ids():
    meta = metadataset()
    part = meta.subset([70, 3, 30, 5])
    for new in (part[[2, 0]], part[2::-2], part[np.array([2, 0])], part[torch.tensor([2, 0])]):
        assert np.array_equal(new[0].ids, [30, 70])
        assert np.array_equal(part.mapping_idxs, meta.mapping[[30, 70]])
    assert np.array_equal(batch_ids(meta[:]), np.arange(72))


def test_mapping_idxs_is_of_each_thread():
    meta, found = metadataset(), {}
    meet = threading.Barrier(8)
    def read(k):
        ids = np.random.default_rng(k).integers(0, 72, 5)
        meta[ids]
        meet.wait()
        found[k] = np.array_equal(meta.mapping_idxs, meta.mapping[ids])
    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert found == dict.fromkeys(range(8), True) and meta.mapping_idxs is None


def read_some(meta): meta[[0, 1]]


def test_mapping_idxs_is_refused_after_other_processes_read():
    meta = metadataset()
    meta[[1, 2]]
    worker = multiprocessing.get_context('fork').Process(target=read_some, args=(meta.subset([0, 1]),))
    worker.start()
    worker.join()
    with pytest.raises(ValueError, match=r'x\.ids.*mds\.dataloaders\(\)'): meta.mapping_idxs
    sent = metadataset()
    again = pickle.loads(pickle.dumps(sent))
    with pytest.raises(ValueError, match=r'x\.ids.*mds\.dataloaders\(\)'): sent.mapping_idxs
    again[[4]]
    assert np.array_equal(again.mapping_idxs, again.mapping[[4]])


@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_own_workers_keep_mapping_idxs(context):
    meta = metadataset()
    dl = TSMetaDataLoader(meta, bs=16, shuffle=True, seed=1, num_workers=1, multiprocessing_context=context, device='cpu')
    for x, _ in dl: assert np.array_equal(meta.mapping_idxs, meta.mapping[x.ids])
    meta[[1]]
    assert np.array_equal(meta.mapping_idxs, [[0, 1]])


@pytest.mark.parametrize('workers', [0, 2])
def test_loaders_of_tsai(workers):
    core = pytest.importorskip('tsai.data.core')
    meta = metadataset()
    mds = meta.split(range(0, 72, 2), range(1, 72, 2))
    scale = StandardizeByDataset()
    dls = core.TSDataLoaders.from_dsets(mds.train, mds.valid, bs=12, num_workers=workers, shuffle_train=True, batch_tfms=[scale], device=torch.device('cpu'))
    for dl in dls:
        batches = list(dl)
        assert sorted(np.concatenate([x.ids for x, _ in batches])) == sorted(dl.dataset.ids())
        for x, _ in reversed(batches):
            assert plain(x).abs().max() < 10
            assert torch.allclose(plain(scale.decode((x,))[0]), rows(meta, x.ids), rtol=1e-3, atol=1e-3)
        if not workers: continue
        with pytest.raises(ValueError, match=r'x\.ids.*mds\.dataloaders\(\)'): dl.dataset.mapping_idxs
