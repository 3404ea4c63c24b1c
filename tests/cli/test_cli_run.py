"train, predict, report: the folder of a run, the same result again, a run that is stopped, and what may go wrong."
import io
import json
import shutil
import os
import signal
import subprocess
import sys
import time
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cli_tools import call

TSMETA = [sys.executable, '-c', 'import sys; from tsmeta.cli.main import main; sys.argv[0] = "tsmeta"; main()']
ONE = ['--epochs', '1', '--device', 'cpu', '--lr', '0.01', '--bs', '16']


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(folder, y_of, n_vars=2, steps=24):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, n in [('ann', 40), ('bob', 60), ('cid', 30), ('dan', 50)]:
        k = rng.integers(0, 3, n)
        np.save(folder/f'{name}.npy', (rng.normal(size=(n, n_vars, steps)) + k[:, None, None]*np.linspace(-1, 1, steps)).astype(np.float32))
        if y_of: np.save(folder/f'{name}_y.npy', y_of(k))
    return f'{folder}/*.npy'


@pytest.fixture(scope='module')
def data(tmp_path_factory): return write(tmp_path_factory.mktemp('data') / 'ward north', lambda k: np.array(['lie', 'sit', 'walk'])[k])


@pytest.fixture(scope='module')
def run(data, tmp_path_factory):
    "A run that is done; tests must not change it."
    out = tmp_path_factory.mktemp('runs') / 'první běh'
    people = tmp_path_factory.mktemp('table') / 'people.csv'
    pd.DataFrame(dict(name=['ann', 'bob', 'cid', 'dan'], site=['n', 's', 's', 'n'])).to_csv(people, index=False)
    call('train', data, '--split', 'each', '--test', '0.1', '--info', people, '--by', 'site', '--mix', 'temperature:2', *ONE, '--out', out)
    return out


def test_a_run_holds_everything(run, data):
    has = {f.name for f in run.iterdir()}
    assert {'config.toml', 'run.json', 'splits.json', 'history.csv', 'predictions.csv', 'datasets.csv', 'groups.csv', 'mixture.csv', 'worst.csv', 'curves.png', 'datasets.png',
            'confusion.png', 'split.png', 'mixture.png', 'worst-1.png'} <= has and 'checkpoints' not in has
    facts, config = json.loads((run/'run.json').read_text()), tomllib.loads((run/'config.toml').read_text())
    assert facts['state'] == 'done' and facts['environment']['torch'] == torch.__version__.split('+')[0] and facts['rows'] == dict(train=126, valid=36, test=18)
    assert (config['data'], config['mix'], config['epochs'], config['split']) == (data, 'temperature:2', 1, ['each'])
    predictions, scores = pd.read_csv(run/'predictions.csv'), pd.read_csv(run/'datasets.csv')
    assert predictions.part.value_counts().to_dict() == dict(valid=36, test=18) and len(scores) == 8
    for _, s in scores.iterrows():
        mine = predictions[(predictions.part == s.part) & (predictions['name'] == s['name'])]
        assert len(mine) == s.rows and np.isclose((mine.target == mine.prediction).mean(), s.accuracy)


def test_the_config_runs_it_again_and_the_command_line_wins(run, tmp_path):
    call('train', '--config', run/'config.toml', '--out', tmp_path/'same')
    assert (tmp_path/'same'/'predictions.csv').read_bytes() == (run/'predictions.csv').read_bytes()
    assert (tmp_path/'same'/'splits.json').read_bytes() == (run/'splits.json').read_bytes()
    call('train', '--config', run/'config.toml', '--out', tmp_path/'other', '--seed', '5')
    assert (tmp_path/'other'/'predictions.csv').read_bytes() != (run/'predictions.csv').read_bytes()
    assert tomllib.loads((tmp_path/'other'/'config.toml').read_text())['seed'] == 5


def test_a_splits_file_gives_the_same_split(run, data, tmp_path):
    call('train', data, '--split', run/'splits.json', '--mix', 'temperature:2', *ONE, '--out', tmp_path/'r')
    assert pd.read_csv(tmp_path/'r'/'predictions.csv').prediction.equals(pd.read_csv(run/'predictions.csv').prediction)


def test_a_store_brings_its_own_split(data, tmp_path):
    call('pack', data, tmp_path/'store', '--split', 'train=train[:3shard]', '--split', 'valid=train[3shard:]')
    call('train', tmp_path/'store', *ONE, '--out', tmp_path/'r')
    assert set(pd.read_csv(tmp_path/'r'/'predictions.csv').name) == {'dan'}


@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
def test_predictions_go_where_they_are_wanted(run, data, tmp_path, suffix):
    if suffix == 'parquet': pytest.importorskip('pyarrow')
    out = tmp_path/'new folder'/f'p.{suffix}'
    done = call('predict', run, data, '--out', out)
    assert 'Predicted 180 rows of 4 datasets' in done.stderr and done.stdout == ''
    table = pd.read_csv(out) if suffix == 'csv' else pd.read_parquet(out)
    kept = pd.read_csv(run/'predictions.csv').set_index(['name', 'row']).prediction
    assert (table.set_index(['name', 'row']).prediction.loc[kept.index] == kept).all() and os.listdir(out.parent) == [out.name]


def test_predictions_can_be_piped(run, data, tmp_path):
    done = subprocess.run([*TSMETA, 'predict', run, data], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0 and len(pd.read_csv(io.StringIO(done.stdout))) == 180 and 'Predicted 180 rows' in done.stderr


def test_rows_that_cannot_be_predicted_are_told(run, data, tmp_path):
    new = shutil.copytree(Path(data).parent, tmp_path/'new')
    X = np.load(new/'bob.npy')
    X[7] = np.inf
    np.save(new/'bob.npy', X)
    done = subprocess.run([*TSMETA, 'predict', run, new], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    table = pd.read_csv(io.StringIO(done.stdout))
    assert "no prediction for 1 of 180 rows, such as dataset 'bob' (1), row 7" in done.stderr and table[table.prediction.isna()][['name', 'row']].to_numpy().tolist() == [['bob', 7]]


def test_the_learner_is_loaded_without_unpickling(run, data, tmp_path, monkeypatch):
    pytest.importorskip('safetensors')
    import pickle
    copy = shutil.copytree(run, tmp_path/'copy')
    assert {f.name for f in (copy/'learner').iterdir()} == {'weights.safetensors', 'tsmeta.json'} and not list(copy.glob('**/*.pkl'))
    def never(*args, **kwargs): raise AssertionError('something was unpickled')
    monkeypatch.setattr(torch, 'load', never), monkeypatch.setattr(pickle, 'load', never)
    call('predict', copy, data, '--out', tmp_path/'p.csv')
    (copy/'learner'/'weights.safetensors').write_bytes(b'x'*100)
    assert 'weights.safetensors is not the file' in call('predict', copy, data, code=1).stderr


def test_temperatures_may_change(data, tmp_path):
    call('train', data, '--split', 'each', '--mix', 'temperature:4-1', *ONE, '--epochs', '2', '--out', tmp_path/'run')
    mix = pd.read_csv(tmp_path/'run/mixture.csv')
    np.testing.assert_allclose(mix.share, mix.rows/mix.rows.sum(), atol=1e-6)
    assert 'temperature:4-1' in call('train', data, '--split', 'each', '--mix', 'temperature:1-2-3', '--out', tmp_path/'other', code=1).stderr


def test_without_safetensors_it_is_a_pickle(data, tmp_path, monkeypatch):
    import importlib.util
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'safetensors' else find(name, *a))
    call('train', data, '--split', 'each', *ONE, '--out', tmp_path/'r')
    assert (tmp_path/'r'/'learner.pkl').exists() and not (tmp_path/'r'/'learner').exists()
    call('predict', tmp_path/'r', data, '--out', tmp_path/'p.csv')


def test_data_without_targets_is_predicted(run, tmp_path):
    np.save(tmp_path/'new.npy', np.zeros((3, 2, 24), np.float32))
    call('predict', run, tmp_path/'new.npy', '--out', tmp_path/'p.csv')
    table = pd.read_csv(tmp_path/'p.csv')
    assert len(table) == 3 and 'target' not in table and set(table.prediction) <= {'lie', 'sit', 'walk'}


def test_data_that_does_not_fit_is_refused(run, tmp_path):
    np.save(tmp_path/'wide.npy', np.zeros((3, 5, 24)))
    assert "'wide' (0): 5 variables, expected 2" in call('predict', run, tmp_path/'wide.npy', code=1).stderr
    np.save(tmp_path/'odd.npy', np.zeros((1, 2, 24))), np.save(tmp_path/'odd_y.npy', ['run'])
    assert "unknown label 'run'" in call('predict', run, tmp_path/'odd.npy', code=1).stderr
    assert '.csv or .parquet' in call('predict', run, tmp_path/'odd.npy', '--out', 'x.txt', '--vocab', 'run', code=1).stderr


@pytest.mark.parametrize('kind', ['number', 'numbers', 'horizon', 'labels'])
def test_other_targets_are_learnt(tmp_path, kind):
    y_of = dict(number=lambda k: k*1000. + 5000, numbers=lambda k: np.stack([k*1., -k], 1).astype(np.float32), labels=None, horizon=None)[kind]
    if kind == 'horizon':
        for name in 'ab': np.save(tmp_path/f'{name}.npy', np.sin(np.arange(300)/5.)[None] * 50 + 400)
        where, how = f'{tmp_path}/*.npy', ['--window', '20', '--horizon', '4', '--stride', '4']
    elif kind == 'labels':
        np.savez(tmp_path/'m.npz', X=np.random.default_rng(0).normal(size=(60, 1, 12)), y=np.arange(60) % 2 == 0)
        where, how = tmp_path/'m.npz', []
    else: where, how = write(tmp_path/'d', y_of), []
    call('train', where, *how, '--split', 'each', *ONE, '--epochs', '3', '--out', tmp_path/'r')
    call('report', tmp_path/'r')
    scores = pd.read_csv(tmp_path/'r'/'datasets.csv')
    assert ('accuracy' if kind == 'labels' else 'mae') in scores
    if kind == 'number': assert scores.mae.max() < 900
    if kind == 'horizon': assert scores.mae.max() < 60
    call('predict', tmp_path/'r', where, '--out', tmp_path/'p.csv')
    assert len(pd.read_csv(tmp_path/'p.csv'))


def test_missing_numbers_do_not_spoil_training(tmp_path):
    where = write(tmp_path/'d', lambda k: k)
    x = np.load(tmp_path/'d'/'bob.npy')
    x[::3, 0, 4:9] = np.nan
    np.save(tmp_path/'d'/'bob.npy', x)
    call('train', where, '--split', 'each', *ONE, '--out', tmp_path/'r')
    assert pd.read_csv(tmp_path/'r'/'history.csv').notna().all(None)


def test_an_architecture_of_tsai(data, tmp_path):
    pytest.importorskip('tsai')
    call('train', data, '--split', 'each', *ONE, '--arch', 'FCNPlus', '--out', tmp_path/'r')
    call('predict', tmp_path/'r', data, '--out', tmp_path/'p.csv')
    assert "'FCNPlus'" in call('train', data, '--split', 'each', '--arch', 'FCNPlu', '--out', tmp_path/'s', code=1).stderr and not (tmp_path/'s').exists()


HIDDEN = '''
import sys
class NoTsai:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'tsai': raise ModuleNotFoundError("No module named 'tsai'", name='tsai')
sys.meta_path.insert(0, NoTsai())
from tsmeta.cli.main import app
for arch in ('small', 'FCN'):
    try: app(['train', sys.argv[1], '--split', 'each', '--epochs', '1', '--device', 'cpu', '--arch', arch, '--out', arch])
    except SystemExit as e: print('ended', e.code)
'''


def test_without_tsai(data, tmp_path):
    done = subprocess.run([sys.executable, '-c', HIDDEN, data], capture_output=True, text=True, cwd=tmp_path)
    assert [line for line in done.stdout.splitlines() if line.startswith('ended')] == ['ended 0', 'ended 1'], done.stderr
    assert "pip install 'tsmeta[tsai]'" in done.stderr and '--arch small' in done.stderr and os.listdir(tmp_path) == ['small']


class Page(HTMLParser):
    "Notes tags, what is loaded, and whether tags close in order."
    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.tags, self.text = [], [], [], ''
        self.feed(text)
        assert self.open == []
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ('src', 'href', 'srcset', 'data')]
        if tag not in ('meta', 'img'): self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag
    def handle_data(self, data): self.text += data


def test_the_report_is_one_file(run, tmp_path):
    done = call('report', run, '--out', tmp_path/'page.html')
    page = Page((tmp_path/'page.html').read_text(encoding='utf-8'))
    assert done.stdout.strip() == str(tmp_path/'page.html')
    assert page.links and all(o.startswith('data:image/png;base64,') for o in page.links) and not {'script', 'link', 'iframe'} & set(page.tags)
    for says in ('první běh', 'bob', 'By site', 'temperature:2', torch.__version__.split('+')[0], 'Confusion'): assert says in page.text, says


def test_names_cannot_write_into_the_report(tmp_path):
    name = '<img src=x onerror=alert(1)>'
    rng = np.random.default_rng(0)
    np.savez(tmp_path/'d.npz', **{f'{name}': rng.normal(size=(30, 1, 8)), f'{name}_y': rng.choice(['<b>', '&amp;'], 30), 'b': rng.normal(size=(20, 1, 8)), 'b_y': rng.choice(['<b>', '&amp;'], 20)})
    call('train', tmp_path/'d.npz', '--split', 'each', *ONE, '--out', tmp_path/'r')
    call('report', tmp_path/'r')
    page = Page((tmp_path/'r'/'report.html').read_text(encoding='utf-8'))
    assert name in page.text and page.tags.count('img') == len(page.links) and all(o.startswith('data:') for o in page.links)


def test_what_is_there_is_never_lost(run, data, tmp_path):
    before = {f.name: f.stat().st_mtime_ns for f in run.iterdir()}
    assert '--overwrite' in call('train', data, '--split', 'each', *ONE, '--out', run, code=1).stderr
    assert 'other options' in call('train', data, '--split', 'each', *ONE, '--out', run, '--resume', code=1).stderr
    (tmp_path/'diary.txt').write_text('dear')
    assert 'diary.txt' in call('train', data, '--split', 'each', *ONE, '--out', tmp_path, '--overwrite', code=1).stderr and (tmp_path/'diary.txt').exists()
    assert 'no run' in call('train', data, '--split', 'each', *ONE, '--out', tmp_path/'none', '--resume', code=1).stderr
    assert before == {f.name: f.stat().st_mtime_ns for f in run.iterdir()}


@pytest.mark.parametrize('args, says', [(['--split', 'train'], 'nothing to validate on'), ([], 'Say how to split'), (['--split', 'each', '--mix', 'warm'], '--mix takes'),
    (['--split', 'each', '--mix', 'zoe=1'], 'zoe'), (['--split', 'each', '--by', 'site'], '--by site'), (['--split', 'train[:80]', '--split', 'train[60:]'], 'leaks'),
    (['--split', 'each', '--every', 'soon'], 'every'), (['--split', 'each', '--device', 'toaster'], 'toaster')])
def test_nothing_is_begun_when_something_is_wrong(data, tmp_path, args, says):
    done = call('train', data, *args, '--out', tmp_path/'r', code=1)
    assert says in done.stderr and not (tmp_path/'r').exists()


def test_data_without_targets_is_not_trained_on(tmp_path):
    assert 'no targets' in call('train', write(tmp_path/'d', None), '--split', 'each', '--out', tmp_path/'r', code=1).stderr


def options(data, out): return ['train', data, '--split', 'each', '--epochs', '14', '--device', 'cpu', '--bs', '4', '--every', '20', '--out', str(out)]


def start(data, out):
    return subprocess.Popen([*TSMETA, *options(data, out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})


def stop(process, out, how):
    "Sends a signal once some states have been kept."
    end = time.time() + 60
    while time.time() < end and len([f for f in (out/'checkpoints').glob('0*') if int(f.name.split('-')[0]) >= 60]) == 0: time.sleep(.01)
    process.send_signal(how)
    return process.communicate(timeout=60)


def test_a_killed_run_goes_on_and_ends_the_same(data, tmp_path):
    call(*options(data, tmp_path/'whole'))
    killed = start(data, tmp_path/'killed')
    stop(killed, tmp_path/'killed', signal.SIGKILL)
    assert killed.returncode == -9 and json.loads((tmp_path/'killed'/'run.json').read_text())['state'] == 'running'
    assert 'not done' in call('predict', tmp_path/'killed', data, code=1).stderr and 'not done' in call('report', tmp_path/'killed', code=1).stderr
    assert '--resume' in call('train', '--config', tmp_path/'killed'/'config.toml', code=1).stderr
    call('train', '--config', tmp_path/'killed'/'config.toml', '--resume')
    for name in ('predictions.csv', 'history.csv', 'datasets.csv', 'dataset_history.csv'):
        assert (tmp_path/'killed'/name).read_bytes() == (tmp_path/'whole'/name).read_bytes(), name


def test_ctrl_c_ends_with_130(data, tmp_path):
    process = start(data, tmp_path/'r')
    _, err = stop(process, tmp_path/'r', signal.SIGINT)
    assert process.returncode == 130 and 'Traceback' not in err and '--resume' in err


