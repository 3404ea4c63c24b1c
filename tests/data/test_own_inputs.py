"Models that know whose row they see: labels of the own dataset, datasets as inputs, in training, export and prediction."
import json

import fastai.callback.progress  # brings no_bar
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.mixup import MixUp
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy
from torch import nn
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.data.transforms import DatasetInput, WithDataset
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.train.callbacks import OwnLabels, label_table
from tsmeta.train.metrics import DatasetMetrics
from tsmeta.sources.policies import Policies
from tsmeta.sources.policies import policies_from_json, policies_to_json
from tsmeta.train.export import make_arch
from tsmeta.train.export import load_safe
from tsmeta.data.transforms import StandardizeByDataset
from tsmeta.splits.splitters import EachSplitter
import tsmeta.all


def problem(labels, n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, len(labels), n)
    return (rng.normal(size=(n, 2, 12)) + y[:, None, None]).astype(np.float32), [labels[k] for k in y]

PROBLEMS = dict(gun=problem(['draw', 'point']), **{'a/b': problem(['1', '2', '3'], seed=1)}, ecg=problem(['1', '2'], seed=2))

def meta(labels='namespaced'): return TSMetaDataset(PROBLEMS, labels=labels, info=pd.DataFrame(dict(age=[1., 2, 9], site=['x', 'y', 'x'])))
def split(m): return TSMetaDatasets(m, EachSplitter(.3))
def net(c, n=24):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(n, c))
def conv(c_out):
    def make(c_in):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv1d(c_in, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, c_out))
    return make
def fit(learn, n=2):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, 1e-2)
    return learn


# --- labels of the own dataset

@pytest.mark.parametrize('workers', [0, 2])
def test_loss_and_predictions_are_those_of_the_own_head(workers, tmp_path):
    m = meta()
    mds = split(m)
    dls = mds.dataloaders(bs=16, seed=0, num_workers=workers, device='cpu')
    learn = fit(Learner(dls, net(m.c), metrics=accuracy, cbs=OwnLabels(), path=tmp_path))
    with learn.no_bar(): p, y, loss = learn.get_preds(with_loss=True)
    ds = m.index.locate(mds.valid.ids())[0]
    for d, name in enumerate(m.names):
        own = [k for k, v in enumerate(m.vocab) if v.startswith(name + '/')]
        assert len(own) == len(set(PROBLEMS[name][1]))
        rows = torch.from_numpy(np.flatnonzero(ds == d))
        logits = learn.model(mds.valid[rows][0])[:, own]
        np.testing.assert_allclose(p[rows][:, own].numpy(), logits.softmax(1).detach().numpy(), rtol=1e-4, atol=1e-6)
        want = nn.functional.cross_entropy(logits, torch.tensor([own.index(int(v)) for v in y[rows]]), reduction='none')
        np.testing.assert_allclose(loss[rows].numpy(), want.detach().numpy(), rtol=1e-3, atol=1e-5)
    learn.export(tmp_path/'m.pkl')
    again = load_learner(tmp_path/'m.pkl')
    with again.no_bar():
        assert torch.equal(again.get_preds(dl=again.dls.test_dl(mds.valid))[0], p)
        new = TSMetaDataset({'ecg': PROBLEMS['gun'][0], 'never seen': PROBLEMS['gun'][0]})
        q = again.get_preds(dl=again.dls.test_dl(new))[0].numpy()
    allowed = label_table(m.vocab, ['ecg'])[0]
    assert q[:60][:, ~allowed].max() == 0 and q[60:].min() > 0


def test_gradients_of_other_heads_are_zero():
    m = meta()
    dls = split(m).dataloaders(bs=16, seed=0, device='cpu')
    learn = Learner(dls, net(m.c), cbs=OwnLabels())
    own = next(c for c in learn.cbs if isinstance(c, OwnLabels))
    own.learn_from(dls.train.dataset)
    x, y = m[np.arange(10)]  # all of the first dataset
    learn.xb, learn.pred = (x,), learn.model(x)
    own.after_pred()
    learn.loss_func(learn.pred, y).backward()
    grad = learn.model[1].weight.grad.abs().sum(1)
    assert (grad[:2] > 0).all() and (grad[2:] == 0).all()


def test_stated_classes_and_mistakes():
    m = TSMetaDataset({'a': problem(['u', 'v']), 'b': problem(['v', 'w'], seed=1)})
    own = OwnLabels(dict(a=['u', 'v'], b=['v', 'w']))
    own.learn_from(m)
    assert own.table.tolist() == [[True, True, False], [False, True, True]]
    with pytest.raises(ValueError, match="gives dataset 'a' \\(0\\) the label 'z'"): OwnLabels(dict(a=['z'])).learn_from(m)
    with pytest.raises(ValueError, match="dataset 'c', which is not there"): OwnLabels(dict(c=['u'])).learn_from(m)
    with pytest.raises(ValueError, match="'b' \\(1\\) has no label of its own"): OwnLabels(dict(a=['u'])).learn_from(m)
    with pytest.raises(ValueError, match="labels='namespaced'"): fit(Learner(split(m).dataloaders(bs=8, device='cpu'), net(3), cbs=OwnLabels()))
    with pytest.raises(ValueError, match='one of OwnLabels and MixUp'): fit(Learner(split(meta()).dataloaders(bs=8, device='cpu'), net(7), cbs=[OwnLabels(), MixUp()]))


# --- datasets as inputs

@pytest.mark.parametrize('workers', [0, 2])
def test_the_model_gets_the_dataset_of_each_row(workers, tmp_path):
    m = meta('union')
    mds = split(m)
    facts, about = DatasetInput(unknown=.2), DatasetInput(covariates=['age'])
    dls = mds.dataloaders(bs=16, seed=3, num_workers=workers, batch_tfms=[StandardizeByDataset(), facts, about], device='cpu')
    learn = Learner(dls, WithDataset(conv(m.c), dls.vars, facts, about), path=tmp_path)
    hidden = 0
    for (x, which, age), y in dls.train:
        ds = m.index.locate(dls.train.ids)[0]
        assert set(which.numpy()[which.numpy() != ds+1].tolist()) <= {0}
        hidden += (which == 0).float().mean().item()/len(dls.train)
    assert .05 < hidden < .5
    for (x, which, age), y in dls.valid:
        ds = m.index.locate(dls.valid.ids)[0]
        assert which.tolist() == (ds+1).tolist()
        np.testing.assert_allclose(age[:, 0], (np.array([1, 2, 9])[ds] - 4)/np.std([1, 2, 9]), rtol=1e-5)
    fit(learn)
    with learn.no_bar(): p, y = learn.get_preds()
    assert y.tolist() == mds.valid.targets().tolist()
    assert len(learn.predict_table()) == len(mds.valid)
    dls.show_batch()
    learn.export(tmp_path/'m.pkl')
    again = load_learner(tmp_path/'m.pkl')
    with again.no_bar():
        assert torch.equal(again.get_preds(dl=again.dls.test_dl(mds.valid))[0], p)
        assert torch.isfinite(again.get_preds(dl=again.dls.test_dl(TSMetaDataset({'new': PROBLEMS['gun'][0]}, info=dict(age=[5.]))))[0]).all()


@pytest.mark.parametrize('workers', [1, 2])
def test_hiding_datasets_is_decided_by_the_seed(workers):
    def numbers(n): return [b[0][1].tolist() for b in split(meta('union')).dataloaders(bs=16, seed=3, num_workers=n, batch_tfms=DatasetInput(unknown=.5), device='cpu').train]
    assert numbers(0) == numbers(workers)


def test_groups_and_mistakes():
    m = meta('union')
    by_site = DatasetInput(groups='site', unknown=0).fit(m)
    assert by_site(m[[0, 60, 120]])[0][1].tolist() == [1, 2, 1] and by_site.n == 3
    assert by_site(TSMetaDataset({'gun': PROBLEMS['gun'][0]})[[0]])[0][1].tolist() == [0]
    with pytest.raises(ValueError, match='not numbers'): DatasetInput(covariates=['site']).fit(m)
    with pytest.raises(ValueError, match='knows no datasets yet'): DatasetInput()(m[[0]])
    with pytest.raises(ValueError, match='knows no datasets yet'): WithDataset(conv(2), 2, DatasetInput())
    with pytest.raises(ValueError, match='1 facts'): WithDataset(conv(2), 2, by_site)(m[[0]][0])
    with pytest.raises(ValueError, match='unknown=1'): DatasetInput(unknown=1)


def rows_of(kind):
    info = pd.DataFrame(dict(age=[1., 2, 9]))
    if kind == 'classes': return meta()
    if kind == 'numbers': return TSMetaDataset({k: (x, x.mean((1, 2))) for k, (x, y) in PROBLEMS.items()}, info=info)
    return TSMetaDataset.from_recordings({k: np.random.default_rng(0).normal(size=(2, 90)).astype('f4') for k in 'abc'}, window=12, stride=2, horizon=3, info=info)


@pytest.mark.parametrize('arch, kwargs', [('InceptionTimePlus', dict(nf=4)), ('TSTPlus', dict(d_model=16, n_heads=2, n_layers=1)), ('LSTMPlus', {})])
@pytest.mark.parametrize('kind', ['classes', 'numbers', 'forecast'])
def test_architectures_of_tsai_are_told_and_exported_both_ways(arch, kwargs, kind, tmp_path):
    pytest.importorskip('tsai')
    m, facts, about = rows_of(kind), DatasetInput(unknown=.2), DatasetInput(covariates=['age'])
    mds = split(m)
    dls = mds.dataloaders(bs=16, seed=0, device='cpu', batch_tfms=[StandardizeByDataset(), facts, about])
    model = WithDataset(lambda n: make_arch(arch, n, dls.c, dls.len, dls.d, **kwargs), dls.vars, facts, about)
    learn = fit(Learner(dls, model, cbs=OwnLabels() if kind == 'classes' else None, path=tmp_path), 1)
    with learn.no_bar(): p, table = learn.get_preds()[0], learn.predict_table()
    learn.export('m.pkl')
    learn.export_safe(tmp_path/'safe')
    x = PROBLEMS['gun'][0]
    new = [TSMetaDataset.from_recordings({n: x[0].repeat(4, 1)}, window=12, horizon=3, info=dict(age=[5.])) if kind == 'forecast' else TSMetaDataset({n: x}, info=dict(age=[5.])) for n in ('never seen', m.names[0])]
    found = []
    for again in (load_learner(tmp_path/'m.pkl'), load_safe(tmp_path/'safe')):
        with again.no_bar():
            assert torch.equal(again.get_preds(dl=again.dls.test_dl(mds.valid))[0], p)
            pd.testing.assert_frame_equal(again.predict_table(dl=again.dls.test_dl(mds.valid, with_labels=True)), table)
            found.append([again.get_preds(dl=again.dls.test_dl(o))[0] for o in new])
    assert all(torch.equal(a, b) and torch.isfinite(a).all() for a, b in zip(*found))
    assert not torch.equal(*found[0])  # what is known of the dataset matters
    if kind == 'classes': assert found[1][1][:, 2:].max() == 0 and found[1][0][:, 2:].max() > 0


def test_tables_and_metrics_are_those_of_the_own_labels(tmp_path):
    m = meta()
    mds = split(m)
    dls = mds.dataloaders(bs=16, seed=0, device='cpu')
    learn = fit(Learner(dls, make_arch('small', dls.vars, dls.c, dls.len), metrics=accuracy, cbs=[OwnLabels(), DatasetMetrics(accuracy, 'loss')], path=tmp_path), 1)
    last = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1]))
    with learn.no_bar(): table = learn.predict_table(probs=True)
    per = table.assign(hit=table.prediction == table.target).groupby('name')
    assert all(p.startswith(n + '/') for n, p in zip(table.name, table.prediction))
    np.testing.assert_allclose([last['accuracy'], last['accuracy_mean'], last['loss_mean'], last['valid_loss']],
                               [(table.prediction == table.target).mean(), per.hit.mean().mean(), per.loss.mean().mean(), table.loss.mean()], rtol=1e-5)
    learn.export_safe(tmp_path/'safe')
    again = load_safe(tmp_path/'safe')
    with again.no_bar(): pd.testing.assert_frame_equal(again.predict_table(dl=again.dls.test_dl(mds.valid, with_labels=True), probs=True), table)
    facts = json.loads((tmp_path/'safe'/'tsmeta.json').read_text())
    for bad in ({**facts['own_labels'], 'labels': [[99]]*3}, {'names': []}, dict(facts['own_labels'], fill='x')):
        with pytest.raises((ValueError, KeyError)): OwnLabels.of_facts(bad, m.c)
    w = dls.cws_by_dataset
    for d, n in enumerate(m.names): assert ((w[d] > 0) == torch.tensor([v.startswith(n + '/') for v in m.vocab])).all()


# --- other names for labels

def test_labels_by_other_names(tmp_path):
    a, b = problem(['walk', 'rest']), problem(['gait', 'rest'], seed=1)
    for m in (TSMetaDataset(dict(a=a, b=b), label_map={'walk': 'gait'}), TSMetaDataset(dict(a=a, b=b), label_map=dict(a={'walk': 'gait'}))):
        assert list(m.vocab) == ['gait', 'rest'] and "label_map" in repr(m.schema.policies)
        assert [m.vocab[k] for k in m.targets()] == ['gait' if v == 'walk' else v for v in a[1] + b[1]]
    assert list(TSMetaDataset(dict(a=a, b=b), label_map=dict(b={'gait': 'walk'})).vocab) == ['rest', 'walk']
    assert list(TSMetaDataset(dict(a=a, b=b), labels='namespaced', label_map={'walk': 'gait'}).vocab) == ['a/gait', 'a/rest', 'b/gait', 'b/rest']
    with pytest.raises(ValueError, match="dataset 'c', which is not there"): TSMetaDataset(dict(a=a, b=b), label_map=dict(c={'walk': 'gait'}))
    with pytest.raises(TypeError, match="'b' \\(1\\): a label map was given, but the targets are float"):
        TSMetaDataset(dict(a=a, b=(b[0], np.zeros(60))), label_map={'walk': 'gait'})


@pytest.mark.parametrize('y', [['walk', 'rest', 'walk'], np.array(['walk', 'rest', 'walk']), pd.Series(['walk', 'rest', 'walk']), [['walk'], ['rest', 'walk'], []], np.array([[1, 2], [1, 1], [2, 2]])])
def test_every_kind_of_label_is_renamed(y):
    names = {'walk': 'gait', 1: 7}
    m = TSMetaDataset([(np.zeros((3, 1, 5)), y)], label_map=names)
    flat = lambda o: [w for v in o for w in flat(v)] if isinstance(o, (list, np.ndarray)) else [o]
    assert set(m.vocab) == {names.get(v, v) for v in flat(list(y))}


def test_new_data_goes_by_the_same_names(tmp_path):
    m = TSMetaDataset(dict(a=problem(['walk', 'rest'])), label_map={'walk': 'gait'})
    learn = fit(Learner(split(m).dataloaders(bs=16, seed=0, device='cpu'), net(2), path=tmp_path), 1)
    learn.export(tmp_path/'m.pkl')
    dl = load_learner(tmp_path/'m.pkl').dls.test_dl((problem(['walk', 'rest'])[0], ['walk']*30 + ['gait']*30), with_labels=True)
    assert set(dl.dataset.targets()) == {0} and dl.vocab[0] == 'gait'
    walks = TSMetaDataset.from_recordings([np.zeros((1, 50))]*2, window=10, y=['walk', 'rest'], label_map={'walk': 'gait'})
    assert list(walks.vocab) == ['gait', 'rest']
    for names in ({'walk': 'gait'}, {1: 2}, dict(a={'walk': 'gait'}, b={3: 4})):
        assert policies_from_json(json.loads(json.dumps(policies_to_json(Policies(label_map=names))))).label_map == names
