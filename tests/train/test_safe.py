"A safe export gives the same learner, to the bit, and nothing in its folder is ever run."
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat, MSELossFlat
from fasttransform import Transform
from torch import nn

pytest.importorskip('safetensors')
from safetensors.torch import load, save
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.train.export import make_arch, register_arch, register_loss, register_transform
from tsmeta.train.export import FACTS, WEIGHTS, _digest, load_safe, read_safe


@register_arch(name='tests.conv')
def conv(c_in, c_out, seq_len, d=None, hidden=4):
    out = c_out if d is None else int(np.prod(d))
    return nn.Sequential(nn.Conv1d(c_in, hidden, 3), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(.5), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(hidden, out))


@register_transform(name='tests.twice')
def twice(x): return x*2


@register_transform
class Shift(Transform):
    order = 20
    def __init__(self, by, note='x'): self.by, self.note = torch.as_tensor(by), note
    def encodes(self, x: torch.Tensor): return x + self.by if x.is_floating_point() and x.ndim == 3 else x


@register_transform
class Noise(Transform):
    split_idx = 0
    def encodes(self, x: torch.Tensor): return x + 100 if x.is_floating_point() and x.ndim == 3 else x


@register_loss
def my_loss(p, y): return (p.squeeze() - y).abs().mean()


def data(kind, n=60, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2, 12)).astype(np.float32)
    y = dict(text=np.array(list('abc'))[np.arange(n) % 3], ints=np.array([3, 5, 900])[np.arange(n) % 3], float=x.sum((1, 2)), pair=x[:, :, 0],
             multi=[['p', 'q'][:k % 3] for k in range(n)], none=None)[kind]
    return x, y


def learner(kind='text', arch=None, tfms=None, loss_func=None, row=None, **kwargs):
    x, y = data(kind)
    meta = TSMetaDataset({'one': (x[:30], y[:30]), 'two': (x[30:], y[30:])}, tfms=row, var_names=['u', 'v'])
    torch.manual_seed(0)
    dls = TSMetaDatasets(meta, [range(40), range(40, 60)], leak='allow').dataloaders(bs=16, seed=4, batch_tfms=tfms, device='cpu')
    model = arch(dls) if callable(arch) else make_arch(arch or 'tests.conv', dls.vars, dls.c, dls.len, dls.d, **kwargs)
    learn = Learner(dls, model, loss_func=loss_func)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    with learn.no_logging(): learn.fit(1, .01)
    return learn


def same(learn, path, kind='text', **kwargs):
    new = load_safe(path, **kwargs)
    new.remove_cbs([cb for cb in new.cbs if isinstance(cb, ProgressCallback)])
    x, y = data(kind, 37, 9)
    for given in (x, (x, y)):
        a, b = (o.predict_table(data=given, probs=kind in ('text', 'ints', 'multi')) for o in (learn, new))
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    p, q = (o.get_preds(dl=o.dls.test_dl(x))[0] for o in (learn, new))
    assert torch.equal(p, q)
    return new


@pytest.mark.parametrize('kind', ['text', 'ints', 'float', 'pair', 'multi'])
def test_same_predictions(kind, tmp_path):
    learn = learner(kind, hidden=5)
    before = torch.get_rng_state().clone(), learn.model.training
    path = learn.export_safe(tmp_path/'e')
    new = same(learn, path, kind)
    assert sorted(p.name for p in path.iterdir()) == [FACTS, WEIGHTS] and [p.name for p in tmp_path.iterdir()] == ['e']
    assert torch.equal(before[0], torch.get_rng_state()) and learn.model.training == before[1]
    assert new.dls.vars == 2 and new.dls.len == 12 and new.dls.c == learn.dls.c and new.dls.valid.bs == 16
    facts = read_safe(path)
    assert facts['seed'] == 4 and facts['split']['train'] == dict(rows=40, ranges=[[0, 40]], datasets=facts['split']['train']['datasets'], hash=facts['split']['train']['hash'])
    assert facts['versions']['torch'] and facts['schema']['var_names'] == ['u', 'v'] and facts['arch']['kwargs'] == {'hidden': 5}


@pytest.mark.parametrize('arch', ['InceptionTimePlus', 'FCN', 'TSTPlus', 'LSTM_FCNPlus', 'MLP', 'gMLP'])
def test_architectures_of_tsai(arch, tmp_path):
    pytest.importorskip('tsai')
    from tsai.basics import TSStandardize, ts_learner
    learn = learner(arch=lambda dls: ts_learner(dls, arch=arch, device='cpu').model, tfms=TSStandardize(by_var=True))
    new = same(learn, learn.export_safe(tmp_path/'e'))
    assert type(new.dls.valid.after_batch.fs[0]).__name__ == 'TSStandardize'


def test_transforms_of_tsai(tmp_path):
    pytest.importorskip('tsai')
    from tsai.data.preprocessing import TSClip, TSNan2Value, TSNormalize, TSRobustScale, TSStandardize
    for k, tfms in enumerate([[TSStandardize()], [TSStandardize(by_sample=True)], [TSStandardize(by_var=[0, [1]], exc_vars=[1])], [TSNormalize(by_var=True), TSClip(-.5, .5)],
                              [TSRobustScale()], [TSNan2Value()]]):
        same(learn := learner(tfms=tfms), learn.export_safe(tmp_path/str(k)))


def test_transforms_of_others_rows_and_training(tmp_path):
    learn = learner(tfms=[Shift([[1.], [2.]]), Noise()], row=twice)
    path = learn.export_safe(tmp_path/'e')
    new = same(learn, path)
    assert read_safe(path)['training_transforms_left_out'] == ['Noise'] and new.dls.valid.after_batch.fs[0].note == 'x'
    assert new.dls.train.dataset.schema.x_tfm.tfms == [twice]


@pytest.mark.parametrize('kind,loss', [('text', LabelSmoothingCrossEntropyFlat(eps=.2)), ('text', CrossEntropyLossFlat(weight=torch.tensor([1., 2., 3.]))),
                                       ('text', nn.CrossEntropyLoss(label_smoothing=.1)), ('float', nn.MSELoss()), ('float', nn.functional.mse_loss), ('float', my_loss),
                                       ('multi', BCEWithLogitsLossFlat(thresh=.3)), ('float', nn.HuberLoss(delta=.4)), ('float', MSELossFlat())])
def test_losses(kind, loss, tmp_path):
    learn = learner(kind, loss_func=loss)
    new = same(learn, learn.export_safe(tmp_path/'e'), kind)
    assert getattr(new.loss_func, 'thresh', None) == getattr(loss, 'thresh', None)


def test_what_cannot_be_described(tmp_path):
    class Odd(Transform):
        def encodes(self, x: torch.Tensor): return x
    for learn, error, text in [(learner(tfms=Odd()), ValueError, 'transform Odd .* has no name'), (learner(loss_func=lambda p, y: p.sum()), ValueError, 'loss .*lambda.* has no name'),
                               (learner(arch=lambda dls: nn.Sequential(nn.Flatten(), nn.Linear(24, 3))), ValueError, "Unknown architecture 'Sequential'"),
                               (learner('float', tfms=Shift(1., note=object())), TypeError, 'Shift.note is a object|note is a object')]:
        with pytest.raises(error, match=text): learn.export_safe(tmp_path/'e')
    learn = learner(hidden=5)
    del learn.model.made_by
    with pytest.raises(ValueError, match='not the tests.conv that its description builds: These weights'): learn.export_safe(tmp_path/'e', arch='tests.conv')
    assert not list(tmp_path.iterdir())
    learn.export_safe(tmp_path/'e', arch='tests.conv', kwargs=dict(hidden=5))
    same(learn, tmp_path/'e')
    learn.model[2] = nn.Tanh()
    with pytest.raises(ValueError, match='answers otherwise'): learn.export_safe(tmp_path/'f', arch='tests.conv', kwargs=dict(hidden=5))
    with pytest.raises(ValueError, match='is there already'): learner().export_safe(tmp_path/'e')
    learner().export_safe(tmp_path/'e', replace=True)
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.tex').write_text('x')
    with pytest.raises(ValueError, match='is no safe export'): learner().export_safe(tmp_path/'mine', replace=True)


class Canary:
    def __init__(self, at): self.at = at
    def __reduce__(self): return Path.touch, (self.at,)


def test_no_pickle_is_ever_read(tmp_path, monkeypatch):
    learn = learner()
    path = learn.export_safe(tmp_path/'e')
    canary = pickle.dumps(Canary(tmp_path/'ran'))
    for name in ('weights.pkl', 'learner.pkl', 'tsmeta.pkl', 'model.pth', 'weights.safetensors.pkl', 'arch.py', '__init__.py'): (path/name).write_bytes(canary)
    for target in ('pickle.loads', 'pickle.load', 'torch.load'): monkeypatch.setattr(target, lambda *a, **k: pytest.fail('unpickled'))
    load_safe(path)
    for name in (FACTS, WEIGHTS):
        whole = (path/name).read_bytes()
        (path/name).write_bytes(canary)
        with pytest.raises(ValueError, match='not JSON|not the file'): load_safe(path)
        (path/name).write_bytes(whole)
    facts = read_safe(path)
    (path/WEIGHTS).write_bytes(canary)
    rewrite(path, lambda f: f['weights'].update(sha256=hashlib.sha256(canary).hexdigest(), bytes=len(canary)))
    with pytest.raises(ValueError, match='not a safetensors file'): load_safe(path)
    with pytest.raises(ValueError, match='a safe export is a folder'): load_safe(path/'learner.pkl')
    (tmp_path/'p').mkdir(); (tmp_path/'p'/'export.pkl').write_bytes(canary)
    with pytest.raises(ValueError, match='holds pickles: load_learner loads those, and runs'): load_safe(tmp_path/'p')
    assert not (tmp_path/'ran').exists() and facts['version'] == 1


def rewrite(path, change):
    "Change the description and give it a right digest, as somebody who means harm would."
    facts = json.loads((path/FACTS).read_text())
    change(facts)
    facts['digest'] = _digest(facts)
    (path/FACTS).write_text(json.dumps(facts))


def put(*at):
    *keys, last, value = at
    def change(f):
        for k in keys: f = f[k]
        f[last] = value
    return change


@pytest.mark.parametrize('change,text', [
    (put('arch', 'name', 'os.system'), 'Unknown architecture|not registered'), (put('arch', 'name', '__import__'), 'Unknown architecture|not registered'),
    (put('arch', 'name', '../x'), 'no name of an architecture'),
    (put('arch', 'kwargs', {'hidden': 9}), 'These weights are not those of this architecture: .*shape'), (put('arch', 'kwargs', {'weights_path': 'm.pth'}), 'not an argument of a safe'),
    (put('arch', 'kwargs', {'depth': 2}), 'could not be built'), (put('arch', 'extra', 1), 'architecture is damaged'),
    (put('arch', 'c_out', 4), 'has shape'), (put('schema', 'vars', 0), 'schema is damaged'), (put('schema', 'vocab', 'abc'), 'schema is damaged'), (put('schema', 'kind', 'float'), 'schema is damaged'),
    (put('schema', 'len', '12'), 'schema is damaged'), (put('transforms', 'after_batch', [{'name': 'Evil', 'state': {}}]), "Unknown transform 'Evil'"),
    (put('transforms', 'after_batch', [{'name': 'Shift', 'state': {'by': 1., 'encodes': 'x'}}]), 'would replace its method'),
    (put('transforms', 'after_batch', [{'name': 'Shift', 'state': {'by': {'tensor': 'nowhere'}}}]), 'description of a value is damaged'),
    (put('transforms', 'after_batch', [3]), 'transform is damaged'), (put('transforms', 'after_batch', [{'name': 'Shift'}]), 'damaged|without'),
    (put('loss', 'name', 'eval'), "Unknown loss 'eval'"), (put('loss', 'args', {'func': 3}), 'no argument of a loss'), (put('version', 2), 'version 2'), (put('format', 'x'), 'does not describe'),
    (put('bs', 'many'), 'bs is many'), (put('more', 1), 'more is')])
def test_changed_descriptions(change, text, tmp_path):
    path = learner().export_safe(tmp_path/'e')
    rewrite(path, change)
    with pytest.raises((ValueError, ModuleNotFoundError), match=text): load_safe(path)


def test_any_changed_byte_is_noticed(tmp_path):
    path = learner().export_safe(tmp_path/'e')
    rng = np.random.default_rng(0)
    for name in (FACTS, WEIGHTS):
        whole = (path/name).read_bytes()
        for at in rng.integers(0, len(whole), 40):
            b = bytearray(whole)
            b[at] ^= 1 << int(rng.integers(8))
            (path/name).write_bytes(b)
            if name == WEIGHTS or not _same_json(b, whole):
                with pytest.raises(ValueError): load_safe(path)
        for cut in (0, 1, len(whole)//2, len(whole)-1):
            (path/name).write_bytes(whole[:cut])
            with pytest.raises(ValueError): load_safe(path)
        (path/name).write_bytes(whole)
    load_safe(path)


def _same_json(a, b):
    try: return json.loads(a) == json.loads(b)
    except ValueError: return False


def test_files_that_are_missing_or_elsewhere(tmp_path):
    path = learner().export_safe(tmp_path/'e')
    with pytest.raises(ValueError, match='There is no folder'): load_safe(tmp_path/'nothing')
    for name in (FACTS, WEIGHTS):
        away = tmp_path/name
        (path/name).rename(away)
        with pytest.raises(ValueError, match=f'there is no {name}'): load_safe(path)
        (path/name).symlink_to(away)
        with pytest.raises(ValueError, match=f'{name} leads out of'): load_safe(path)
        (path/name).unlink()
        away.rename(path/name)
    load_safe(path)


def test_other_weights(tmp_path):
    path = learner().export_safe(tmp_path/'e')
    def swap(change):
        w = load((path/WEIGHTS).read_bytes())
        change(w)
        raw = save(w)
        (path/WEIGHTS).write_bytes(raw)
        rewrite(path, lambda f: f['weights'].update(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw)))
    swap(lambda w: w.update({'model.0.bias': w['model.0.bias'].double()}))
    with pytest.raises(ValueError, match='0.bias is of torch.float64'): load_safe(path)
    swap(lambda w: w.pop('model.0.bias'))
    with pytest.raises(ValueError, match='0.bias is missing'): load_safe(path)


FRESH = '''
import sys, pickle, torch
sys.modules['tsai'] = None
import fastai.callback.progress, numpy as np
from torch import nn
from tsmeta.all import *
@register_arch
def fresh_net(c_in, c_out, seq_len): return nn.Sequential(nn.Flatten(), nn.Linear(c_in*seq_len, c_out))
def stop(*a, **k): raise SystemExit('unpickled')
was = pickle.loads, pickle.load, torch.load
pickle.loads = pickle.load = torch.load = stop
learn = load_safe(sys.argv[1])
assert 'tsmeta.cli.model' not in sys.modules
assert type(load_safe(sys.argv[2]).model[0]).__name__ == 'Standardize'
pickle.loads, pickle.load, torch.load = was
x = np.random.default_rng(9).normal(size=(5, 2, 12)).astype(np.float32)
with learn.no_bar(): print(learn.predict_table(data=x, probs=True).p_a.to_numpy().tobytes().hex())
'''


def test_loaded_in_a_fresh_process_without_tsai(tmp_path):
    register_arch(lambda c_in, c_out, seq_len: nn.Sequential(nn.Flatten(), nn.Linear(c_in*seq_len, c_out)), name='fresh_net')
    learn = learner(arch='fresh_net')
    path, scaled = learn.export_safe(tmp_path/'e'), learner(arch='scaled').export_safe(tmp_path/'scaled')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', FRESH, str(path), str(scaled)], capture_output=True, text=True)
    x = np.random.default_rng(9).normal(size=(5, 2, 12)).astype(np.float32)
    assert done.stdout.strip() == learn.predict_table(data=x, probs=True).p_a.to_numpy().tobytes().hex(), done.stderr


def test_it_stays_small_and_trains_on(tmp_path):
    x, y = np.zeros((5, 2, 12), np.float32), np.arange(5) % 3
    meta = TSMetaDataset([(x, y)]*2000)
    learn = Learner(TSMetaDatasets(meta, [range(0, 10_000, 2), range(1, 10_000, 2)], leak='allow').dataloaders(bs=64), make_arch('tests.conv', 2, 3, 12))
    path = learn.export_safe(tmp_path/'e')
    assert sum(p.stat().st_size for p in path.iterdir()) < 20_000
    new = load_safe(path)
    new.remove_cbs([cb for cb in new.cbs if isinstance(cb, ProgressCallback)])
    new.dls = learn.dls
    with new.no_logging(): new.fit(1)


def test_new_data_that_does_not_fit_is_refused(tmp_path):
    new = load_safe(learner().export_safe(tmp_path/'e'))
    x = np.zeros((3, 2, 12), np.float32)
    for bad, text in [(x[:, :1], '1 variables, expected 2'), (x[:, :, :9], '9 steps, expected 12'), ((x, list('abz')), "unknown label 'z'"),
                      (TSMetaDataset({'bed 7': x}, var_names=['v', 'w']), "variables \\['v', 'w'\\], expected are \\['u', 'v'\\]"), ((x, [.1, .2, .3]), 'label')]:
        with pytest.raises((ValueError, TypeError), match=text): new.predict_table(data=bad)


@pytest.mark.parametrize('how', ['StandardizeByDataset', 'RobustScaleByDataset', 'MinMaxScaleByDataset'])
def test_scales_by_dataset(how, tmp_path):
    import tsmeta.data.transforms
    for k, kwargs in enumerate([{}, dict(groups='all'), dict(groups='row'), dict(unseen='all')]):
        learn = learner(tfms=getattr(tsmeta.data.transforms, how)(**kwargs))
        same(learn, path := learn.export_safe(tmp_path/str(k)))
        a, b = (o.predict_table(data=learn.dls.valid.dataset) for o in (learn, load_safe(path)))
        pd.testing.assert_frame_equal(a, b, check_exact=True)
