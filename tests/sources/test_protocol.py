"Every source keeps the protocol of `Source`, `check_source` sees those that do not, and options stay as they were made."
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest

from tsmeta.all import *
from tsmeta.sources.align import Filled, Framed, Mapped, RaggedSource, Resampled, ResampledRecording, Stepped
from tsmeta.sources.align import REAL, each_steps
from tsmeta.sources.base import Source, check_source
from tsmeta.sources.policies import FittedPolicies, Policies, policies_from_json, policies_to_json
from tsmeta.sources.recordings import Clock, TimedWindows
from tsmeta.store.remote import open_store

rng = np.random.default_rng(0)
ROWS, REC = rng.normal(size=(7, 2, 12)), rng.normal(size=(2, 40)).astype('float32')
TIMES = np.r_[:20., 100.:120.]


class Items:
    "A dataset of somebody's own"
    def __len__(self): return 4
    def __getitem__(self, i): return ROWS[i], i % 2


def ragged(): return RaggedSource([rng.normal(size=(2, n)) for n in (3, 9, 5)], y=list('aba'))
def windows(**how): return WindowSource(REC, 10, 3, **how)
def timed(**how): return TimedWindows(REC, 10, Clock(TIMES), max_gap=2, stride=3, **how)


MADE = dict(
    array=lambda: ArraySource(ROWS, y=range(7)),
    no_rows=lambda: ArraySource(ROWS[:0]),
    items=lambda: ItemSource(Items()),
    ragged=ragged,
    windows=lambda: windows(y='walk'),
    too_short=lambda: WindowSource(REC, 60),
    horizon=lambda: windows(horizon=4),
    timed=lambda: timed(y='walk'),
    timed_horizon=lambda: timed(horizon=4),
    resampled_recording=lambda: WindowSource(ResampledRecording(REC, 20., 10.), 5),
    mapped=lambda: Mapped(ArraySource(ROWS), lambda r: r[:, ::2]),
    mapped_windows=lambda: Mapped(windows(horizon=4), lambda r: r*2),
    framed=lambda: Framed(ArraySource(ROWS), [1, 0, REAL], 15),
    framed_view=lambda: Framed(ArraySource(ROWS), [1], 5),
    framed_ragged=lambda: Framed(ragged(), [0, 1, REAL], 6, 'center'),
    framed_windows=lambda: Framed(windows(horizon=4), [1, 0]),
    framed_timed=lambda: Framed(timed(horizon=4), [1]),
    stepped=lambda: Stepped(ArraySource(ROWS), [0, 3, 4]),
    stepped_ragged=lambda: Stepped(ragged(), slice(1, None)),
    filled=lambda: Filled(ArraySource(np.where(ROWS > 1, np.nan, ROWS)), Missing('linear', mask=True)),
    filled_ragged=lambda: Filled(ragged(), Missing('mean')),
    filled_horizon=lambda: Filled(windows(horizon=4), Missing('mean', mask=True)),
    resampled=lambda: Resampled(ArraySource(ROWS), 1, 2),
    resampled_ragged=lambda: Resampled(ragged(), 1, 2),
    metadataset=lambda: TSMetaDataset([ArraySource(ROWS), ArraySource(ROWS)]).as_source(),
)


@pytest.mark.parametrize('name', MADE)
def test_sources_keep_the_protocol(name):
    src = MADE[name]()
    check_source(src)
    if not isinstance(getattr(src, 'func', None), type(lambda: 0)): check_source(pickle.loads(pickle.dumps(src)))
    assert len(each_steps(src)) == len(src)


@pytest.mark.parametrize('times', [None, Times([TIMES]*2, max_gap=2)], ids=['plain', 'gaps'])
@pytest.mark.parametrize('horizon', [0, 4])
def test_sources_of_stores_keep_the_protocol(tmp_path, times, horizon):
    meta = TSMetaDataset.from_recordings(dict(a=REC, b=REC[::-1]), window=10, stride=3, horizon=horizon, times=times)
    meta.pack(tmp_path/'s')
    for src, given in zip(open_store(tmp_path/'s').sources[:], meta.datasets):
        check_source(src)
        assert (src.spacing, src.window, src.horizon) == (given.spacing, given.window, given.horizon)
        assert src.starts(np.arange(len(src))).tolist() == given.starts(np.arange(len(given))).tolist()


@pytest.mark.parametrize('suffix', ['.npy', '.npz', '.h5', '.zarr'])
@pytest.mark.parametrize('window', [None, 10])
def test_sources_of_files_keep_the_protocol(tmp_path, suffix, window):
    x = ROWS if window is None else REC
    if suffix == '.npy': np.save(tmp_path/'a.npy', x)
    if suffix == '.npz': np.savez(tmp_path/'a.npz', X=x)
    if suffix == '.h5':
        with pytest.importorskip('h5py').File(tmp_path/'a.h5', 'w') as f: f['X'] = x
    if suffix == '.zarr': pytest.importorskip('zarr').save_array(tmp_path/'a.zarr', x)
    how = {} if window is None else dict(window=window, stride=3)
    src, = TSMetaDataset.open(tmp_path, **how).datasets
    check_source(src)
    assert src.windowed == src.has_recording == src.has_recording_steps == (window is not None)


def test_sources_of_other_sources_have_its_root_clock_and_starts():
    src = timed()
    for s in (Framed(src, [1]), Mapped(Framed(src, [1]), lambda r: r), Filled(src, Missing('mean'))):
        assert s.root is src and s.clock is src.clock and s.spacing == src.spacing
        assert s.starts([0, 5]).tolist() == src.starts([0, 5]).tolist()
    assert src.root is src


class Wrong(ArraySource):
    "A source with one mistake"
    def __init__(self, **wrong):
        super().__init__(ROWS, wrong.pop('y', None))
        for k, v in wrong.items(): setattr(self, k, v)


MISTAKES = dict(
    shape=(dict(shape=(2, 11)), 'rows have shape'),
    dtype=(dict(dtype=np.dtype('float32')), 'rows have dtype float64'),
    targets=(dict(y=[1, 2]), '2 targets for 7 rows'),
    read=(dict(read=lambda rows: ROWS[rows][:, ::-1]), 'open and read differ'),
    chunks=(dict(chunks=lambda size: [(0, ROWS[:3])]), 'chunks and read differ'),
    steps=(dict(steps=np.full(7, 11)), 'rows have shapes'),
    horizon=(dict(horizon=2, read_y=lambda rows: ROWS[rows]), 'what follows rows has shape'),
    steps_that_follow=(dict(open=lambda: (ROWS, ROWS[:, :, :2])), 'but no horizon'),
    windows=(dict(has_recording_steps=True, window=12, stride=3, recording=lambda: ROWS[0]), 'row 1 is not the window'),
)


@pytest.mark.parametrize('name', MISTAKES)
def test_the_check_sees_mistakes(name):
    wrong, text = MISTAKES[name]
    with pytest.raises(AssertionError, match=text): check_source(Wrong(**wrong))


def test_the_check_sees_what_is_no_source():
    class Alike:
        shape, dtype, lazy, window = (2, 12), ROWS.dtype, False, 1
        def __len__(self): return 7
        def open(self): return ROWS, None
    with pytest.raises(AssertionError, match='not a Source'): check_source(Alike())


def test_windows_closer_than_spacing_are_a_mistake():
    src = windows()
    src.__class__ = type('Closer', (WindowSource,), dict(spacing=5))
    with pytest.raises(AssertionError, match='start 3 steps apart, `spacing` is 5'): check_source(src)


def test_options_do_not_change():
    for o, name in ((Ragged('pad'), 'len'), (Vars('union'), 'mask'), (Missing('mean'), 'value'), (Policies('pad'), 'ragged')):
        with pytest.raises(FrozenInstanceError): setattr(o, name, 3)


def test_fitting_leaves_policies_as_they_were():
    asked = Policies(Ragged('pad', mask=True), missing={'a': 'linear', '*': 0})
    before = repr(asked)
    sources, _, _, names, fitted = asked.fit([ArraySource(ROWS), ragged()], ['a', 'b'])
    assert repr(asked) == before and not asked.fitted and asked.ragged.len is None
    assert isinstance(fitted, FittedPolicies) and fitted.ragged.len == 12 and names == ['0', '1', 'mask']
    for s in sources: check_source(s)
    again = policies_from_json(policies_to_json(fitted))
    for other in (again, pickle.loads(pickle.dumps(fitted))):
        assert type(other) is FittedPolicies and policies_to_json(other) == policies_to_json(fitted)
    assert type(pickle.loads(pickle.dumps(asked))) is Policies


@pytest.mark.parametrize('fitted', [False, True])
def test_policies_pickled_by_version_0_1(fitted):
    "There, one object held what was asked and what was fitted."
    new = Policies(Ragged('pad', 12))
    if fitted: new = new.fit([ArraySource(ROWS)], ['a'])[-1]
    decided = dict(data_vars=['0', '1'], raw=['0', '1'], partial=[], named=False)
    state = {**{k: v for k, v in vars(new).items() if k not in decided}, **(decided if fitted else dict.fromkeys(decided))}
    old = Policies.__new__(Policies)
    old.__setstate__(state)
    assert type(old) is (FittedPolicies if fitted else Policies) and policies_to_json(old) == policies_to_json(new)


def test_a_target_of_masked_windows_has_the_variables_of_the_recording():
    rec = REC.copy()
    rec[0, 3] = np.nan
    meta = TSMetaDataset.from_recordings([rec, REC], window=10, horizon=4, missing=Missing('linear', mask=True))
    x, y = meta.gather(np.arange(2))
    assert (x.shape, y.shape) == ((2, 4, 10), (2, 2, 4)) and np.array_equal(y[0], rec[:, 10:14])
    assert np.array_equal(x[0, 2:], np.isnan(rec[:, :10]))
