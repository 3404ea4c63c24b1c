"A recipe reads new data as the data of training was read, whoever holds it: a metadataset, a file, a learner, a run"
import json

import numpy as np
import pandas as pd
import pytest
from cli_tools import call
import fastai.callback.progress
from fastai.learner import Learner, load_learner
from torch import nn

from tsmeta.all import *
from tsmeta.sources.recipe import as_recipe

rng = np.random.default_rng(0)


def frame(label=None, n=60, start='2026-01-01'):
    walk = label == 'walk'
    out = pd.DataFrame(dict(time=pd.date_range(start, periods=n, freq='s'), acc=rng.normal(3*walk, 1, n), gyro=rng.normal(0, 100, n)))
    return out if label is None else out.assign(label=label)


@pytest.fixture
def folder(tmp_path):
    (tmp_path/'train').mkdir()
    for k in range(4): frame(['walk', 'rest'][k % 2]).to_csv(tmp_path/f'train/p{k}.csv', index=False)
    frame()[['gyro', 'time', 'acc']].to_csv(tmp_path/'new.csv', index=False)
    return tmp_path


def learner(meta):
    dls = meta.split(EachSplitter(.3)).dataloaders(bs=8, seed=0, batch_tfms=[StandardizeByDataset()])
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(meta.vars*meta.len, meta.c)), loss_func=dls.loss_func)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .01)
    return learn


def predicted(learn, data):
    with learn.no_bar(): return learn.predict_table(data=data)


def test_new_files_are_read_as_those_of_training(folder):
    learn = learner(TSMetaDataset.open(folder/'train', window=20, stride=10))
    found = predicted(learn, folder/'new.csv')
    x = pd.read_csv(folder/'new.csv')[['acc', 'gyro']].to_numpy().T
    wanted = predicted(learn, TSMetaDataset.from_recordings({'other': x}, 20, 10))
    assert len(found) == 5 and found.probability.tolist() == wanted.probability.tolist()
    assert found.start_time[1] == pd.Timestamp('2026-01-01 00:00:10')
    learn.export(folder/'l.pkl')
    assert predicted(load_learner(folder/'l.pkl'), folder/'new.csv').equals(found)


def test_safe_exports_hold_the_recipe(folder):
    meta = TSMetaDataset.open(folder/'train', window=20, stride=10)
    dls = meta.split(EachSplitter(.3)).dataloaders(bs=8, seed=0)
    learn = Learner(dls, make_arch('small', 2, 2, 20), loss_func=dls.loss_func)
    learn.export_safe(folder/'safe')
    again = load_safe(folder/'safe')
    assert again.recipe.to_dict() == learn.recipe.to_dict() == meta.recipe.to_dict()
    assert predicted(again, folder/'new.csv').equals(predicted(learn, folder/'new.csv'))


def test_what_does_not_fit_is_refused(folder):
    learn = learner(TSMetaDataset.open(folder/'train', window=20, stride=10))
    frame().rename(columns={'acc': 'accel'}).to_csv(folder/'other.csv', index=False)
    with pytest.raises(ValueError, match=r"\['acc'\] are missing"): predicted(learn, folder/'other.csv')
    frame('sit').to_csv(folder/'sit.csv', index=False)
    with pytest.raises(ValueError, match='sit'): TSMetaDataset.open(folder/'sit.csv', recipe=learn.recipe)
    with pytest.raises(TypeError, match='missing cannot be stated beside it'): TSMetaDataset.open(folder/'new.csv', recipe=learn.recipe, missing='linear')


def test_what_is_stated_changes_a_recipe(folder):
    recipe = TSMetaDataset.open(folder/'train', window=20, stride=10).recipe
    assert TSMetaDataset.open(folder/'new.csv', recipe=recipe, window=30, stride=30).len == 30
    frame().rename(columns={'time': 'when'}).to_csv(folder/'when.csv', index=False)
    meta = TSMetaDataset.open(folder/'when.csv', recipe=recipe, columns=dict(time='when', values=['acc', 'gyro']))
    assert meta.timed and meta.schema.var_names == ['acc', 'gyro']


@pytest.mark.parametrize('how', [
    dict(window=20), dict(window=15, stride=5, missing='linear', ragged='error'), dict(window=10, sel_vars=['gyro']),
    dict(window=12, horizon=3, columns=dict(y=None, ignore='label')), dict(window=20, times='time', zone='Europe/Oslo'),
])
def test_recipes_survive_files(folder, how):
    meta = TSMetaDataset.open(folder/'train', **how)
    text = meta.recipe.to_yaml(folder/'r.yaml')
    again = as_recipe(folder/'r.yaml')
    assert again.to_yaml() == text and as_recipe(json.loads(json.dumps(meta.recipe.to_dict()))).to_yaml() == text
    same = TSMetaDataset.open(folder/'train', recipe=folder/'r.yaml')
    assert same.recipe.to_yaml() == text and same.schema.to_dict() == meta.schema.to_dict()
    for a, b in zip(meta[:], same[:]): assert np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


def test_damaged_recipes_are_refused(folder):
    good = TSMetaDataset.open(folder/'train', window=20).recipe.to_dict()
    for key, value in [('window', 0), ('window', 'x'), ('window', True), ('tables', 3), ('tables', {'x': 1}), ('kind', 'y'), ('vocab', [[1]]),
                       ('var_names', [1]), ('policies', {}), ('version', 7), ('extra', 1), ('horizon', -1)]:
        with pytest.raises(ValueError): as_recipe({**good, key: value})


def test_runs_read_new_data_by_their_recipe(folder, monkeypatch):
    monkeypatch.chdir(folder)
    call('train', 'train', '--split', 'each', '--window', '20', '--stride', '10', '--epochs', '1', '--device', 'cpu', '--out', 'run')
    assert len(pd.read_csv(folder/'run'/'predictions.csv'))
    out = call('predict', 'run', 'new.csv').stdout
    assert 'new' in out and out.count('\n') >= 6
    assert as_recipe(folder/'run'/'recipe.yaml').window == 20


def test_new_files_that_differ_are_refused_or_told_of(folder, recwarn):
    learn = learner(TSMetaDataset.open(folder/'train', window=20, stride=10))
    good, path = frame('walk'), folder/'odd.csv'
    wrong = [
        (good.drop(columns='time'), "odd.csv: there is no column 'time'.*columns=dict.time="),
        (good.assign(id=['q']*30 + ['r']*30), "odd.csv: the column 'id' may be the id.*columns=dict.id='id'."),
        (good.assign(acc='a'), "odd.csv, line 2, column 'acc': 'a' is no number"),
        (good.assign(acc=['--'] + [1.]*59), "odd.csv, line 2, column 'acc': '--' is no number"),
        (good.sample(frac=1, random_state=0), 'odd.csv, line .*: times must not run backwards'),
        (good.assign(label='sit'), "unknown label 'sit'"),
    ]
    for data, says in wrong:
        data.to_csv(path, index=False)
        with pytest.raises(ValueError, match=says): predicted(learn, path)
    good.assign(extra=1.).to_csv(path, index=False)
    with pytest.warns(UserWarning, match="odd.csv: the data of the recipe has no columns 'extra'; they are left out"): predicted(learn, path)
    frame().to_csv(path, index=False)
    assert len(predicted(learn, [str(folder/'new.csv'), str(path)])) == 10
    one = TSMetaDataset.open(folder/'new.csv', recipe=learn.recipe, columns=dict(time=None))
    assert len(one) == 5 and not one.timed
