"What is no id is an error wherever ids are taken, and what is one gives the same row in every form."
import numpy as np
import pytest
import torch

from tsmeta.batches.gather import Gather
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.sources.base import ArraySource
from tsmeta.splits.index import as_ids, Index, one_id, to_ids, View
from tsmeta.splits.splits import Splits

N = 10
BEYOND = np.array([2**64 - 1], np.uint64)
WRONG = dict(
    beyond=BEYOND, beyond_list=[2**64 - 1], two_axes=np.array([[0, 1]]), two_axes_list=[[0, 1]], floats=np.array([1.]),
    floats_list=[1, 2.5], text=['a'], mixed=[True, 3], mixed_numpy=[np.True_, 3], masked=np.ma.array([0, 1], mask=[0, 1]),
    tensor=torch.tensor([1.5]), whole_floats=torch.tensor([1.]), dates=np.array(['2020-01-01'], 'M8[D]'),
    complex=np.array([1j]), objects=np.array([1, None], object), none=[None])
TRUTHS = dict(bare=True, numpy=np.True_, tensor=torch.tensor(True), array=np.array(True), false=False)
NUMBERS = dict(float_array=np.array(1.5), float_tensor=torch.tensor(2.), beyond=np.uint64(2**64 - 1), beyond_int=2**64)
RIGHT = dict(
    list=[3, 0, 9], tuple=(3, 0, 9), int8=np.array([3, 0, 9], np.int8), uint64=np.array([3, 0, 9], np.uint64),
    big_endian=np.array([3, 0, 9], '>i4'), tensor=torch.tensor([3, 0, 9]), strided=np.array([3, 1, 0, 1, 9])[::2],
    unmasked=np.ma.array([3, 0, 9]))


def values(): return np.arange(float(N*6)).reshape(N, 2, 3)


@pytest.fixture(scope='module')
def meta(): return TSMetaDataset([values()])


def doors(meta):
    "Returns everything that takes several ids, by name"
    index, gather = meta.index, Gather([ArraySource(values())])
    return dict(
        to_ids=lambda ids: to_ids(ids, N), as_ids=as_ids, locate=index.locate, ids=lambda ids: index.ids(0, ids),
        view=lambda ids: View(ids, N), view_ids=View(range(N), N).ids, view_item=View(range(N), N).__getitem__,
        select=View(range(N), N).select, ranges=lambda ids: View.of_ranges(ids, ids, N), gather=gather,
        steps_taken=gather.steps_taken, meta=meta.__getitem__, meta_ids=meta.ids, subset=meta.subset, where=meta.where,
        targets=TSMetaDataset([(values(), list(range(N)))]).targets)


@pytest.mark.parametrize('wrong', WRONG)
def test_what_is_no_id_is_an_error_at_every_door(meta, wrong):
    for name, door in doors(meta).items():
        with pytest.raises((IndexError, TypeError)):
            door(WRONG[wrong])
            pytest.fail(name)


@pytest.mark.parametrize('wrong', [*TRUTHS, *NUMBERS])
def test_one_row_is_named_by_an_integer(meta, wrong):
    value = (TRUTHS | NUMBERS)[wrong]
    for door in (meta.__getitem__, View(range(N), N).__getitem__, meta.index.locate, as_ids):
        with pytest.raises((IndexError, TypeError)): print(door(value))


@pytest.mark.parametrize('truth', ['bare', 'numpy', 'tensor', 'array', 'false'])
def test_a_part_of_a_split_is_not_named_by_a_truth_value(meta, truth):
    splits = Splits(meta, dict(train=View(range(5), N), valid=View(range(5, N), N)))
    with pytest.raises((IndexError, TypeError, ValueError)): splits[TRUTHS[truth]]


@pytest.mark.parametrize('form', RIGHT)
def test_ids_in_any_form_give_the_same_rows(meta, form):
    ids, want = RIGHT[form], [3, 0, 9]
    assert np.array_equal(np.asarray(meta[ids][0]), values()[want])
    assert np.array_equal(to_ids(ids, N), want) and np.array_equal(as_ids(ids), want)
    assert np.array_equal(meta.index.locate(ids)[1], want) and np.array_equal(View(ids, N)[:], want)
    assert np.array_equal(Gather([ArraySource(values())])(ids)[0], values()[want])


def test_a_mask_of_the_full_length_stays_legal(meta):
    mask = np.arange(N) % 3 == 0
    for given in (mask, mask.tolist(), torch.from_numpy(mask)):
        assert np.array_equal(np.asarray(meta[given][0]), values()[::3])
    with pytest.raises(IndexError, match='one value per row'): meta[mask[:-1]]


def test_no_form_of_ids_compiles_the_loops_anew(meta):
    from tsmeta.batches.kernel import copy_rows
    from tsmeta.splits import index
    gather, view = Gather([ArraySource(values())]), View([0, 1, 2, 7, 8, 9]*40, N)
    everything = lambda ids: [gather(ids), meta.index.locate(ids), View(range(N), N).ids(ids), view.ids(ids)]
    everything(np.arange(3))
    loops = [copy_rows, index._locate, index._positions_to_ids]
    before = [len(getattr(f, 'signatures', ())) for f in loops]
    for ids in RIGHT.values(): everything(ids)
    assert [len(getattr(f, 'signatures', ())) for f in loops] == before


def test_one_number_in_any_form():
    forms = [3, np.int8(3), np.array(3), torch.tensor(3), np.uint64(3)]
    assert [one_id(o) for o in forms] == [3]*5
    assert [one_id(o) for o in ([3], np.array([3]), 'a', slice(3), None)] == [None]*5
    assert Index([5]).locate(3)[1].tolist() == [3]
