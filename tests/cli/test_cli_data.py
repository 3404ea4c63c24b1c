"info, split, pack, verify: what they print, what they write, how they end."
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tsmeta.cli.main import app
from cli_tools import call

TSMETA = [sys.executable, '-c', 'import sys; from tsmeta.cli.main import main; sys.argv[0] = "tsmeta"; main()']
DATASETS = {'ann': 40, 'bob': 60, 'çelik ö': 30}


@pytest.fixture(scope='module')
def ward(tmp_path_factory):
    "A folder with a space and a letter beyond ASCII in its name, a file per person, and a table about them."
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp('ward') / 'café north'
    folder.mkdir()
    for name, n in DATASETS.items():
        y = rng.choice(['rest', 'walk'], n)
        np.save(folder/f'{name}.npy', (rng.normal(size=(n, 2, 20)) + (y == 'walk')[:, None, None]).astype(np.float32))
        np.save(folder/f'{name}_y.npy', y)
    pd.DataFrame(dict(name=[*DATASETS], site=['north', 'south', 'south'])).to_csv(folder/'people.csv', index=False)
    return folder


def files(ward): return f'{ward}/*.npy'


def test_info_says_what_is_there(ward):
    lines = call('info', files(ward), '--info', ward/'people.csv').stdout.splitlines()
    assert lines[0].startswith('130 rows in 3 datasets: 2 variables x 20 steps → 2 classes')
    assert lines[-2].split()[:6] == ['bob', '60', '2', '20', 'float32', '0'] and lines[-1].split()[-1] == 'south'


def test_info_counts_what_is_missing(tmp_path):
    x = np.zeros((3, 1, 9), np.float32)
    x[1, 0, 2:5] = np.nan
    np.save(tmp_path/'a.npy', x)
    assert json.loads(call('info', tmp_path/'a.npy', '--json').stdout)['table'][0]['nans'] == 3
    assert 'nans' not in json.loads(call('info', tmp_path/'a.npy', '--json', '--no-nans').stdout)['table'][0]


def test_info_of_a_store_lists_its_splits(ward, tmp_path):
    call('pack', files(ward), tmp_path/'store', '--split', 'train=train[:2shard]', '--split', 'new=train[2shard:]')
    told = json.loads(call('info', tmp_path/'store', '--json').stdout)
    assert [(s['split'], s['rows'], s['shards']) for s in told['splits']] == [('train', 100, 2), ('new', 30, 1)]
    assert told['version'] == '1.0' and [t['name'] for t in told['table']] == [*DATASETS]
    text = call('info', tmp_path/'store').stdout
    assert 'store of version 1.0' in text and any(line.split()[:3] == ['new', '30', '1'] for line in text.splitlines())


def test_results_go_to_stdout_and_notes_to_stderr(ward, tmp_path):
    done = subprocess.run([*TSMETA, 'split', files(ward), '--splitter', 'each', '--out', 'made.json'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('train: 104 rows') and done.stderr == 'Wrote made.json.\n'
    done = subprocess.run([*TSMETA, 'info', files(ward), '--json'], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stderr == '' and json.loads(done.stdout)['rows'] == 130


def test_a_reader_that_leaves_is_no_error(tmp_path):
    np.save(tmp_path/'a.npy', np.zeros((2, 1, 4)))
    listed = os.fspath(tmp_path/'a.npy')
    done = subprocess.run(f'"{sys.executable}" -c "from tsmeta.cli.main import main; main()" info "{listed}" | true', shell=True, capture_output=True, text=True)
    assert done.returncode == 0 and 'Traceback' not in done.stderr and 'Error' not in done.stderr, done.stderr


def test_a_split_can_be_read_back_and_only_for_its_data(ward, tmp_path):
    from tsmeta.all import SplitFile, TSMetaDataset
    call('split', files(ward), '--splitter', 'holdout', '--valid', 'bob', '--out', tmp_path/'s.json')
    mds = TSMetaDataset.open(files(ward)).split(SplitFile(tmp_path/'s.json'))
    assert [len(o) for o in mds] == [70, 60] and np.flatnonzero(mds.valid.lens).tolist() == [1]
    done = call('train', ward/'ann.npy', '--split', tmp_path/'s.json', '--out', tmp_path/'run', code=1)
    assert 'made for 3 datasets, here are 1' in done.stderr and not (tmp_path/'run').exists()


@pytest.mark.parametrize('args, rows', [(['--splitter', 'each', '--valid', '.5'], [65, 65]), (['--splitter', 'walk', '--valid', '5'], [115, 15]),
    (['--splitter', 'holdout', '--groups', 'site', '--valid', 'north', '--info', 'people.csv'], [90, 40]), (['train[:100]', 'train[100:]'], [100, 30]),
    (['train[:50%]', 'train[50%:]', '--per', 'dataset'], [65, 65]), (['a=train[:10]', 'b=train[10:30]', 'c=train[30:]'], [10, 20, 100])])
def test_ways_to_split(ward, tmp_path, monkeypatch, args, rows):
    monkeypatch.chdir(ward)
    out = call('split', files(ward), *args, '--out', tmp_path/'s.json').stdout
    assert [p['rows'] for p in json.loads((tmp_path/'s.json').read_text())['splits'].values()] == rows and 'leak: none' in out


def test_a_leak_is_refused_or_purged(ward, tmp_path):
    overlap = [files(ward), 'train[:80]', 'train[60:]', '--out', tmp_path/'s.json']
    done = call('split', *overlap, code=1)
    assert '20 rows of train share rows with valid' in done.stdout and '--leak purge' in done.stderr and not (tmp_path/'s.json').exists()
    assert 'dropped: 20 rows' in call('split', *overlap, '--leak', 'purge').stdout
    assert 'leak: 20 rows' in call('split', *overlap, '--leak', 'allow', '--force').stdout
    shared = call('split', files(ward), '--splitter', 'each', '--info', ward/'people.csv', '--groups', 'site', '--out', tmp_path/'g.json', code=1)
    assert 'share groups of site' in shared.stderr


def test_duplicates_are_found(tmp_path):
    x = np.random.default_rng(0).normal(size=(10, 1, 4))
    np.save(tmp_path/'a.npy', x), np.save(tmp_path/'b.npy', x)
    args = ['split', tmp_path, 'train[:1shard]', 'train[1shard:]', '--out', tmp_path/'s.json']
    assert 'duplicates' in call(*args, '--duplicates', code=1).stdout
    assert 'leak: none' in call(*args).stdout


def test_the_split_is_drawn(ward, tmp_path):
    call('split', files(ward), '--splitter', 'each', '--plot', tmp_path/'s.png', '--out', tmp_path/'s.json')
    assert (tmp_path/'s.png').read_bytes()[:4] == b'\x89PNG'


def test_pack_and_verify(ward, tmp_path):
    done = call('pack', files(ward), tmp_path/'store', '--info', ward/'people.csv', '--workers', '2', '--description', 'ünï')
    assert '130 rows of 2 x 20 in 3 datasets' in done.stdout and 'ünï' in done.stdout
    assert 'is sound' in call('verify', tmp_path/'store').stdout
    assert '--overwrite' in call('pack', files(ward), tmp_path/'store', code=1).stderr
    call('pack', files(ward), tmp_path/'store', '--overwrite')
    part = next((tmp_path/'store'/'data').glob('*.npy'))
    data = bytearray(part.read_bytes())
    data[-5] ^= 4
    part.write_bytes(data)
    call('verify', tmp_path/'store', '--quick')
    assert f'{part.name} has changed' in call('verify', tmp_path/'store', code=1).stderr
    part.write_bytes(data[:-1])
    assert part.name in call('verify', tmp_path/'store', '--quick', code=1).stderr
    assert 'not a store' in call('verify', tmp_path, code=1).stderr


def test_windows_and_horizons(tmp_path):
    np.save(tmp_path/'long.npy', np.sin(np.arange(200.))[None])
    told = json.loads(call('info', tmp_path/'long.npy', '--window', '20', '--stride', '10', '--horizon', '5', '--json').stdout)
    assert (told['rows'], told['horizon'], told['table'][0]['steps']) == (18, 5, 200)


def test_a_long_table_is_read(tmp_path):
    pd.DataFrame(dict(patient=np.repeat(['x', 'y'], 8), hour=[*range(8)]*2, hr=np.arange(16.))).to_csv(tmp_path/'t.csv', index=False)
    told = json.loads(call('info', tmp_path/'t.csv', '--column', 'id=patient', '--column', 'time=hour', '--column', 'values=hr', '--json').stdout)
    assert (told['rows'], told['length']) == (2, 8)


@pytest.mark.parametrize('args, says', [(['info', 'nowhere'], 'nowhere'), (['verify', 'nowhere'], 'not a store'), (['info', 'aeon:Nope'], 'Nope'), (['info', 'demo:clock'], 'demo:watch'),
    (['info', 'DATA', '--info', 'none.csv'], 'none.csv'), (['info', 'DATA', '--column', 'patient'], 'WHAT=NAME'), (['info', 'DATA', '--labels', 'strict', '--vocab', 'rest'], 'walk'),
    (['split', 'DATA', 'train[:80%'], 'train[:80%'), (['split', 'DATA', 'trian'], 'trian'), (['split', 'DATA', '--splitter', 'holdout', '--valid', 'bbo'], 'bob'),
    (['split', 'DATA', '--splitter', 'each', '--valid', 'bob'], 'names are for holdout'), (['split', 'DATA', 'none.json'], 'no splits file'),
    (['predict', 'nowhere', 'DATA'], 'not the folder of a run'), (['report', 'nowhere'], 'not the folder of a run')])
def test_what_goes_wrong_is_said_plainly(ward, tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    done = call(*[files(ward) if a == 'DATA' else a for a in args], code=1)
    assert says in done.stderr and done.stderr.startswith('tsmeta: ') and done.stderr.count('tsmeta: ') == 1, done.stderr


@pytest.mark.parametrize('args', [['info'], ['info', 'x', '--window', '0'], ['info', 'x', '--window', 'a'], ['info', 'x', '--labels', 'all'], ['split', 'x'], ['split', 'x', '--splitter', 'fair'],
    ['split', 'x', 'a', '--splitter', 'each'], ['pack', 'x'], ['train', 'x'], ['train', 'x', '--out', 'r', '--epochs', '0'], ['predict', 'r'], ['info', 'x', '--config', 'none.toml']])
def test_wrong_usage_ends_with_2(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call(*args, code=2)


def test_debug_shows_where(tmp_path):
    done = CliRunner().invoke(app, ['info', os.fspath(tmp_path/'nowhere'), '--debug'])
    assert done.exit_code == 1 and 'Traceback' in done.stderr and done.stderr.splitlines()[-1].startswith('tsmeta: ')


def test_an_unexpected_error_is_named(monkeypatch, ward):
    import tsmeta.cli.data
    def fail(*args): raise KeyError('oops')
    monkeypatch.setattr(tsmeta.cli.data, 'open_data', fail)
    assert call('info', files(ward), code=1).stderr == "tsmeta: KeyError: 'oops' (--debug shows where)\n"


def test_read_only_data(ward, tmp_path):
    import shutil
    shutil.copytree(ward, tmp_path/'ro')
    for f in [*(tmp_path/'ro').iterdir(), tmp_path/'ro']: f.chmod(0o555 if f.is_dir() else 0o444)
    try:
        before = sorted(f.name for f in (tmp_path/'ro').iterdir())
        call('info', f'{tmp_path}/ro/*.npy')
        call('split', f'{tmp_path}/ro/*.npy', '--splitter', 'each', '--out', tmp_path/'s.json')
        call('train', f'{tmp_path}/ro/*.npy', '--split', tmp_path/'s.json', '--epochs', 1, '--device', 'cpu', '--out', tmp_path/'run')
        call('predict', tmp_path/'run', f'{tmp_path}/ro/*.npy', '--out', tmp_path/'p.csv')
        assert sorted(f.name for f in (tmp_path/'ro').iterdir()) == before
    finally: (tmp_path/'ro').chmod(0o755)


def test_the_watch_recordings_have_a_name(tmp_path):
    pytest.importorskip('seglearn')
    done = subprocess.run([*TSMETA, 'info', 'demo:watch', '--json'], env={**os.environ, 'TSMETA_CACHE': os.fspath(tmp_path/'cache')}, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told['datasets'] == 140 and len(told['vocab']) == 7 and told['var_names'][0] == 'ax' and 'cache' in done.stderr
    assert len(list((tmp_path/'cache'/'watch').glob('*.npy'))) == 140


def test_a_column_can_label_recordings(tmp_path):
    for k, name in enumerate('abc'): np.save(tmp_path/f'{name}.npy', np.full((1, 60), k, np.float32))
    pd.DataFrame(dict(name=list('abc'), state=['ill', 'well', 'ill'], empty=['x', None, 'x'])).to_csv(tmp_path/'people.csv', index=False)
    how = [f'{tmp_path}/*.npy', '--window', '20', '--info', tmp_path/'people.csv']
    out = json.loads(call('info', *how, '--y', 'state', '--json').stdout)
    assert out['vocab'] == ['ill', 'well'] and out['rows'] == 9
    for more, says in [(['--y', 'stat'], 'the columns state'), (['--y', 'empty'], "says nothing about 'b' (1)"), (['--y', 'state', '--horizon', '5'], 'one or the other')]:
        assert says in call('info', *how, *more, code=1).stderr
    assert 'to be given with --info' in call('info', f'{tmp_path}/*.npy', '--window', '20', '--y', 'state', code=1).stderr


def test_times_on_the_command_line(tmp_path):
    for who, gap in (('ann', 3600), ('bob', 0)):
        seconds = np.arange(60) + gap*(np.arange(60) >= 25)
        pd.DataFrame(dict(t=pd.Timestamp('2026-03-01T08:00') + pd.to_timedelta(seconds, 's'), hr=np.sin(seconds))).to_csv(tmp_path/f'{who}.csv', index=False)
    how = ['--window', '10', '--times', 't', '--max-gap', '2s']
    said = json.loads(call('info', str(tmp_path), *how, '--json').stdout)
    assert said['vars'] == 1 and [o['rows'] for o in said['table']] == [5, 6] and [o['gaps'] for o in said['table']] == [1, 0]
    assert '2 recordings: dates, 1 regular, 1 with gaps' in call('pack', str(tmp_path), str(tmp_path/'store'), *how).stdout
    again = json.loads(call('info', str(tmp_path/'store'), '--json').stdout)
    assert [{k: o[k] for k in ('rows', 'from', 'to', 'gaps', 'nans')} for o in again['table']] == [{k: o[k] for k in ('rows', 'from', 'to', 'gaps', 'nans')} for o in said['table']]
    assert 'is sound' in call('verify', str(tmp_path/'store')).stdout
    assert '--max-gap 2s needs --times' in call('info', str(tmp_path), '--window', '10', '--max-gap', '2s', code=1).output
