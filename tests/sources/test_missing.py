"A missing value of a recording counts once, whoever counts it and in however many windows it is."
import numpy as np
import pandas as pd
import pytest

from tsmeta.all import *
from tsmeta.cli.data import data_table


def recording(gap=False):
    "Return a metadataset of two recordings of 40 steps, in windows of 10; step 20 of the first is missing in one variable"
    rec = np.zeros((2, 2, 40), np.float32)
    rec[0, 1, 20] = np.nan
    times = Times([np.r_[:30., 100.:110.]]*2, max_gap=2) if gap else None
    return TSMetaDataset.from_recordings(dict(a=rec[0], b=rec[1]), window=10, stride=1, times=times)


@pytest.mark.parametrize('gap', [False, True])
def test_one_value_is_one_missing_value(gap):
    meta = recording(gap)
    found = meta.count_missing()
    assert found.missing.tolist() == data_table(meta).nans.tolist() == [1, 0]
    assert found.rows.tolist() == [10, 0]
    assert np.allclose(found.share, [1/80, 0])


def test_a_step_that_no_window_covers_is_refused_by_nobody():
    rec = np.zeros((1, 25), np.float32)
    rec[0, 22] = np.nan
    meta = TSMetaDataset.from_recordings([rec], window=10, missing='error')
    assert meta.count_missing().missing[0] == 1 and meta.count_missing().rows[0] == 0
    rec[0, 12] = np.nan
    with pytest.raises(ValueError, match='row 1, variable 0: a value is missing .NaN.; 2 values in 1 rows'):
        TSMetaDataset.from_recordings([rec], window=10, missing='error')


@pytest.mark.parametrize('where', ['memory', 'npy', 'h5'])
def test_filled_windows_have_no_missing_values(where, tmp_path):
    rec = np.zeros((1, 30), np.float32)
    rec[0, 12] = np.nan
    if where == 'npy': np.save(tmp_path/'a.npy', rec)
    if where == 'h5':
        h5py = pytest.importorskip('h5py')
        with h5py.File(tmp_path/'a.h5', 'w') as f: f['X'] = rec
    how = dict(window=10, stride=5, missing='linear')
    meta = TSMetaDataset.from_recordings([rec], **how) if where == 'memory' else TSMetaDataset.open(tmp_path, **how)
    assert data_table(meta).nans.tolist() == [0]
    assert meta.count_missing()[['rows', 'missing']].values.tolist() == [[2, 1]]
    assert meta.summary().nans.tolist() == [1]
