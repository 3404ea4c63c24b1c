"What is masked in a masked array is missing: NaN, or an error where a type has no NaN; never the number below the mask."
import numpy as np
import pandas as pd
import pytest

from tsmeta.data.dataset import TSMetaDataset
from tsmeta.sources.adapt import to_source
from tsmeta.sources.base import ArraySource, as_numpy, as_rows, FileSource
from tsmeta.sources.recordings import Clock, WindowSource

X = np.ma.masked_greater(np.arange(60.).reshape(2, 3, 10), 30)
WANT = X.filled(np.nan)


def rows(meta): return np.asarray(meta[np.arange(len(meta))][0])


@pytest.mark.parametrize('given', [
    lambda: [X], lambda: {'a': X}, lambda: [(X, ['a', 'b'])], lambda: {'a': (X, ['a', 'b'])}, lambda: [[X[0], X[1]]],
    lambda: [list(map(list, X))], lambda: [ArraySource(X)], lambda: [np.ma.array(X, dtype='f4')],
    lambda: [np.ma.array(X.data[:, :, ::-1], mask=X.mask[:, :, ::-1])[:, :, ::-1]]],
    ids=['list', 'dict', 'pair', 'dict of pairs', 'list of rows', 'nested lists', 'source', 'float32', 'strided'])
def test_masked_values_become_nan(given):
    assert np.array_equal(rows(TSMetaDataset(given())), WANT.astype('f4'), equal_nan=True)


def test_rows_of_different_lengths_and_items_of_a_dataset():
    class Items:
        def __len__(self): return 2
        def __getitem__(self, i): return X[i]
    assert np.array_equal(to_source(Items()).read([0, 1]), WANT, equal_nan=True)
    ragged = to_source([X[0], X[1][:, :4]])
    assert np.array_equal(ragged.read([1])[0], WANT[1][:, :4], equal_nan=True)


def test_recordings_and_their_labels():
    src = WindowSource(X[1], 5)
    assert np.isnan(src.open()[0][:, 1:]).all()
    meta = TSMetaDataset.from_recordings([X[0], X[1]], window=5)
    assert np.isnan(rows(meta)[2:, 1:]).all() and not np.isnan(rows(meta)[:2]).any()
    y = np.ma.masked_greater(np.arange(10.), 6)
    assert np.array_equal(WindowSource(np.zeros((1, 10)), 5, y=y).y, [4, np.nan], equal_nan=True)
    with pytest.raises(ValueError, match='3 values .* masked'): WindowSource(np.zeros((1, 10)), 5, y=y.astype(int))


@pytest.mark.parametrize('dtype', ['i2', 'i8', 'u1', bool])
def test_types_without_nan_are_refused(dtype):
    masked = np.ma.array(np.ones((2, 3, 10), dtype), mask=np.arange(60).reshape(2, 3, 10) > 30)
    for door in (as_rows, ArraySource, lambda x: TSMetaDataset({'a': x}), lambda x: TSMetaDataset([[x[0], x[1]]])):
        with pytest.raises(ValueError, match=r'masked.*astype\(float\)'): door(masked)
    with pytest.raises(ValueError, match='masked'): WindowSource(masked[1], 5)


def test_labels_that_are_masked_are_refused(tmp_path):
    np.save(tmp_path/'a.npy', WANT)
    y = np.ma.array([0, 1], mask=[0, 1])
    for members in ([(WANT, y)], [FileSource(tmp_path/'a.npy', y)], [(str(tmp_path/'a.npy'), y)],
                    [(WANT, np.ma.array(['a', 'b'], mask=[0, 1]))]):
        with pytest.raises(ValueError, match='masked'): TSMetaDataset(members)


def test_times_that_are_masked_are_refused():
    dates = np.ma.array(pd.date_range('2026-01-01', periods=5).to_numpy(), mask=[0, 0, 1, 0, 0])
    for times in (np.ma.array(np.arange(5.), mask=[0, 0, 1, 0, 0]), dates):
        with pytest.raises((ValueError, TypeError)): WindowSource(np.zeros((1, 5)), 2); Clock(times).at(np.arange(5)); _check(times)


def _check(times): TSMetaDataset.from_recordings([np.zeros((1, 5))], window=2, times=[times])


def test_an_array_without_masked_values_is_not_copied():
    for mask in (False, np.zeros((2, 3, 10), bool)):
        a = np.ma.array(np.ones((2, 3, 10)), mask=mask)
        assert np.shares_memory(as_numpy(a), a.data) and type(as_numpy(a)) is np.ndarray
