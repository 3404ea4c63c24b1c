"Each family of hashes, compiled, against the same written out in Python's integers."
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tsmeta.batches.permutation import C1, C2, GOLD, draw_each, hash64, keyed_number, keyed_numbers, mix64, mix64_compiled
from tsmeta.batches.permutation import perm_keys, permute, spread_each, uniform
from tsmeta.splits.index import Index

M = 2**64 - 1
quick = settings(max_examples=60, deadline=None)
bits = st.integers(0, M)


@quick
@given(bits)
def test_mix64(x): assert mix64(x) == int(mix64_compiled(np.uint64(x))) == mix64(x + 2**64) == mix64(x - 2**64)


@quick
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=40), st.lists(st.integers(-5, 2**70), max_size=3))
def test_uniform(pos, parts):
    def one(p):
        x = p*GOLD + hash64(*parts) & M
        for c in (C1, C2): x = (x ^ (x >> 32))*c & M
        return (x >> 11)*2.0**-53
    assert uniform(np.array(pos), *parts).tolist() == [one(p) for p in pos]


@quick
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=40), bits)
def test_keyed_numbers(ids, key):
    def one(i):
        x = (i*GOLD & M) ^ key
        x = (x ^ (x >> 30))*0xbf58476d1ce4e5b9 & M
        x = (x ^ (x >> 27))*0x94d049bb133111eb & M
        return x >> 33
    assert keyed_numbers(np.array(ids), key).tolist() == [one(i) for i in ids] == [keyed_number(i, np.uint64(key)) for i in ids]


def by_hand(i, n, keys):
    "Where the permutation sends `i`, in Python's integers"
    a, b, *rounds = map(int, keys)

    def stir(x, key, m):
        z = (x ^ key)*GOLD & M
        z = (z ^ (z >> 32))*C1 & M
        return (z >> 32)*m >> 32
    while True:
        l, r = divmod(i, b)
        for key, after in zip(rounds[::2], rounds[1::2]):
            l = (l + stir(r, key, a)) % a
            r = (r + stir(l, after, b)) % b
        i = l*b + r
        if i < n: return i


@quick
@given(st.integers(1, 2**40), st.integers(0, 2**70), st.data())
def test_permute(n, seed, data):
    pos = data.draw(st.lists(st.integers(0, n-1), min_size=1, max_size=40))
    keys = perm_keys(n, seed)
    assert permute(np.array(pos), n, keys).tolist() == [by_hand(i, n, keys) for i in pos]


@pytest.mark.parametrize('n', [1, 2, 3, 31, 32, 33, 1000, 70_000])
def test_a_permutation_sends_each_number_to_one_number(n):
    assert np.array_equal(np.sort(permute(np.arange(n), n, perm_keys(n, 5))), np.arange(n))
    assert len(permute(np.zeros(0, np.int64), n, perm_keys(n, 5))) == 0


def test_keys_cannot_be_changed():
    keys = perm_keys(100, 3)
    with pytest.raises(ValueError, match='read-only'): keys[2] = 0


@quick
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 60)), min_size=1, max_size=6), bits)
def test_draws_go_through_a_dataset_before_any_row_comes_again(datasets, key):
    lens, quota = np.array(datasets).T
    offs = np.cumsum(lens) - lens
    index = Index(quota)
    rows = draw_each(np.arange(len(index)), index, lens, offs, key)
    for d, n in enumerate(lens):
        own = rows[index.starts[d]:index.starts[d+1]] - offs[d]
        for at in range(0, len(own), n):
            turn = own[at:at+n]
            assert len(set(turn)) == len(turn) and turn.min(initial=0) >= 0 and turn.max(initial=0) < n
    some = np.arange(len(index))[::3]
    assert np.array_equal(draw_each(some, index, lens, offs, key), rows[some])


@quick
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 9), bits)
def test_numbers_spread_over_batches(n, step, key):
    numbers = spread_each(4, np.arange(len(n)), np.array(n), step, key)
    for k, (own, m) in enumerate(zip(np.split(numbers, np.cumsum(n)[:-1]), n)): assert sorted(own) == [k + step*j for j in range(m)]
    assert np.array_equal(spread_each(5, np.arange(1, len(n)), np.array(n[1:]), step, key), numbers[n[0]:]) if len(n) > 1 else True
