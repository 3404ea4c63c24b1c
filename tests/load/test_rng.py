"Global random generators: seeded inside a block, and afterwards as they were"
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from tsmeta.load import workers as task
from tsmeta.load.reading import keyed

CALLS = dict(random=random.random, gauss=lambda: random.gauss(0, 1), bits=lambda: random.getrandbits(70), choice=lambda: random.choice('abcdef'),
             shuffle=lambda: random.shuffle(list(range(9))), seed=lambda: random.seed(5), bytes=lambda: random.randbytes(5))
STATES = pytest.mark.parametrize('words', [True, False], ids=['memory', 'getstate'])


@pytest.fixture
def way(words, monkeypatch):
    if not words: monkeypatch.setattr(task, '_words', None)
    elif task._words is None: pytest.skip('this Python keeps its state elsewhere')


@STATES
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**64), st.lists(st.sampled_from(sorted(CALLS)), max_size=40), st.lists(st.sampled_from(sorted(CALLS)), max_size=40))
def test_python_s_generator_is_put_back_wherever_it_stands(words, seed, before, inside):
    kept, task._words = task._words, task._words if words else None
    try:
        random.seed(seed)
        for c in before: CALLS[c]()
        state = random.getstate()
        with keyed(1, 2, 3):
            for c in inside: CALLS[c]()
        assert random.getstate() == state
    finally: task._words = kept


@STATES
def test_blocks_inside_blocks_and_exceptions_leave_no_trace(way):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    def states(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    def draw(): return random.gauss(0, 1), np.random.rand(), torch.rand(1).item()
    before = states()
    with keyed(1, 0): alone = draw()
    with pytest.raises(KeyError), keyed(1, 1):
        draw()
        with keyed(1, 0): assert draw() == alone
        raise KeyError
    assert states() == before


def test_both_ways_of_keeping_tell_the_same():
    "The memory copied is the state that `getstate` tells"
    if task._words is None: pytest.skip('this Python keeps its state elsewhere')
    for k in range(700):
        *state, at = random.getstate()[1]
        assert task._words.tolist() == [at, *state]
        random.random()


def test_memory_that_holds_something_else_is_not_used():
    class Wide(random.Random):
        def getstate(self): return 3, (0,)*625, None
    assert task._words_of(Wide(1)) is None
