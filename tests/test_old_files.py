"""What version 0.1.0 wrote opens in this version, with the same rows, labels, splits, batches and predictions.

A later version may refuse a file instead; then its message names the version 0.1 and says what to do.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import old_files
import pytest
from tsmeta.all import SplitFile
from tsmeta.all import TSMetaDataset
from tsmeta.all import load_safe
from tsmeta.store.labels import LabelDataset
from tsmeta.data.views import TSMetaView

HERE = Path(__file__).parent
WRITTEN = HERE / 'golden' / 'v0.1'
EXPECTED = json.loads((WRITTEN / 'expected.json').read_text(encoding='utf-8'))
STATES = json.loads((WRITTEN / 'states.json').read_text())
REMEDY = 'open|read|write|pack|export|train|install|make|load|start|split'


def names(what):
    return [k.removeprefix(f'{what} ') for k in EXPECTED if k.startswith(f'{what} ')]


def as_json(o):
    return json.loads(json.dumps(o))


def same(got, want, where=''):
    "Compare what JSON holds: numbers to the precision of float32, all else exactly"
    if isinstance(want, dict):
        assert sorted(got) == sorted(want), where
        for k in want:
            same(got[k], want[k], f'{where}.{k}')
    elif isinstance(want, list) and isinstance(got, list) and all(isinstance(v, (list, dict)) for v in want):
        assert len(got) == len(want), where
        for k, (a, b) in enumerate(zip(got, want)):
            same(a, b, f'{where}[{k}]')
    elif isinstance(want, float) or isinstance(want, list) and any(isinstance(v, float) for v in want):
        np.testing.assert_allclose(np.array(got, float), np.array(want, float), rtol=1e-4, atol=2e-5, err_msg=where)
    else:
        assert got == want, where


def check_refusal(name, text):
    "Raise an error unless an error about an old file names its version and says what to do"
    assert name not in ('ModuleNotFoundError', 'ImportError', 'AttributeError', 'UnpicklingError'), (
        f'an old file ends in {name}: {text}'
    )
    assert re.search(r'\b0\.1\b', text), f'the refusal does not name the version 0.1: {text}'
    assert re.search(rf'\b({REMEDY})', text.lower()), f'the refusal does not say what to do: {text}'


def opened(do):
    "Return what is opened; a refusal in words that help ends the test as passed over"
    try:
        return do()
    except Exception as e:
        check_refusal(type(e).__name__, str(e))
        pytest.skip(f'refused: {e}')


@pytest.fixture(scope='module')
def old(tmp_path_factory):
    "A copy of what was written: opening may leave something beside it"
    root = tmp_path_factory.mktemp('old') / 'v0.1'
    shutil.copytree(WRITTEN, root)
    shutil.unpack_archive(root / 'folders.zip', root / 'folders')
    return root


@pytest.mark.parametrize('name', names('stores'))
def test_stores(old, name):
    want = dict(EXPECTED[f'stores {name}'])
    splits, labels = want.pop('splits'), want.pop('labels')
    meta = opened(lambda: TSMetaDataset.open(old / 'stores' / name))
    same(as_json(old_files.told(meta)), want, name)
    assert {k: v.ids().tolist() for k, v in meta.store.split_views().items()} == splits
    same(as_json({k: old_files.floats(a) for k, a in meta.store.labels.items() if k != 'y'}), labels, name)
    meta.store.verify()


@pytest.mark.parametrize('name', names('splits'))
def test_split_files(old, name):
    meta = opened(lambda: TSMetaDataset.open(old / 'stores' / name))
    parts = opened(lambda: SplitFile(old / 'splits' / f'{name}.json')(meta))
    assert {k: v.ids().tolist() for k, v in parts.asdict().items()} == EXPECTED[f'splits {name}']


@pytest.mark.parametrize('name', names('labels'))
def test_folders_of_labels_and_views(old, name):
    want = EXPECTED[f'labels {name}']
    rows = opened(lambda: LabelDataset(old / 'folders' / name))
    views = opened(lambda: TSMetaView.open(old / 'folders' / f'{name}-views'))
    same(json.loads(json.dumps(rows[:], default=old_files.floats)), want['rows'], name)
    same(json.loads(json.dumps(views[:], default=old_files.floats)), want['examples'], name)
    same(as_json({k: old_files.floats(a) for k, a in views.labels.flat().items()}), want['labels'], name)


def rows_of(old, part):
    ds = opened(lambda: TSMetaDataset.open(old / 'stores' / 'text'))
    return ds.split(old_files.SPLITTER).train if part == 'train' else ds


@pytest.mark.parametrize('name', [k for k in STATES if k not in ('both', 'stream')])
def test_states_of_loaders(old, name):
    kind, part = name.split()
    dl = old_files.LOADERS[kind][0](rows_of(old, part))
    opened(lambda: dl.load_state_dict(STATES[name]))
    assert old_files.coming(dl) == EXPECTED[f'states {name}']


def test_state_of_training_and_validation(old):
    dls = rows_of(old, 'whole').split(old_files.SPLITTER).dataloaders(bs=4, seed=3, device='cpu')
    opened(lambda: dls.load_state_dict(STATES['both']))
    assert [old_files.coming(dl) for dl in dls.loaders] == EXPECTED['states both']


def test_state_of_a_stream(old):
    stream = old_files.streamed(rows_of(old, 'whole'))
    opened(lambda: stream.load_state_dict(STATES['stream']))
    assert [[b['sample_uid'].tolist() for b in s] for s in [stream] * 2] == EXPECTED['states stream']


def test_checkpoint(old, tmp_path):
    shutil.copytree(old / 'checkpoint', tmp_path / 'run')
    want, seen = {k: EXPECTED[f'checkpoint {k}'] for k in names('checkpoint')}, old_files.Seen()
    learn = old_files.small_learner(rows_of(old, 'whole'))
    opened(lambda: old_files.train(learn, tmp_path / 'run', [seen]))
    assert seen.ids == want['ids']
    same(as_json(old_files.weights(learn)), want['weights'])
    same([float(v) for v in learn.recorder.losses], want['losses'])


@pytest.mark.parametrize('name', names('safe'))
def test_safe_exports(old, name):
    pytest.importorskip('safetensors')
    pytest.importorskip('tsai')
    learn = opened(lambda: load_safe(old / 'safe' / name))
    rows = old_files.rows_for(name, np.load(old / 'inputs.npz')[name])
    same(as_json(old_files.predicted(learn, rows)), EXPECTED[f'safe {name}'], name)


LOAD = '''
import json, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
# An editable installation of another checkout would lend its modules where this one lacks them
def editable(finder): return getattr(finder, '__module__', type(finder).__module__).startswith('__editable__')
sys.meta_path = [finder for finder in sys.meta_path if not editable(finder)]
import numpy as np
from fastai.learner import load_learner
from tsmeta.all import *
import old_files
root, found = Path(sys.argv[1]), {}
for file in sorted((root/'exports').iterdir(), key=lambda f: f.stem == 'tsai'):
    rows = old_files.rows_for(file.stem, np.load(root/'inputs.npz')[file.stem])
    try: found[file.stem] = old_files.predicted(load_learner(file), rows)
    except Exception as e: found[file.stem] = [type(e).__name__, str(e)]
print(json.dumps(found))
'''


@pytest.fixture(scope='module')
def loaded(old):
    "Ordinary exports as a fresh process loads them"
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', LOAD, old, HERE, HERE.parent],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('name', names('exports'))
def test_ordinary_exports(loaded, name):
    if name == 'tsai':
        pytest.importorskip('tsai')
    got = loaded[name]
    if isinstance(got, list):
        return check_refusal(*got)
    same(got, EXPECTED[f'exports {name}'], name)


def test_what_counts_as_the_same_and_as_a_refusal():
    with pytest.raises(AssertionError):
        same([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.001]])
    with pytest.raises(AssertionError):
        same(dict(a=['x', 'y']), dict(a=['x', 'z']))
    with pytest.raises(AssertionError):
        same([[1]], [[1], [2]])
    check_refusal('ValueError', 'This export is of version 0.1: load it there and write it with export_safe.')
    for name, text in [
        ('ModuleNotFoundError', 'No module named tsmeta.load; 0.1 had it, install that'),
        ('ValueError', 'damaged'),
        ('ValueError', 'of version 0.1'),
    ]:
        with pytest.raises(AssertionError):
            check_refusal(name, text)
