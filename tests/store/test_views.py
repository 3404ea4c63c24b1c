"Labels and nested views: edflow's folders, checks at opening, batches for models with several inputs."
import os

import numpy as np
import pytest
import torch
import fastai.callback.progress
from fastai.learner import Learner
from hypothesis import given, settings
from hypothesis import strategies as st

import tsmeta.load.loader
import tsmeta.data.views
import tsmeta.data.open
from tsmeta.store.labels import LabelDataset, read_labels, register_loader, store_label_mmap
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.data.views import TSMetaView
from tsmeta.store.labels import register_base, sequence_index

DTYPES = ['int8', 'uint16', 'int64', 'float16', 'float32', 'float64', 'bool', '<U5', 'S4', '>f4', 'datetime64[s]', 'complex64']


def meta(n=12):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2, 8)).astype('float32')
    return TSMetaDataset(dict(a=(X[:n//2], list('uuvvww')[:n//2]), b=(X[n//2:], list('uuvvww')[:n - n//2]))), X


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('edflow', [False, True])
def test_labels_round_trip(tmp_path, dtype, edflow):
    a = np.arange(12).reshape(4, 3).astype(dtype)
    file = store_label_mmap(a, tmp_path, 'deep/ü x', edflow=edflow)
    labels = read_labels(tmp_path)
    assert labels['deep']['ü x'].dtype == a.dtype and np.array_equal(labels['deep/ü x'], a)
    before = open(file, 'rb').read()
    with pytest.raises(ValueError): labels['deep/ü x'][0] = a[1]
    editable = read_labels(tmp_path, 'c')
    editable['deep/ü x'][0] = a[3]
    assert open(file, 'rb').read() == before


@pytest.mark.parametrize('change', [-1, 1, -8, 8])
def test_raw_files_of_another_size_are_refused(tmp_path, change):
    file = store_label_mmap(np.arange(4), tmp_path, 'x', edflow=True)
    data = open(file, 'rb').read()
    open(file, 'wb').write(data[:change] if change < 0 else data + b'\0'*change)
    with pytest.raises(ValueError, match='its name promises 32'): read_labels(tmp_path)


@pytest.mark.parametrize('name', ['x-*-4-*-object.npy', 'x-*-4-*-O.npy', 'x-*-4-*-str.npy', 'x-*-4-*-evil().npy', 'x-*-99999999999x99999999999-*-int64.npy', 'x-*-4-*-V8.npy', 'x-*-4-*-i4,i4.npy'])
def test_strange_names_are_refused(tmp_path, name):
    (tmp_path/'labels').mkdir()
    (tmp_path/'labels'/name).write_bytes(b'\0'*32)
    with pytest.raises(ValueError): read_labels(tmp_path)


def test_objects_and_links_are_refused(tmp_path):
    (tmp_path/'labels').mkdir()
    np.save(tmp_path/'labels/x.npy', np.array([{}]), allow_pickle=True)
    with pytest.raises(TypeError, match='never unpickles'): read_labels(tmp_path)
    os.remove(tmp_path/'labels/x.npy')
    np.save(tmp_path/'out.npy', np.arange(3))
    (tmp_path/'labels/y.npy').symlink_to(tmp_path.parent/'elsewhere.npy')
    np.save(tmp_path.parent/'elsewhere.npy', np.arange(3))
    with pytest.raises(ValueError, match='link out of'): read_labels(tmp_path)


def test_loaders(tmp_path):
    np.save(tmp_path/'one.npy', np.ones(3))
    for k, v in {'x:np': ['one.npy']*2, 'c:category': np.array([1, 0]), 'plain': [1.5, 2.5]}.items(): store_label_mmap(v, tmp_path, k, edflow=True)
    (tmp_path/'meta.yaml').write_text('loader_kwargs: {c: {categories: [no, yes]}}\n')
    rows = LabelDataset(tmp_path)
    assert rows[0]['x'].tolist() == [1, 1, 1] and [r['c'] for r in rows[:]] == [True, False] and rows[1]['plain'] == 2.5
    register_loader('double', lambda values, root, by=2: lambda v: v*by)
    (tmp_path/'meta.yaml').write_text('loaders: {c: double, plain: double}\nloader_kwargs: {plain: {by: 3}}\n')
    assert LabelDataset(tmp_path)[0] | dict(x=0) == dict(x=0, c=2, plain=4.5)
    for text, said in [('loaders: {c: nothing}', 'Unknown loader'), ('loaders: {c: os.path.join}', 'would import code'), ('loaders: [c]', 'must map'), ('loaders: {z: np}', 'no such label'),
                       ('loader_kwargs: {c: {categories: [no]}}', 'has category 1'), ('loader_kwargs: {c: {wrong: 1}}', 'wrong'), ('- a', 'mapping'), ('loaders: {c: 3}', 'by text')]:
        (tmp_path/'meta.yaml').write_text(text)
        with pytest.raises(ValueError, match=said): LabelDataset(tmp_path)


@pytest.mark.parametrize('path', ['../secret.npy', '/etc/passwd', 'a/../../secret.npy', 'link.npy', '~/x.npy', ''])
def test_loaders_do_not_leave_their_folder(tmp_path, path):
    root = tmp_path/'d'
    np.save(tmp_path/'secret.npy', np.ones(3))
    store_label_mmap([path, path + ' '*3], root, 'x:np', edflow=True)
    (root/'link.npy').symlink_to(tmp_path/'secret.npy')
    with pytest.raises(ValueError): LabelDataset(root)[0]


@settings(max_examples=60, deadline=None)
@given(lens=st.lists(st.integers(1, 12), min_size=1, max_size=6), length=st.integers(1, 5), step=st.integers(1, 4), base_step=st.integers(1, 3), strategy=st.sampled_from(['raise', 'remove', 'reset']))
def test_sequence_index_is_what_a_loop_would_do(lens, length, step, base_step, strategy):
    ids = np.concatenate([np.arange(n) for n in lens])
    kept, span, want, at = ids.copy(), (length-1)*base_step + 1, [], 0
    for n in lens:
        if n >= span: want += [[at + s + k*base_step for k in range(length)] for s in range(0, n - span + 1, step)]
        elif strategy == 'reset': want.append([at + min(k*base_step, n-1) for k in range(length)])
        at += n
    if strategy == 'raise' and min(lens) < span:
        with pytest.raises(ValueError, match='too short'): sequence_index(ids, length, step, strategy, base_step)
        return
    got = sequence_index(ids, length, step, strategy, base_step)
    assert got.dtype == np.int64 and got.shape == (len(want), length) and got.tolist() == want
    assert np.array_equal(ids, kept)


@pytest.mark.parametrize('views, error', [([0., 1], TypeError), ([True], TypeError), ([0, 12], ValueError), ([-1], ValueError), (5, (TypeError, ValueError)), ({}, ValueError), (dict(a=[0], b=[0, 1]), ValueError),
                                          ({'a/b': [0]}, ValueError), (np.array(['x']), TypeError), (dict(a={}), ValueError)])
def test_views_are_checked_when_made(views, error):
    with pytest.raises(error): meta()[0].view(views)


class Two(torch.nn.Module):
    "A model with two inputs, or with one that is a dict"
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(16, 2), torch.nn.Linear(64, 2)
    def forward(self, a, b=None):
        if isinstance(a, dict): a, b = a['appearance'], a['frames']
        return self.a(a.flatten(1).as_subclass(torch.Tensor)) + self.b(b.flatten(1).as_subclass(torch.Tensor))


@pytest.mark.parametrize('nest', ['tuple', 'dict'])
@pytest.mark.parametrize('workers', [0, 2])
def test_views_train_and_predict(nest, workers):
    base, X = meta()
    app, seq = np.arange(40) % 12, (np.arange(40)[:, None] + np.arange(4)) % 12
    view = base.view([app, seq] if nest == 'tuple' else dict(appearance=app, frames=seq), y=np.where(np.arange(40) % 3, 'x', 'y'))
    mds = view.split(range(32), range(32, 40))
    dls = mds.dataloaders(bs=8, num_workers=workers, seed=0, device='cpu')
    for b in dls.train:
        ids = dls.train.ids
        a, s = (b[0], b[1]) if nest == 'tuple' else (b[0]['appearance'], b[0]['frames'])
        np.testing.assert_array_equal(a.numpy(), X[app[ids]])
        np.testing.assert_array_equal(s.numpy(), X[seq[ids]])
    learn = Learner(dls, Two(), loss_func=dls.loss_func)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, lr=.05)
    preds, target = learn.get_preds()
    assert preds.shape == (8, 2) and target.tolist() == view.targets(np.arange(32, 40)).tolist()
    assert len(view.new_empty()) == 0


def test_views_over_a_store(tmp_path):
    base, X = meta()
    packed = base.pack(tmp_path/'s', labels=dict(age=np.arange(12)))
    view = packed.view(dict(frames=np.arange(12).reshape(3, 4)), y=[0, 1, 0])
    np.testing.assert_array_equal(view[:][0]['frames'].numpy(), X.reshape(3, 4, 2, 8))
    assert view.labels['frames/age'].tolist() == np.arange(12).reshape(3, 4).tolist() and view.labels['frames']['y'].shape == (3, 4)


def folder(tmp_path, base_age):
    store_label_mmap(base_age, tmp_path/'base', 'age', edflow=True)
    store_label_mmap(np.array([[0, 1], [2, 3]]), tmp_path/'view', 'seq', edflow=True)
    (tmp_path/'view/meta.yaml').write_text('base_dset: edflow.data.believers.meta.MetaDataset\nbase_kwargs: {root: ../base}\nviews: {frames: seq}\n')
    return tmp_path/'view'


def test_exported_labels_follow_their_base(tmp_path):
    root, seen = folder(tmp_path, np.arange(4)), []
    count = lambda jobs, total: seen.append(total) or jobs
    assert TSMetaView.open(root, progress=count).labels['frames/age'].tolist() == [[0, 1], [2, 3]]
    TSMetaView.open(root, progress=count)
    assert seen == [1]
    TSMetaView.open(root, rebuild=True, progress=count)
    folder(tmp_path, np.arange(4)*2)
    assert TSMetaView.open(root, progress=count).labels['frames/age'].tolist() == [[0, 2], [4, 6]] and seen == [1, 1, 1]
    assert len([p for p in (root/'.view-labels').iterdir() if p.is_dir()]) == 1


def test_a_folder_that_cannot_be_written_is_cached_elsewhere(tmp_path, monkeypatch):
    root = folder(tmp_path, np.arange(4))
    monkeypatch.setenv('TSMETA_CACHE', str(tmp_path/'cache'))
    real = os.access
    monkeypatch.setattr(os, 'access', lambda p, mode: False if str(p).startswith(str(root)) and mode == os.W_OK else real(p, mode))
    before = sorted(root.rglob('*'))
    assert TSMetaView.open(root).labels['frames/age'].tolist() == [[0, 1], [2, 3]]
    assert sorted(root.rglob('*')) == before and list((tmp_path/'cache').rglob('age.npy'))


def test_view_folders_over_metadatasets(tmp_path):
    base, X = meta()
    register_base('my_recordings', lambda: base)
    store_label_mmap([3, 1], tmp_path, 'view')
    store_label_mmap(['p', 'q'], tmp_path, 'kind')
    (tmp_path/'meta.yaml').write_text('base_dset: my_recordings\ndescription: plain')
    view = TSMetaView.open(tmp_path, y='kind')
    x, y = view[:]
    np.testing.assert_array_equal(x.numpy(), X[[3, 1]])
    assert list(view.vocab) == ['p', 'q'] and view.labels['kind'].tolist() == ['p', 'q'] and 'plain' in view._repr_html_()
    for text in ['base_dset: os.system', 'base_dset: nobody', 'description: x', 'base_dset: my_recordings\nviews: nothing', 'base_dset: my_recordings\nbase_kwargs: {a: 1}', 'base_dset: my_recordings\nviews: {a: [3]}']:
        (tmp_path/'meta.yaml').write_text(text)
        with pytest.raises(ValueError): TSMetaView.open(tmp_path)
    store_label_mmap([3, 99], tmp_path, 'view')
    (tmp_path/'meta.yaml').write_text('base_dset: my_recordings')
    with pytest.raises(ValueError, match='no row 99'): TSMetaView.open(tmp_path)
