"Labels are values: however a dataset writes them, numbers, text, categories or tensors, they mean the same after joining."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.data.hooks import check_fits
from tsmeta.sources.base import Coded
from tsmeta.sources.targets import as_target, join_targets, recode

WORDS = ['bee', 'ant', 'cow', 'dog']


class Items(torch.utils.data.Dataset):
    "Class numbers of any type, whose labels are `classes` or `vocab`"
    def __init__(self, codes, labels, attribute='classes', kind=int):
        self.codes, self.kind = codes, kind
        setattr(self, attribute, labels)
    def __len__(self): return len(self.codes)
    def __getitem__(self, i): return torch.full((1, 4), float(i)), self.kind(self.codes[i])


def labels_of(meta): return [meta.vocab[int(meta[k][1])] for k in range(len(meta))]
def rows(n): return np.zeros((n, 1, 4), np.float32)


WAYS = {
    'text': lambda words, order: (rows(len(words)), words),
    'bytes': lambda words, order: (rows(len(words)), np.array(words, 'S')),
    'objects': lambda words, order: (rows(len(words)), np.array(words, object)),
    'categories': lambda words, order: (rows(len(words)), pd.Categorical(words, order)),
    'series': lambda words, order: (rows(len(words)), pd.Series(pd.Categorical(words, order), range(5, 5 + len(words)))),
    'coded': lambda words, order: (rows(len(words)), Coded(np.array([order.index(w) for w in words]), order)),
    'ints': lambda words, order: Items([order.index(w) for w in words], order),
    'tensors': lambda words, order: Items([order.index(w) for w in words], order, 'vocab', torch.tensor),
    'subset': lambda words, order: Subset(Items([0, *(order.index(w) for w in words)], order), range(1, len(words) + 1)),
    'concat': lambda words, order: ConcatDataset([Items([order.index(words[0])], order), *([Items([order[::-1].index(w) for w in words[1:]], order[::-1])] if words[1:] else [])]),
}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(WAYS)), st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), st.permutations(WORDS)), min_size=1, max_size=4))
def test_labels_keep_their_meaning_however_they_are_written(datasets):
    meta = TSMetaDataset([WAYS[way](words, list(order)) for way, words, order in datasets])
    assert labels_of(meta) == [w for _, words, _ in datasets for w in words]
    other = TSMetaDataset((rows(4), WORDS))
    assert [other.vocab[int(k)] for k in check_fits(other.schema, meta).targets()] == labels_of(meta)


@settings(max_examples=40, deadline=None)
@given(st.permutations(WORDS), st.lists(st.sampled_from(WORDS), min_size=1, max_size=6))
def test_a_stated_order_is_kept(order, words):
    order = list(order)
    for way in ('categories', 'series', 'coded', 'ints', 'subset'):
        assert list(TSMetaDataset([WAYS[way](words, order)]).vocab) == order
    both = TSMetaDataset([WAYS['categories'](words, order), WAYS['categories'](words[:1], [w for w in order if w == words[0]])])
    assert list(both.vocab) == order and labels_of(both) == [*words, words[0]]


def test_orders_that_contradict_are_sorted():
    t = join_targets([pd.Categorical(['b'], ['b', 'a']), pd.Categorical(['a'], ['a', 'b'])], [1, 1], ['x', 'y'])
    assert (t.vocab, [a.tolist() for a in t.arrays]) == (['a', 'b'], [[1], [0]])


def test_tensor_datasets_and_numbers():
    class Named(TensorDataset): classes = ['cat', 'dog']
    assert labels_of(TSMetaDataset([Named(torch.zeros(2, 1, 4), torch.tensor([1, 0])), (rows(1), ['bird'])])) == ['dog', 'cat', 'bird']
    class Prices(Items): pass
    assert TSMetaDataset([Items([.5, 1.5], ['unused'], kind=float)]).schema.kind == 'float'
    hot = Items([[1., 0.], [1., 1.]], ['wet', 'red'], kind=torch.tensor)
    assert TSMetaDataset([hot]).schema.kind == 'multi' and set(TSMetaDataset([hot]).vocab) == {'wet', 'red'}


@pytest.mark.parametrize('ds, says', [(Items([0, 2], ['a', 'b']), 'class number 2'), (Items([0, -3], ['a', 'b']), 'class number -3'),
                                      (ConcatDataset([Items([0], ['a']), Items([0], None)]), '1 of 2 datasets')])
def test_numbers_without_a_label_are_refused(ds, says):
    with pytest.raises((ValueError, TypeError), match=says): TSMetaDataset([ds])


def test_missing_categories_are_missing_targets():
    with pytest.raises(ValueError, match='the target is missing'): TSMetaDataset((rows(2), pd.Categorical(['a', None])))
    with pytest.raises(ValueError, match="row 1 has nan|mixes|missing"): TSMetaDataset((rows(2), ['a', np.nan]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=64, allow_nan=False, allow_infinity=False), min_size=1, max_size=6))
def test_numbers_keep_their_precision(values):
    found = join_targets([np.array(values)], [len(values)], ['a']).arrays[0]
    assert found.tolist() == values


def test_recode_is_by_value():
    hot = np.array([[1, 0, 1], [0, 0, 0]], np.float32)
    assert recode([hot], ['a', 'b', 'c'], ['c', 'd', 'a'], ['x'])[0].tolist() == [[1, 0, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="row 0: unknown label 'c'"): recode([hot], ['a', 'b', 'c'], ['a', 'b'], ['x'])
    assert as_target(pd.Series(['x', 'y'], dtype='category'))[1].tolist() == ['x', 'y']
