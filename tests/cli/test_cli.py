"The command line: quick to answer, plain about mistakes, and a demo that can be run again."
import os
import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from tsmeta.cli.main import app

TSMETA = [sys.executable, '-c', 'import sys; from tsmeta.cli.main import main; sys.argv[0] = "tsmeta"; main()']


def without(module, *args, cwd):
    "Runs tsmeta where a module cannot be imported, into a pipe."
    hide = ('import sys, importlib.util as u; find = u.find_spec; '
            f'u.find_spec = lambda name, *a: None if name == {module!r} else find(name, *a); sys.modules[{module!r}] = None\n')
    code = f'{hide}sys.argv = ["tsmeta", *sys.argv[1:]]\nfrom tsmeta.cli.main import main\nmain()'
    return subprocess.run([sys.executable, '-c', code, *args], cwd=cwd, capture_output=True, text=True, timeout=200)


HELP = '''
import sys
from typer.testing import CliRunner
from tsmeta.cli.main import app
for command in ([], *([c.callback.__name__] for c in app.registered_commands)):
    done = CliRunner().invoke(app, [*command, '--help'])
    print(command, done.exit_code, 'Usage: ' in done.output)
print(sorted({'torch', 'fastai', 'numpy', 'pandas', 'tsai', 'matplotlib', 'numba', 'scipy', 'yaml'} & sys.modules.keys()))
'''


def test_help_of_every_command_imports_nothing_heavy():
    done = subprocess.run([sys.executable, '-c', HELP], capture_output=True, text=True)
    *lines, heavy = done.stdout.splitlines()
    commands = [[], *([c] for c in ('demo', 'info', 'split', 'pack', 'verify', 'train', 'predict', 'report'))]
    assert lines == [f'{c} 0 True' for c in commands] and heavy == '[]', done.stdout + done.stderr


def test_the_program_answers():
    done = subprocess.run([*TSMETA, '--help'], capture_output=True, text=True)
    assert done.returncode == 0 and 'Usage: tsmeta' in done.stdout and 'demo' in done.stdout


@pytest.mark.parametrize('args, want', [([], (3, 5, 50, 2)), (['--quick'], (1, 2, 100, 4)), (['--quick', '--seeds', '2'], (2, 2, 100, 4)), (['--epochs', '1'], (3, 1, 50, 2))])
def test_options_reach_the_demo(monkeypatch, args, want):
    import tsmeta.cli.demo
    monkeypatch.setenv('MPLBACKEND', 'agg')
    got = []
    monkeypatch.setattr(tsmeta.cli.demo, 'run_demo', lambda out, *a: got.append((out, a)))
    done = CliRunner().invoke(app, ['demo', '--out', 'there', *args])
    assert done.exit_code == 0, done.output
    assert got == [('there', want)]


@pytest.mark.parametrize('error', [ValueError('three names, two datasets'), ImportError('pip install it'), OSError('disk full')])
def test_mistakes_are_one_line(monkeypatch, error):
    import tsmeta.cli.demo
    monkeypatch.setenv('MPLBACKEND', 'agg')
    def fail(*args): raise error
    monkeypatch.setattr(tsmeta.cli.demo, 'run_demo', fail)
    done = CliRunner().invoke(app, ['demo'])
    assert done.exit_code == 1 and f'tsmeta: {error}' in done.output and 'Traceback' not in done.output


def test_wrong_options_are_refused():
    for args in (['demo', '--seeds', '0'], ['demo', '--speed'], ['fly']):
        done = CliRunner().invoke(app, args)
        assert done.exit_code == 2 and 'Traceback' not in done.output


@pytest.mark.parametrize('module', ['tsai', 'seglearn'])
def test_missing_packages_are_named(tmp_path, module):
    done = without(module, 'demo', '--quick', cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith('tsmeta: ') and module in done.stderr and 'pip install' in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


TWICE = '''
import sys
from tsmeta.cli.demo import run_demo
for _ in range(2): files = run_demo('out', seeds=1, epochs=1, stride=400, every=4)
'''


def test_the_demo_runs_in_a_pipe_and_again(tmp_path):
    pytest.importorskip('tsai'), pytest.importorskip('seglearn')
    env = {**os.environ, 'MPLBACKEND': 'agg', 'PYTHONWARNINGS': 'ignore', 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', TWICE], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split('140 recordings of ')[1:]
    assert 'no bytes of the' in first and 'no bytes of the' in second and 'P08-' in first
    accuracy = [float(line.split('never seen ')[1].split()[0]) for line in first.splitlines() if 'epoch 1 of 1' in line]
    predictions, scores = pd.read_csv(tmp_path/'out'/'predictions.csv'), pd.read_csv(tmp_path/'out'/'scores.csv')
    assert set(predictions.person) == {'P08', 'P09', 'P10'} and len(scores) == 42
    assert round((predictions.target == predictions.prediction).mean(), 3) == accuracy[0]
    said = [line.split() for line in first.splitlines() if line.startswith(' ')]
    files = {line[-1] for line in said if line[-1].startswith('out')}
    assert len(files) == 7 and all((tmp_path/f).exists() for f in files)
    assert [line for line in first.splitlines() if 'epoch' not in line] == [line for line in second.splitlines() if 'epoch' not in line]
