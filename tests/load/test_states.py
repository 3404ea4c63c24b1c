"States of loaders and streams that cannot be are refused by name, and nothing is changed by them"
import copy, json

import numpy as np, pytest, torch
from fasttransform import ItemTransform, Transform
from hypothesis import given, settings, strategies as st

from tsmeta.data.dataset import TSMetaDataset
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoader, TSMetaDataLoaders
from tsmeta.load.stream import Stream
import tsmeta.load.stream_loader


def arrays(n=50): return TSMetaDataset({'icu': np.zeros((n, 2, 8), 'f4'), 'ward': np.ones((30, 2, 8), 'f4')})

def loader(**kwargs): return TSMetaDataLoader(arrays(), **{**dict(bs=8, shuffle=True, seed=1), **kwargs})

def begun(dl, n=3):
    it = iter(dl)
    for _ in range(n): next(it)
    return json.loads(json.dumps(dl.state_dict()))

def chain(seed=0):
    s = Stream.of(dict(x=np.arange(40.).reshape(20, 2)), seed=seed).sampler('random')
    return s.batch(3).max_samples(14).map([np.copy, dict][1], fan_out=1).rebatch(4)

WRONG = st.one_of(st.none(), st.booleans(), st.integers(-5, -1), st.integers(2**62, 2**80), st.floats(), st.text(max_size=3),
                  st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2))

@settings(max_examples=150, deadline=None)
@given(st.sampled_from(['version', 'epoch', 'batch', 'seed', 'fingerprints', 'facts', 'rows', 'then', 'given', 'mood']), WRONG)
def test_a_changed_field_of_a_loader_is_refused_by_name_or_means_the_same(name, value):
    dl = LOADER
    before = dl.state_dict()
    state = {**STATE, name: value}
    try: dl.load_state_dict(state)
    except ValueError as e: assert 'state' in str(e) or 'Cannot resume' in str(e)
    else: assert (name, value) in (('given', True), ('given', False), ('facts', {})), (name, value)
    finally: dl.load_state_dict(before)

@settings(max_examples=150, deadline=None)
@given(st.sampled_from(['epoch', 'delivered', 'token', 'begins', 'seed', 'chain', 'version', 'mood']), WRONG)
def test_a_changed_field_of_a_stream_is_refused_or_means_the_same(name, value):
    s = chain()
    try: s.load_state_dict({**STREAM_STATE, name: value})
    except ValueError as e: assert 'state' in str(e)
    else: assert (name, value) == ('begins', {}), (name, value)

LOADER, STATE, STREAM_STATE = loader(), begun(loader()), begun(chain())

def places(o, at=()):
    "Paths of all numbers in a token"
    if isinstance(o, (list, tuple)): return [p for i, v in enumerate(o) for p in places(v, (*at, i))]
    return [at]

@pytest.mark.parametrize('at', places(STREAM_STATE['token']), ids=str)
@pytest.mark.parametrize('value', [-1, 'x', 1.5, [], 2**70, True])
def test_every_number_of_a_token_is_checked(at, value):
    state = copy.deepcopy(STREAM_STATE)
    part = state['token']
    for i in at[:-1]: part = part[i]
    part[at[-1]] = value
    with pytest.raises(ValueError, match='state of a stream is damaged: token is'): chain().load_state_dict(state)

@pytest.mark.parametrize('begin', [None, [0], [0, None, -1], [-1, None, 0], [0, 'x', 0], 7])
def test_where_max_samples_begins_is_checked(begin):
    for k in STREAM_STATE['begins']:
        with pytest.raises(ValueError, match='damaged'): chain().load_state_dict({**STREAM_STATE, 'begins': {k: begin}})
    with pytest.raises(ValueError, match=r"begins\['9'\]"): chain().load_state_dict({**STREAM_STATE, 'begins': {'9': [0, None, 0]}})

def test_a_refused_state_changes_nothing():
    dl, other = loader(), begun(loader(bs=10))
    state = dl.state_dict()
    with pytest.raises(ValueError, match='batch size'): dl.load_state_dict(other)
    assert dl.state_dict() == state and dl.seed == 1

def test_a_state_without_its_facts_still_resumes_or_is_refused():
    dl, state = loader(), begun(loader())
    del state['facts']
    dl.load_state_dict(state)
    assert dl.epoch == 0 and len([*dl]) == len(dl) - 3
    with pytest.raises(ValueError, match='batch size, shuffling, drop_last, seed, weights or mix changed'): loader(bs=10).load_state_dict(state)

def test_states_of_several_loaders_and_of_one():
    mds = TSMetaDatasets(arrays(), [range(40), range(40, 80)])
    dls = mds.dataloaders(bs=8, seed=1)
    state = dls.state_dict()
    with pytest.raises(ValueError, match='state of several loaders'): dls.train.load_state_dict(state)
    with pytest.raises(ValueError, match="needs a list 'loaders'"): dls.load_state_dict(dls.train.state_dict())
    with pytest.raises(ValueError, match='has 1 loaders, there are 2'): dls.load_state_dict(dict(loaders=state['loaders'][:1]))
    for wrong in (None, [], dict(loaders=None), dict(loaders='ab')):
        with pytest.raises(ValueError): dls.load_state_dict(wrong)

def test_no_loader_is_changed_when_one_state_is_refused():
    mds = TSMetaDatasets(arrays(), [range(40), range(40, 80)])
    dls = mds.dataloaders(bs=8, seed=1)
    begun(dls.train)
    state = dls.state_dict()
    state['loaders'][1]['batch'] = -1
    again = mds.dataloaders(bs=8, seed=1)
    with pytest.raises(ValueError, match='batch'): again.load_state_dict(state)
    assert again.train.state_dict()['batch'] == 0

def test_a_state_of_an_older_order_is_refused(monkeypatch):
    import tsmeta.batches.plan as plan
    state = begun(loader())
    monkeypatch.setattr(plan, 'ORDER_VERSION', 2)
    with pytest.raises(ValueError, match='the algorithm that orders rows'): loader().load_state_dict(state)

def test_a_seed_restored_with_a_state_decides_augmentations_too():
    class Jitter(Transform):
        def encodes(self, x:torch.Tensor): return x + torch.randn(()) if x.ndim == 3 else x
    def make(seed): return TSMetaDataLoader(arrays(), bs=8, shuffle=True, seed=seed, batch_tfms=Jitter())
    first = make(5)
    it = iter(first)
    next(it)
    state, want = first.state_dict(), [b[0].clone() for b in it]
    second = make(None)
    second.load_state_dict(state)
    assert all(torch.equal(a, b[0]) for a, b in zip(want, second, strict=True))

# Errors name the batch, and the datasets of its rows

def fails(x): raise FloatingPointError('underflow')

@pytest.mark.parametrize('workers', [0, 1])
def test_an_error_of_a_batch_transform_names_batch_and_datasets(workers):
    dl = TSMetaDataLoader(arrays(), bs=40, num_workers=workers, batch_tfms=Transform(fails))
    with pytest.raises(FloatingPointError, match=r"batch transform of batch 0 of epoch 0, with rows of datasets 'icu' \(0\): .*underflow"): list(dl)
    s = TSMetaDatasets(arrays(), [range(80)]).train.stream(bs=40)
    dls = TSMetaDataLoaders.from_streams(s, batch_tfms=Transform(fails), device='cpu')
    with pytest.raises(FloatingPointError, match="batch 0 of epoch 0, with rows of datasets 'icu'"): list(dls.train)

class Grow(ItemTransform):
    def encodes(self, row): return torch.cat([row[0]]*(1 + (row[0].sum() > 0).long()), 1), *row[1:]

@pytest.mark.parametrize('workers', [0, 1])
def test_rows_of_unequal_length_are_named(workers):
    dl = TSMetaDataLoader(arrays(), bs=80, num_workers=workers, after_item=Grow())
    with pytest.raises(Exception, match=r"batch 0 of epoch 0, with rows of datasets 'icu' \(0\), 'ward' \(1\).*dataset 'ward' \(1\), row 0 has \[\(2, 16\)\]"): list(dl)

# Members that draw random numbers

class Drawing:
    "Items with a random number each"
    def __len__(self): return 12
    def __getitem__(self, i): return np.full((2, 8), np.random.rand() + i, np.float32)

DRAWING = TSMetaDataset({'still': np.zeros((5, 2, 8), 'f4'), 'drawing': Drawing()}) # which reads the first item

def drawn(seed=1, **kwargs):
    "Two epochs of id → what was drawn for it"
    dl = TSMetaDataLoader(DRAWING, shuffle=True, seed=seed, device='cpu', **kwargs)
    return [{int(i): float(v) for x, in dl for i, v in zip(dl.ids, x[:, 0, 0])} for _ in range(2)]

def test_what_members_draw_is_keyed_by_seed_epoch_and_id():
    want = drawn(bs=4)
    assert want == drawn(bs=7) == drawn(bs=5, num_workers=2) == drawn(bs=17, on_bad='raise')
    assert want[0] != want[1] and want != drawn(seed=2, bs=4)
    assert drawn(seed=None, bs=4) != drawn(seed=None, bs=4)
    dl = TSMetaDataLoader(TSMetaDataset(Drawing()), bs=4, seed=1, device='cpu')
    before = np.random.get_state()[1].tolist()
    list(dl)
    assert np.random.get_state()[1].tolist() == before

# Subclasses and what a loader holds

def test_overriding_what_is_not_called_is_refused():
    class Mine(TSMetaDataLoader):
        def create_item(self, i): return None
    with pytest.raises(TypeError, match='Mine overrides create_item'): Mine(arrays())

def test_get_idxs_of_a_subclass_decides_the_rows_of_every_epoch():
    class Backwards(TSMetaDataLoader):
        def get_idxs(self): return super().get_idxs()[::-1] + 0*self.epoch
    dl, plain = Backwards(arrays(), bs=8), TSMetaDataLoader(arrays(), bs=8)
    for epoch in range(2):
        assert dl.epoch == epoch
        rows = np.concatenate([dl.ids.copy() for _ in dl])
        assert rows.tolist() == list(range(80))[::-1]
    with pytest.raises(ValueError, match='get_idxs of Backwards'): dl.state_dict()
    plain.state_dict()

def test_a_loader_holds_few_objects():
    "Attributes of a loader beside those of fastai's own"
    from fastai.data.core import TfmdDL
    own = {*vars(loader())} - {*vars(TfmdDL(list(range(4)), bs=2))}
    assert own <= {'sampling', 'cursor', 'sharding', 'bad_rows', 'read_ahead', 'delivered', 'tensors'}
    assert len(TSMetaDataLoader.__bases__) <= 2
