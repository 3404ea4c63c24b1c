"Global random generators: seeded inside a block, and afterwards as they were"
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from tsmeta.load.reading import keyed

CALLS = dict(random=random.random, gauss=lambda: random.gauss(0, 1), bits=lambda: random.getrandbits(70), choice=lambda: random.choice('abcdef'),
             shuffle=lambda: random.shuffle(list(range(9))), seed=lambda: random.seed(5), bytes=lambda: random.randbytes(5))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**64), st.lists(st.sampled_from(sorted(CALLS)), max_size=40), st.lists(st.sampled_from(sorted(CALLS)), max_size=40))
def test_python_s_generator_is_put_back_wherever_it_stands(seed, before, inside):
    random.seed(seed)
    for c in before: CALLS[c]()
    state = random.getstate()
    with keyed(1, 2, 3):
        for c in inside: CALLS[c]()
    assert random.getstate() == state


def test_blocks_inside_blocks_and_exceptions_leave_no_trace():
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
