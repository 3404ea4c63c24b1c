"A changed checkpoint or safe export is refused by an error that names file and field, or changes nothing."
import copy
import io
import json
import random

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from resume_tools import Stopped, StopAfter, digest, fit, learner
from torch import nn
from tsmeta.all import TSMetaDataset, load_safe, make_arch, register_arch
from tsmeta.data.transforms import StandardizeByDataset
from tsmeta.train.export import FACTS, WEIGHTS, _digest, read_safe
from tsmeta.train.metrics import DatasetMetrics
from tsmeta.train.resume import Checkpoints

ODD = ['x', -1, 10**30, None, [], {}]


def fields(o, path=()):
    "Lists the paths of all fields of nested dicts and lists; of lists, those of their members"
    for k, v in o.items() if isinstance(o, dict) else enumerate(o):
        if isinstance(o, dict): yield *path, k
        if isinstance(v, (dict, list)): yield from fields(v, (*path, k))


def parent(o, path):
    for k in path[:-1]: o = o[k]
    return o


def change(content, path, how):
    "Returns a copy in which a field is absent, renamed or has an odd value"
    new = copy.deepcopy(content)
    at, k = parent(new, path), path[-1]
    if how == 'absent': del at[k]
    elif how == 'renamed': at[f'{k}_'] = at.pop(k)
    else: at[k] = ODD[how]
    return new


def changes(content, paths, n, seed=0):
    rng = random.Random(seed)
    for _ in range(n):
        path, how = rng.choice(paths), rng.choice(['absent', 'renamed', *range(len(ODD))])
        if how in ('absent', 'renamed') or type(ODD[how]) is not type(parent(content, path)[path[-1]]) or ODD[how] in (-1, 10**30): yield path, how


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
    "A checkpoint in the middle of an epoch, and what the training ends with"
    folder = tmp_path_factory.mktemp('run')
    with pytest.raises(Stopped): fit(learner(cbs=StopAfter(5)), folder)
    whole = learner()
    fit(whole)
    return Checkpoints(folder).newest(), digest(whole)


def put(folder, step, content):
    "Writes a checkpoint under the right name, as somebody who means harm would"
    for f in folder.glob('*'): f.unlink()
    Checkpoints(folder).write(step, content)


def resumed(folder):
    learn = learner(init=9)
    fit(learn, folder, every='1h')
    return digest(learn)


def check_checkpoint(stopped, folder, path, how):
    (step, content), want = stopped
    put(folder, step, change(content, path, how))
    try: got = resumed(folder)
    except ValueError as e:
        assert str(folder) in str(e), (path, how, e)
        return 1
    assert got == want, (path, how)
    return 0


def test_changed_fields_of_checkpoints(stopped, tmp_path):
    content = stopped[0][1]
    checked = {k: content[k] for k in ('version', 'at', 'first', 'data')} | dict(processes=[{k: p[k] for k in ('clock', 'marks')} for p in content['processes']])
    paths = [p for p in fields(checked) if not {'schedule', 'facts'} <= {*p} and p[-1] != 'final_record']
    refused = [check_checkpoint(stopped, tmp_path, path, how) for path, how in changes(checked, paths, 45)]
    assert sum(refused) > .7*len(refused)


@pytest.mark.parametrize('path, how, words', [
    (('at', 'phase'), 0, 'phase is x; there are train, valid and done'), (('at', 'batch'), 1, 'batch is -1'), (('at', 'epoch'), 2, 'epoch is 10000'),
    (('version',), 0, 'version is x'), (('model', '0.weight'), 'absent', 'model is damaged: it has no 0.weight'), (('grads',), 4, 'grads is damaged'),
    (('opt', 'hypers'), 4, 'hypers or state'), (('processes', 0, 'rng', 'torch'), 0, 'rng is damaged'), (('processes', 0, 'marks', 'training'), 1, 'training is -1'),
    (('data', 0, 'state', 'batch'), 1, 'batch is'), (('data', 0, 'state', 'batch'), 2, 'batch is'), (('processes', 0, 'counted', 'AvgSmoothLoss AvgSmoothLoss', 'count'), 0, 'count is x'),
    (('data',), 4, 'data is damaged: it holds 0 instead of 2'), (('first', 'processes'), 2, 'number of processes'), (('extra',), 0, 'extra is x, which is no field')])
def test_the_error_names_the_field(stopped, tmp_path, path, how, words):
    (step, content), _ = stopped
    put(tmp_path, step, change(content, path, how))
    with pytest.raises(ValueError) as e: resumed(tmp_path)
    assert words in str(e.value) and str(tmp_path) in str(e.value)


def test_weights_of_another_shape_are_refused_before_anything_is_loaded(stopped, tmp_path):
    (step, content), _ = stopped
    new = copy.deepcopy(content)
    new['model']['0.weight'] = new['model']['0.weight'][:, :1]
    put(tmp_path, step, new)
    learn = learner(init=9)
    before = [p.clone() for p in learn.model.parameters()]
    with pytest.raises(ValueError, match='0.weight is torch.float32 .* instead of'): fit(learn, tmp_path)
    assert all(torch.equal(p, q) for p, q in zip(before, learn.model.parameters()))


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    buffer = io.BytesIO()
    torch.save(nn.Linear(2, 2), buffer)
    put(tmp_path, 3, {})
    file = Checkpoints(tmp_path).files[0]
    with pytest.raises(ValueError, match='damaged: it has no at'): resumed(tmp_path)
    from tsmeta.train.resume import _digest as name
    file.unlink()
    (tmp_path/f'{3:012d}-{name(buffer.getvalue())}.pt').write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match='is no checkpoint'): resumed(tmp_path)


@register_arch(name='damaged.net')
def net(c_in, c_out, seq_len, hidden=4): return nn.Sequential(nn.Flatten(), nn.Linear(c_in*seq_len, hidden), nn.ReLU(), nn.Linear(hidden, c_out))


X = np.random.default_rng(0).normal(size=(6, 2, 12)).astype(np.float32)


def predicted(learn):
    with learn.no_bar(): return learn.predict_table(data=X, probs=True)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    pytest.importorskip('safetensors')
    learn = learner(batch_tfms=None)
    learn.model = make_arch('damaged.net', 2, 2, 12)
    path = learn.export_safe(tmp_path_factory.mktemp('safe')/'e')
    return path, predicted(learn)


def write_facts(exported, folder, facts):
    folder.mkdir(exist_ok=True)
    (folder/WEIGHTS).write_bytes((exported[0]/WEIGHTS).read_bytes())
    (folder/FACTS).write_text(json.dumps({**facts, 'digest': _digest(facts)}))
    return folder


def test_changed_fields_of_exports(exported, tmp_path):
    facts = read_safe(exported[0])
    paths, refused = [p for p in fields(facts) if p != ('digest',)], []
    for path, how in changes(facts, paths, 150):
        folder = write_facts(exported, tmp_path/'e', change(facts, path, how))
        try: new = load_safe(folder)
        except ModuleNotFoundError: continue
        except ValueError as e:
            assert FACTS in str(e) or WEIGHTS in str(e) or 'version' in str(e), (path, how, e)
            refused.append(path)
            continue
        assert predicted(new).equals(exported[1]), (path, how)
    assert len(refused) > 60


def test_shapes_are_compared_before_an_architecture_takes_memory(exported, tmp_path):
    facts = read_safe(exported[0])
    huge = copy.deepcopy(facts)
    huge['arch']['kwargs'] = dict(hidden=2**38)
    folder = write_facts(exported, tmp_path/'e', huge)
    with pytest.raises(ValueError, match=r'1.weight has shape \(4, 24\) instead of \(274877906944, 24\)'): load_safe(folder)


def test_the_digest_that_is_asked_for(exported, tmp_path):
    facts = read_safe(exported[0])
    load_safe(exported[0], digest=facts['digest'])
    other = write_facts(exported, tmp_path/'e', {**facts, 'bs': 9})
    assert load_safe(other).dls.valid.bs == 9
    with pytest.raises(ValueError, match='another export than the one asked for'): load_safe(other, digest=facts['digest'])


class Few(nn.Module):
    "Leaves out the last row of each batch"
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(24, 2)
    def forward(self, x): return self.layer(x.flatten(1))[:-1]


def test_a_model_that_returns_too_few_rows_is_an_error():
    learn = learner(batch_tfms=None)
    learn.model, learn.loss_func = Few(), lambda p, y: p.mean()
    learn.metrics = []
    with pytest.raises(ValueError, match='gives 7 outputs for 8 rows'): fit(learn, cbs=[DatasetMetrics('loss', train=True)])
    with pytest.raises(ValueError, match='gives 7 answers for a batch of 8 rows'), learn.no_bar(): learn.predict_table(ds_idx=0, with_loss=False)


def test_unseen_by_a_column_with_an_untrained_group_raises():
    def ward(n): return np.random.default_rng(n).normal(size=(n, 2, 12)).astype(np.float32), np.arange(n) % 2
    def loaders(*cities):
        meta = TSMetaDataset({k: ward(20) for k in 'abc'[:len(cities)]}, info=dict(city=list(cities)))
        parts = meta.split(range(20), range(20, len(meta)))
        return parts.dataloaders(bs=10, seed=0, device='cpu', batch_tfms=StandardizeByDataset(unseen='city')).loaders
    loaders('Oslo', 'Oslo')[1].one_batch() # b is of a city that was trained on
    with pytest.raises(ValueError, match="unseen='city'"): loaders('Oslo', 'Oslo', 'Rome')[1].one_batch()
