"Without tsai, with other start methods, from a wheel, and with tsai's names beside ours."
import os
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A finder that refuses tsai, as if it were not installed
BLOCK = '''
import sys
class NoTsai:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'tsai': raise ModuleNotFoundError("No module named 'tsai'", name='tsai')
sys.meta_path.insert(0, NoTsai())
import matplotlib
matplotlib.use('agg')
'''

EVERYDAY = '''
import numpy as np, torch, tempfile
from tsmeta.all import *
from fastai.callback.progress import ProgressCallback
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.metrics import accuracy
from torch import nn

def main():
    rng, folder = np.random.default_rng(0), tempfile.mkdtemp()
    meta = TSMetaDataset({k: (rng.normal(size=(n, 2, 10)).astype(np.float32), rng.choice(list('ab'), n)) for k, n in [('u', 30), ('v', 20)]})
    assert type(meta[0][0]) is TensorSeries and type(meta[:][0]) is TensorSeries
    mds = meta.split('train[:60%]', 'train[60%:]', per='dataset')
    dls = mds.dataloaders(bs=8, seed=0, weights=np.arange(1., 51), device='cpu')
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(20, dls.c)), metrics=accuracy, path=folder)
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *args: None
    learn.fit(2)
    preds, targets = learn.get_preds()
    assert np.array_equal(targets, mds[1].targets())
    dls.show_batch(max_n=4), dls.show_batch(unique=True, max_n=2), learn.show_results(max_n=3), dls.show_dist(), dls.cws, dls.class_priors
    ClassificationInterpretation.from_learner(learn).plot_top_losses(2)
    learn.export('m.pkl')
    again = load_learner(folder + '/m.pkl')
    assert torch.allclose(again.get_preds(dl=again.dls.test_dl(mds[1]))[0], preds)
    for workers, ctx in ((2, 'fork'), (1, 'spawn')):
        dl = TSMetaDataLoader(meta, bs=8, shuffle=True, seed=3, num_workers=workers, multiprocessing_context=ctx)
        seen = [dl.ids.tolist() for x, y in dl if torch.equal(x, meta[dl.ids][0])]
        assert seen == [dl.ids.tolist() for dl in [TSMetaDataLoader(meta, bs=8, shuffle=True, seed=3)] for _ in dl]
    waves = TSMetaDataset.from_recordings([np.sin(np.arange(90.))], window=10, horizon=2)
    parts = waves.split(EachSplitter())
    assert len(parts.train) and parts.train[0][1].shape == (1, 2)
    assert not any(m.split('.')[0] == 'tsai' for m in sys.modules)
    print('fine')

if __name__ == '__main__': main()
'''


def run(code, tmp_path, path=ROOT, **env):
    script = tmp_path/'script.py'
    script.write_text(code, encoding='utf-8')
    done = subprocess.run([sys.executable, '-W', 'ignore', script], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(path), **env},
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def test_everyday_work_without_tsai(tmp_path): assert run(BLOCK + EVERYDAY, tmp_path)[-1] == 'fine'


def test_a_learner_loaded_elsewhere(tmp_path):
    make = '''
import numpy as np
from fastai.learner import Learner
from torch import nn
from tsmeta.all import *
meta = TSMetaDataset({'u': (np.ones((20, 2, 10), np.float32), list('ab')*10)}, var_names=['acc', 'gyro'])
dls = meta.split({'train': range(15), 'valid': range(15, 20)}).dataloaders(bs=8, device='cpu')
Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(20, 2)), path='.').export('m.pkl')
'''
    use = '''
from fastai.learner import load_learner
import numpy as np
learn = load_learner('m.pkl')
d = learn.dls
assert (d.vars, d.len, d.c, list(d.vocab), d.d, d.cat) == (2, 10, 2, ['a', 'b'], None, True)
assert d.train_ds.schema.var_names == ['acc', 'gyro'] and len(d.train_ds) == 0
assert learn.get_preds(dl=d.test_dl(np.zeros((3, 2, 10))))[0].shape == (3, 2)
for X, y, says in [(np.zeros((3, 4, 10)), None, "'new' (0): 4 variables, expected 2"), (np.zeros((3, 2, 9)), None, "'new' (0): 9 steps, expected 10"),
                   (np.zeros((2, 2, 10)), ['a', 'c'], "'new' (0), row 1: unknown label 'c'"), (np.zeros((2, 2, 10)), ['a'], "'new' (0) has 2 rows but 1 targets")]:
    try: d.new_dl(X, y)
    except ValueError as e: assert says in str(e), e
    else: raise SystemExit(f'accepted: {says}')
from tsmeta.data.dataset import TSMetaDataset
x = np.arange(60.).reshape(3, 2, 10)
lined_up = d.test_dl(TSMetaDataset({'ann': x}, var_names=['gyro', 'acc']))
assert np.array_equal(lined_up.one_batch()[0], x[:, ::-1])
try: d.test_dl(TSMetaDataset({'ann': x}, var_names=['gyro', 'mag']))
except ValueError as e: assert "'ann' (0) has variables ['gyro', 'mag']" in str(e) and "['acc'] are missing" in str(e), e
else: raise SystemExit('accepted other variables')
assert d.cws.tolist() == d.class_priors.tolist() == [0, 0]
'''
    run(make, tmp_path)
    run(BLOCK + use, tmp_path)


def test_a_wheel_works_outside_the_checkout(tmp_path):
    setuptools = pytest.importorskip('setuptools')
    if int(setuptools.__version__.split('.')[0]) < 77: pytest.skip(f'building needs setuptools 77, here is {setuptools.__version__}')
    files = subprocess.run(['git', 'ls-files', 'tsmeta', 'setup.py', 'settings.ini', 'pyproject.toml', 'README.md', 'LICENSE', 'MANIFEST.in'],
                           cwd=ROOT, capture_output=True, text=True)
    if files.returncode: pytest.skip('not a git checkout')
    for f in files.stdout.splitlines():
        if not (ROOT/f).is_file(): continue
        (tmp_path/'tree'/f).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/'tree'/f).write_bytes((ROOT/f).read_bytes())
    done = subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path/'dist', tmp_path/'tree'],
                          capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wheel, = (tmp_path/'dist').glob('*.whl')
    zipfile.ZipFile(wheel).extractall(tmp_path/'site')
    (tmp_path/'work').mkdir()
    code = BLOCK + '''
import numpy as np, tsmeta
from tsmeta.all import *
dls = TSMetaDataset([(np.ones((9, 2, 5)), list('abcabcabc'))]*2).split({'train': range(9), 'valid': range(9, 18)}).dataloaders(bs=4)
assert len(list(dls.train)) == 2 and list(dls.vocab) == list('abc')
print(tsmeta.__file__)
'''
    where = run(code, tmp_path/'work', tmp_path/'site')[-1]
    assert Path(where).is_relative_to(tmp_path/'site')


def test_names_do_not_clash():
    basics = pytest.importorskip('tsai.basics')
    import tsmeta.all as ours
    theirs = {n for n in vars(basics) if not n.startswith('_')}
    clash = [n for n in ours.__all__ if n in theirs and getattr(basics, n) is not getattr(ours, n)]
    assert not clash, f'tsai.basics has other things called {clash}'
    assert all(hasattr(ours, n) for n in ours.__all__)


def test_all_loads_every_module():
    import tsmeta
    done = subprocess.run([sys.executable, '-c', 'import sys, tsmeta.all\nprint(*[m for m in sys.modules if m.startswith("tsmeta.")])'],
                          env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    modules = {m.name for m in pkgutil.walk_packages(tsmeta.__path__, 'tsmeta.') if not m.ispkg}
    # Readers of one kind of file are imported when the first such file is opened
    wanted = {m for m in modules if not m.startswith(('tsmeta.cli.', 'tsmeta._', 'tsmeta.sources.formats.'))}
    assert wanted <= loaded, f'methods are missing after `from tsmeta.all import *`: {wanted - loaded}'
