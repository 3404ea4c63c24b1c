"predict_table(by=…) joins windows as `join_windows` and `join_steps` join the whole table, in little memory."
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from torch import nn
from typer.testing import CliRunner

import tsmeta.train.predict
from tsmeta.cli.main import app
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.train.predict import join_steps, join_windows

PEOPLE = ['ann', 'bob', 'ann', None]


def recordings(y='class', horizon=0, stride=5):
    rng = np.random.default_rng(1)
    recs = {k: rng.normal(size=(2, n)).astype(np.float32) for k, n in [('a', 95), ('b', 40), ('c', 60), ('d', 31)]}
    target = dict(ints=[3, 5, 5, 900], float=[.1, .2, .3, .4], none=None, steps=[list(rng.choice(list('xyz'), r.shape[1])) for r in recs.values()])
    target['class'] = ['x', 'y', 'y', 'z']
    return TSMetaDataset.from_recordings(recs, 10, stride, horizon, target[y], info={'person': PEOPLE})


def learner(meta, out=None):
    torch.manual_seed(0)
    dls = TSMetaDatasets(meta, [range(len(meta))]*2, leak='allow').dataloaders(bs=8, seed=0, device='cpu')
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(20, out or meta.c)))
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    return learn


def same(got, want, probs=True):
    want = want if probs else want[[c for c in want if not c.startswith('p_')]]
    pd.testing.assert_frame_equal(got, want, check_dtype=False, rtol=1e-5)


@pytest.mark.parametrize('y', ['class', 'ints', 'float', 'steps'])
@pytest.mark.parametrize('by', ['dataset', 'person', ['person', 'name'], 'step'])
def test_it_is_the_joined_table(y, by, monkeypatch):
    learn = learner(recordings(y))
    whole = learn.predict_table(probs=y != 'float')
    monkeypatch.setattr(tsmeta.train.predict.RowCollector, 'after_batch', flushing(tsmeta.train.predict.RowCollector.after_batch))
    for how in ('mean', 'vote') if by != 'step' and y != 'float' else ('mean',):
        want = join_steps(whole) if by == 'step' else join_windows(whole, by, how)
        same(learn.predict_table(by=by, how=how, probs=True), want)
        got = learn.predict_table(by=by, how=how)
        same(got, want, False)
        assert len(got) == {'dataset': 4, 'person': 3, 'step': 95 + 40 + 60 + 30}.get(by if isinstance(by, str) else '', 4)


def flushing(after):
    "Hands on every batch, so that tables come in pieces"
    def f(self):
        after(self)
        if self.enough: self.flush()
    return f


def test_rows_in_any_order_and_from_training():
    learn = learner(recordings())
    whole = learn.predict_table(probs=True)
    shuffled = learn.dls.valid.new(shuffle=True)
    for by in ('dataset', 'person'): same(learn.predict_table(dl=shuffled, by=by, probs=True), join_windows(whole, by))
    same(learn.predict_table(dl=shuffled, by='step', probs=True), join_steps(whole))


def test_data_without_targets_and_without_rows():
    learn, meta = learner(recordings()), recordings('none')
    for by in ('dataset', 'person', 'step'):
        got = learn.predict_table(data=meta, by=by)
        assert 'target' not in got and len(got) and set(got.prediction) <= set('xyz') and got.probability.between(0, 1).all()
    assert learn.predict_table(data=meta, by='dataset', how='vote').rows.sum() == len(meta)
    empty = meta.subset([])
    for by in ('dataset', 'step'):
        got = learn.predict_table(data=empty, by=by)
        assert len(got) == 0 and {'name', 'prediction'} <= set(got)


def test_windows_that_disagree_have_no_common_target():
    assert 'target' not in learner(recordings('steps')).predict_table(by='dataset') and 'target' in learner(recordings()).predict_table(by='dataset')


@pytest.mark.parametrize('suffix', ['.csv', '.parquet'])
def test_saved(suffix, tmp_path):
    if suffix == '.parquet': pytest.importorskip('pyarrow')
    learn, read = learner(recordings()), dict(zip(['.csv', '.parquet'], [pd.read_csv, pd.read_parquet]))[suffix]
    for by in ('dataset', 'person'):
        path = learn.predict_table(by=by, save=tmp_path/f'{by}{suffix}')
        same(read(path), learn.predict_table(by=by))
    with pytest.raises(ValueError, match='leave save= out'): learn.predict_table(by='step', save=tmp_path/f'steps{suffix}')
    with pytest.raises(ValueError, match='no folder'): learn.predict_table(by='dataset', save=tmp_path/'no'/f'x{suffix}')
    assert sorted(p.name for p in tmp_path.iterdir()) == [f'dataset{suffix}', f'person{suffix}']


def test_what_is_kept_grows_with_the_recordings_not_with_the_windows(monkeypatch):
    kept, learn = [], learner(recordings(stride=1))
    monkeypatch.setattr(tsmeta.train.predict.RowCollector, 'after_batch', flushing(tsmeta.train.predict.RowCollector.after_batch))
    result = tsmeta.train.predict.WindowJoiner.result
    monkeypatch.setattr(tsmeta.train.predict.WindowJoiner, 'result', lambda self: (kept.append(sum(map(len, self.facts + self.sums + self.targets))), result(self))[1])
    learn.predict_table(by='dataset', bs=64)
    assert kept[0] < 30 < len(recordings(stride=1))


def test_wrong_questions(monkeypatch):
    learn = learner(recordings())
    monkeypatch.setattr(learn, '_do_epoch_validate', None)
    for kwargs, text in [(dict(by='town'), r"group by \['town'\], but the columns are"), (dict(by='dataset', how='max'), 'how must be'), (dict(how='vote'), "by='dataset'"),
                         (dict(by='step', how='vote'), 'joined by their mean'), (dict(by='dataset', with_input=True), 'no input of their own')]:
        with pytest.raises(ValueError, match=text): learn.predict_table(**kwargs)
    rows = TSMetaDataset({'a': (np.zeros((4, 2, 10), np.float32), list('xyxz'))})
    with pytest.raises(ValueError, match='not windows'): learn.predict_table(data=rows, by='step')
    numbers = learner(recordings('float'))
    with pytest.raises(ValueError, match='cannot vote'): numbers.predict_table(by='dataset', how='vote')
    ahead = learner(recordings('none', horizon=3), out=6)
    for by in ('dataset', 'step'):
        with pytest.raises(ValueError, match='several each'): ahead.predict_table(by=by)
    several = TSMetaDataset.from_recordings({'a': np.zeros((2, 40), np.float32)}, 10, y=[np.zeros(40)], y_reduce='all')
    with pytest.raises(ValueError, match='several each'): learner(several, out=10).predict_table(by='dataset')


def test_the_command_line(tmp_path):
    rng = np.random.default_rng(0)
    for name in ('one', 'two'): np.save(tmp_path/f'{name}.npy', rng.normal(size=(2, 200)).astype(np.float32))
    pd.DataFrame(dict(name=['one', 'two'], site=['n', 's'])).to_csv(tmp_path/'info.csv', index=False)
    call = lambda *args: CliRunner().invoke(app, [str(a) for a in args])
    common = [f'{tmp_path}/*.npy', '--info', tmp_path/'info.csv']
    done = call('train', *common, '--window', 20, '--y', 'site', '--split', 'each', '--epochs', 1, '--device', 'cpu', '--lr', .01, '--bs', 8, '--out', tmp_path/'run')
    assert done.exit_code == 0, done.output
    for more, rows in [([], 20), (['--by', 'dataset'], 2), (['--by', 'site', '--how', 'vote'], 2), (['--by', 'step'], 400)]:
        done = call('predict', tmp_path/'run', *common, *more)
        assert done.exit_code == 0 and len(done.stdout.splitlines()) == rows + 1, (more, done.output)
    assert call('predict', tmp_path/'run', *common, '--by', 'dataset', '--out', tmp_path/'p.csv').exit_code == 0 and len(pd.read_csv(tmp_path/'p.csv')) == 2
    bad = call('predict', tmp_path/'run', *common, '--by', 'town')
    assert bad.exit_code == 1 and "group by ['town']" in bad.stderr and call('predict', tmp_path/'run', *common, '--how', 'max').exit_code == 2


def test_facts_called_like_our_own_columns_step_aside():
    meta = TSMetaDataset.from_recordings({n: np.random.default_rng(0).normal(size=(2, 40)) for n in 'ab'}, 10, y=['x', 'y'],
                                         info=dict(name=['a', 'b'], row=['u', 'v'], rows=[7, 8], start=['s', 't'], dtype=['k', 'l']))
    learn = learner(meta)
    table = learn.predict_table()
    assert not table.columns.duplicated().any() and 'info_name' not in table and table.row.tolist()[:3] == [0, 1, 2]
    assert table[['info_row', 'info_rows', 'info_start']].drop_duplicates().to_numpy().tolist() == [['u', 7, 's'], ['v', 8, 't']]
    joined = learn.predict_table(by='dataset')
    assert joined.rows.tolist() == [4, 4] and joined.info_rows.tolist() == [7, 8]
    assert {'info_rows', 'info_dtype', 'row'} <= set(meta.summary()) and not meta.summary().columns.duplicated().any()
    assert 'info_name' in TSMetaDataset({'a': np.zeros((1, 1, 4))}, info=dict(name=['else'])).where([0])


def test_predict_table_takes_rows_from_one_place():
    learn = learner(recordings())
    with pytest.raises(ValueError, match='both dl= and data='): learn.predict_table(dl=learn.dls.valid, data=np.zeros((1, 2, 10), np.float32))
    with pytest.raises(ValueError, match='ds_idx=5 asks for a loader that is not there: this learner has 2'): learn.predict_table(5)
