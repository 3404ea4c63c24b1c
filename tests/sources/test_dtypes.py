"New data is held against the types of numbers that a model was trained on."
import json
import warnings

import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner, load_learner
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from typer.testing import CliRunner

from tsmeta.sources.align import Framed
from tsmeta.cli.main import app
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.sources.policies import inexact, stored_dtypes
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.train.export import make_arch, register_arch
from tsmeta.train.export import FACTS, _digest, load_safe
from tsmeta.sources.base import ArraySource
from tsmeta.sources.recordings import WindowSource
import tsmeta.train.predict, tsmeta.load.loader, tsmeta.data.open, tsmeta.data.views


@register_arch(name='tests.flat')
def flat(c_in, c_out, seq_len, d=None): return nn.Sequential(nn.Flatten(), nn.Linear(c_in*seq_len, c_out))


def rows(dtype=np.float32, n=12, high=5): return np.random.default_rng(0).integers(0, 2 if dtype is bool else high, (n, 2, 6)).astype(dtype)


def learner(*dtypes, **kwargs):
    meta = TSMetaDataset({f'd{k}': (rows(t), list('ab')*6) for k, t in enumerate(dtypes)}, **kwargs)
    dls = TSMetaDatasets(meta, [range(len(meta)), range(len(meta))], leak='allow').dataloaders(bs=8, seed=0, device='cpu')
    return Learner(dls, make_arch('tests.flat', meta.vars, meta.c, meta.len))


def answer(learn, new):
    "'taken', 'warned' or 'refused'"
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always', UserWarning)
        try: table = learn.predict_table(data=new)
        except (TypeError, ValueError) as e:
            assert "'new' (0)" in str(e)
            return 'refused'
    assert len(table) == len(new)
    return 'warned' if any('the model was trained on' in str(w.message) for w in said) else 'taken'


WIDE = rows(np.int64)
WIDE[3, 1, 2] = 2**24 + 1


@pytest.mark.parametrize('seen, new, want', [
    ('float32', rows(np.float64), 'taken'), ('float64', rows(np.float16), 'taken'), ('float32', rows('>f4'), 'taken'), ('float32', rows('>f8'), 'taken'),
    ('float32', rows(np.int16), 'warned'), ('float32', rows(np.int64), 'warned'), ('float32', WIDE, 'refused'), ('int64', WIDE, 'taken'), ('int16', WIDE, 'refused'),
    ('int16', rows(np.float32), 'warned'), ('int8', rows(np.uint8), 'warned'), ('float32', rows(bool), 'refused'), ('bool', rows(bool), 'taken'),
    ('bool', rows(np.float32), 'refused'), ('bool', rows(np.int8), 'refused'), ('float32', rows(complex), 'refused'), ('float32', rows('U3'), 'refused'),
    ('float32', rows(object).astype(str).astype(object), 'refused'), ('float32', rows('datetime64[s]'), 'refused'), ('float32', rows('timedelta64[s]'), 'refused'),
    ('float32', torch.ones(3, 2, 6, dtype=torch.bool), 'refused'), ('float32', torch.ones(3, 2, 6, dtype=torch.float64), 'taken')])
def test_what_is_taken(seen, new, want, tmp_path):
    learn = learner(np.dtype(seen).type if seen != 'bool' else bool)
    assert answer(learn, new) == want
    learn.path = tmp_path
    learn.export('l.pkl')
    learn.export_safe(tmp_path/'safe')
    for other in (load_learner(tmp_path/'l.pkl'), load_safe(tmp_path/'safe')):
        assert other.dls.train.dataset.schema.dtypes == (seen,)
        assert answer(other, new) == want


def test_the_datasets_that_differ_are_named():
    learn = learner(np.float32, np.float64)
    assert learn.dls.dataset.schema.dtypes == ('float32', 'float64')
    new = TSMetaDataset({'good': rows(), 'odd': rows(bool), 'none': rows(bool)[:0], 'odd too': rows(bool), 'whole': rows(int)})
    with pytest.raises(ValueError, match=r"'odd' \(1\), 'odd too' \(3\) are bool, the model was trained on float32 and float64"): learn.predict_table(data=new)
    new = TSMetaDataset({'good': rows(), 'whole': rows(np.int64)})
    with pytest.warns(UserWarning, match=r"'whole' \(1\) are int64.*exact in float32"), learn.no_bar(): learn.predict_table(data=new)
    both = learner(np.float32, bool)
    assert answer(both, rows(bool)) == answer(both, rows()) == 'taken'


def test_loaders_of_other_data_are_checked_too():
    learn = learner(np.float32)
    for make, what in [(lambda: rows(bool), 'are bool'), (lambda: rows()[:, :1], '1 variables, expected 2')]:
        dl = TSMetaDataset({'other': (make(), list('ab')*6)}).dataloaders(bs=4, device='cpu').train
        with pytest.raises(ValueError, match=r"'other' \(0\).*" + what), learn.no_bar(): learn.predict_table(dl=dl)


def test_what_is_stored_counts_not_what_is_made_of_it():
    double = lambda x: x.float()*2
    learn = learner(np.int16, tfms=[double, None])
    assert learn.dls.dataset.schema.dtypes == ('int16',)
    assert answer(learn, rows(np.int16)) == 'taken' and answer(learn, rows(np.float32)) == 'warned'
    ragged = TSMetaDataset({'a': (rows(np.int16), list('ab')*6), 'b': (rows(np.int16)[:, :, :4], list('ab')*6)}, ragged='pad')
    assert ragged.schema.dtypes == ('int16',) and len(ragged.add_dataset(rows(np.int16)[:, :, :3])) == 12
    with pytest.raises(ValueError, match='are bool'): ragged.add_dataset(rows(bool)[:, :, :3])


def test_stores_files_windows_and_views_know_their_types(tmp_path):
    meta = TSMetaDataset({'a': (rows(np.int16), list('ab')*6), 'b': (rows(np.int16), list('ab')*6)})
    store = meta.pack(tmp_path/'store')
    assert store.schema.dtypes == ('int16',)
    with pytest.raises(ValueError, match="'new' .* are bool"): store.add_dataset(rows(bool))
    np.save(tmp_path/'f.npy', rows(np.uint8))
    assert TSMetaDataset(tmp_path/'f.npy').schema.dtypes == ('uint8',)
    recs = TSMetaDataset.from_recordings({'r': np.arange(40.)}, 5, horizon=2)
    assert recs.schema.dtypes == ('float64',)
    with pytest.raises(ValueError, match=r"'s' \(0\) are int64.*20000001 is not exact"):
        recs.check_fits(TSMetaDataset.from_recordings({'s': np.arange(20_000_001, 20_000_041)}, 5, 1, horizon=2))
    assert TSMetaDataset({'joined': meta.as_source()}).schema.dtypes == ('float32',)


@settings(max_examples=80, deadline=None)
@given(arrays(st.sampled_from([np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64]), st.tuples(st.integers(0, 4), st.integers(1, 9))), st.integers(0, 40))
def test_exact_integers(x, shift):
    x = x if x.dtype.itemsize < 4 else x >> x.dtype.type(min(shift, 8*x.dtype.itemsize - 1))
    wrong = [int(v) for v in x.ravel() if int(np.float32(v)) != int(v)]
    found = inexact(ArraySource(x))
    assert (found is None) == (not wrong) and (found is None or found in wrong)


def test_long_recordings_are_looked_at_once(monkeypatch):
    rec = np.zeros((1, 3_000_000), np.int32)
    rec[0, -1] = 2**24 + 1
    src = WindowSource(rec, 1000, 1)
    assert inexact(src) == 2**24 + 1
    assert inexact(WindowSource(rec[:, :-1], 1000, 1)) is None
    assert stored_dtypes([Framed(src, steps=1200)]) == ('int32',)


def test_old_and_damaged_exports(tmp_path):
    learner(np.float32).export_safe(tmp_path/'l')
    facts = json.loads((tmp_path/'l'/FACTS).read_text())
    assert facts['schema']['dtypes'] == ['float32']

    def change(dtypes):
        facts['schema'].pop('dtypes', None)
        if dtypes is not None: facts['schema']['dtypes'] = dtypes
        facts['digest'] = _digest(facts)
        (tmp_path/'l'/FACTS).write_text(json.dumps(facts))
    change(None)
    assert answer(load_safe(tmp_path/'l'), rows(bool)) == 'taken'
    for bad in (['O'], [3], 'float32', ['float32', '__import__']):
        change(bad)
        with pytest.raises(ValueError, match='The schema is damaged'): load_safe(tmp_path/'l')


def test_the_command_line_says_it(tmp_path):
    for name, dtype in [('train', np.float32), ('flags', bool), ('counts', np.int32)]:
        (tmp_path/name).mkdir()
        for d in 'ab':
            np.save(tmp_path/name/f'{d}.npy', rows(dtype, 40))
            np.save(tmp_path/name/f'{d}_y.npy', np.array(list('xy')*20))
    call = lambda *args: CliRunner().invoke(app, [str(a) for a in args])
    done = call('train', tmp_path/'train', '--split', 'each', '--epochs', 1, '--device', 'cpu', '--lr', .01, '--bs', 8, '--out', tmp_path/'run')
    assert done.exit_code == 0, done.output
    bad = call('predict', tmp_path/'run', tmp_path/'flags')
    assert bad.exit_code == 1 and "'a' (0), 'b' (1) are bool" in bad.output and 'Traceback' not in bad.output
    good = call('predict', tmp_path/'run', tmp_path/'counts')
    assert good.exit_code == 0 and "tsmeta: The numbers of 'a' (0), 'b' (1) are int32" in good.stderr and len(good.stdout.splitlines()) == 81
