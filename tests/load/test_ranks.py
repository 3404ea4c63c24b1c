"Several processes train as one: slices of the same batches, the same weights, predictions complete and in order."
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip('accelerate')
import fastai.distributed
import rank_run
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.batches.mix import Mix
from tsmeta.load.distributed import Shard, mean_factor
from tsmeta.load.loader import check_resume

SIZES = 641, 675


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "What each of two processes found"
    folder, root = tmp_path_factory.mktemp('ranks'), Path(__file__).parents[1]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(root.parent), str(root), os.environ.get('PYTHONPATH', '')])}
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', str(root/'rank_run.py'), str(folder)],
                          env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder/f'{r}.pt', weights_only=False) for r in (0, 1)]


@pytest.fixture(scope='module')
def alone(): return {n: rank_run.train(n, False) for n in SIZES}


@pytest.mark.parametrize('n', SIZES)
def test_weights_equal_those_of_one_process(both, alone, n):
    for rank in both:
        for a, b in zip(rank[n]['weights'], alone[n]['weights'], strict=True): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('n', SIZES)
def test_predictions_are_complete_and_in_order_on_every_process(both, alone, n):
    for rank in both:
        for k in ('preds', 'targs', 'train_preds', 'train_targs', 'losses'):
            assert len(rank[n][k]) == (700 if 'train' in k else n)
            torch.testing.assert_close(rank[n][k], alone[n][k], rtol=1e-3, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize('n', SIZES)
def test_tables_are_saved_once(both, alone, n):
    for rank in both:
        saved, table = rank[n]['saved'], alone[n]['table']
        assert len(saved) == n and (saved[['dataset', 'row']].to_numpy() == table[['dataset', 'row']].to_numpy()).all()
        np.testing.assert_allclose(saved.loss, table.loss, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('n', SIZES)
def test_losses_and_metrics_are_those_of_one_process_and_the_same_everywhere(both, alone, n):
    for rank in both:
        np.testing.assert_allclose(rank[n]['validated'], alone[n]['validated'], rtol=1e-4)
        np.testing.assert_allclose([v[1:] for v in rank[n]['recorded']], [v[1:] for v in alone[n]['recorded']], rtol=1e-4)
    assert both[0][n]['validated'] == both[1][n]['validated'] and both[0][n]['recorded'] == both[1][n]['recorded']


@pytest.mark.parametrize('n', SIZES)
@pytest.mark.parametrize('which', ['table', 'own'])
def test_tables_hold_every_row_once(both, alone, n, which):
    want = alone[n][which]
    for rank in both: pd.testing.assert_frame_equal(rank[n][which], want, rtol=1e-3, atol=1e-4)
    assert len(want) == (n if which == 'table' else 700)


def test_13_fastai_leaves_the_loader_as_it_is(both):
    assert all(rank[n]['left_alone'] for rank in both for n in SIZES)


@pytest.mark.parametrize('how', ['order', 'workers'])
def test_random_transforms_of_rows_are_the_same_for_any_number_of_processes_and_workers(both, how):
    ids, xs, where, states = rank_run.order()
    for b, i in enumerate(ids):
        parts = [rank[how] for rank in both]
        assert np.array_equal(np.concatenate([p[0][b] for p in parts]), i)
        assert torch.equal(torch.cat([p[1][b] for p in parts]), xs[b])
        assert np.array_equal(np.concatenate([p[2][b] for p in parts]), where[b])
        assert [p[3][b] for p in parts] == [states[b]]*2


def test_a_share_of_a_share_is_refused(both):
    for rank in both:
        assert 'split_for_process' in rank['share of a share'] and rank['sharding off'] is None
        assert 'order their rows otherwise' in rank['other seeds']
        assert 'give a seed' in rank['no seed']


# ---- What needs no processes ----

@given(n=st.integers(0, 300), w=st.integers(1, 9), drop=st.booleans())
def test_dealing_gives_each_row_once(n, w, drop):
    batch, each = np.arange(n), [list(Shard(r, w, drop)(np.arange(n))) for r in range(w)]
    assert len({tuple((len(own), shared) for own, _, shared in e) for e in each}) == 1
    got = []
    for deliveries in zip(*each):
        _, every, shared = deliveries[0]
        assert np.array_equal(np.concatenate([own for own, _, _ in deliveries]), np.tile(every, w) if shared else every)
        got += every.tolist()
    assert got == batch[:len(got)].tolist() and (len(got) == n or drop and n - len(got) == n % w)
    sizes = {n: 1} if n else {}
    assert Shard(0, w, drop).steps(sizes) == len(each[0]) and Shard(0, w, drop).left_out(sizes) == n - len(got)


def world(w, n=100, **kwargs):
    X = np.arange(n, dtype=np.float32)[:, None, None]
    meta = TSMetaDataset([(X[:40], np.arange(40) % 2), (X[40:], np.arange(n-40) % 2)])
    return [TSMetaDataLoader(meta, **{'bs': 12, 'seed': 3, **kwargs}, rank=r, world_size=w) for r in range(w)]


@settings(deadline=None, max_examples=40)
@given(w=st.sampled_from([2, 3, 4, 6]), n=st.integers(41, 130), drop=st.booleans(),
       kind=st.sampled_from([{}, dict(partial_n=.5), dict(stratify=True), dict(weights=True), dict(mix='equal'),
                             dict(mix=Mix('equal', batching='stratified')), dict(mix=Mix('equal', batching='per_dataset'))]))
def test_slices_are_those_of_the_batches_of_one_process(w, n, drop, kind):
    kind = {k: np.arange(1., n+1) if k == 'weights' else v for k, v in kind.items()}
    one, = world(1, n, shuffle=True, drop_last=drop, **kind)
    whole, dls = [one.ids for _ in one], world(w, n, shuffle=True, drop_last=drop, **kind)
    got = [[(dl.ids, dl.all_ids) for _ in dl] for dl in dls]
    assert {len(g) for g in got} == {len(dl) for dl in dls}
    assert all(np.array_equal(a[1], b[1]) for g in got[1:] for a, b in zip(g, got[0]))
    left = dls[0].shard.left_out(one.plan.sizes())
    assert sum(len(a) for _, a in got[0]) == sum(map(len, whole)) - left and (drop or not left)
    if left + one.plan.dropped: assert f'{left + one.plan.dropped:,} rows left out' in repr(dls[0])
    rows = dls[0].dataset.gather(got[0][0][0])[0]
    assert np.array_equal(rows.ravel(), got[0][0][0])
    for deliveries in zip(*got):
        own = np.concatenate([o for o, _ in deliveries])
        assert np.array_equal(own, deliveries[0][1]) or all(np.array_equal(o, a) and len(o) < w for o, a in deliveries)


def test_factors_make_a_mean_over_rows():
    for n in range(1, 200):
        for w in (2, 3, 4):
            one, dls = world(1, n + 41, bs=24)[0], world(w, n + 41, bs=24)
            sizes, total, count = one.plan.sizes(), 0, 0
            for _ in dls[0]:
                x, shared = dls[0].all_ids, dls[0].delivered.shared
                total += x.mean()*mean_factor(dls[0].shard, sizes, shared)*len(dls[0].ids)
                count += len(dls[0].ids)
            assert abs(total/count - (n + 40)/2) < 1e-9


def test_a_batch_must_be_divisible_and_a_seed_given():
    with pytest.raises(ValueError, match='take 9 or 12'): world(3, bs=10)
    with pytest.raises(ValueError, match='give a seed'): world(2, shuffle=True, seed=None)
    with pytest.raises(ValueError, match='equal shares'): world(2, on_bad='skip')
    with pytest.raises(ValueError, match='outside a world'): TSMetaDataLoader(world(1)[0].dataset, rank=2, world_size=2)
    dl = world(2)[0]
    dl.bs = 7
    with pytest.raises(ValueError, match='2 must divide it'): next(iter(dl))


def test_a_state_fits_any_number_of_processes():
    def make(w=1, r=0, workers=0): return TSMetaDataLoader(world(1)[0].dataset, bs=12, shuffle=True, seed=3, drop_last=False, rank=r, world_size=w, num_workers=workers)
    check_resume(lambda **kw: make(**kw), epochs=1)
    check_resume(lambda **kw: make(2, **kw), epochs=1)
    check_resume(lambda **kw: make(3, 1, **kw), epochs=1)
    whole = [dl.ids.tolist() for dl in [make()] for _ in range(2) for _ in dl]
    flat = sum(whole, [])
    for a in (1, 2, 3, 4, 6):
        for b in (1, 2, 3, 4, 6):
            first, got = make(a), []
            for k, _ in enumerate(first):
                got += first.all_ids.tolist()
                state = json.loads(json.dumps(first.state_dict()))
                second, rest = make(b), []
                second.load_state_dict(state)
                for _ in range(1 + (state['epoch'] == 0)):
                    for _ in second: rest += second.all_ids.tolist()
                assert got + rest == flat, (a, b, k)


@pytest.mark.parametrize('before,after', [((1, 2), (2, 1)), ((2, 1), (3, 2)), ((3, 0), (1, 2)), ((2, 2), (4, 0))], ids=str)
def test_a_state_fits_other_processes_with_other_workers_and_a_mix(before, after):
    def make(w, workers, r=0):
        return TSMetaDataLoader(world(1)[0].dataset, bs=12, shuffle=True, seed=3, mix=('temperature', 2), rank=r, world_size=w, num_workers=workers)
    flat = sum([dl.ids.tolist() for dl in [make(1, 0)] for _ in range(2) for _ in dl], [])
    first, got = make(*before), []
    for k, _ in enumerate(first):
        got += first.all_ids.tolist()
        if k % 4: continue
        state = json.loads(json.dumps(first.state_dict()))
        ranks = [make(*after, r=r) for r in range(after[0])]
        for dl in ranks: dl.load_state_dict(state)
        rest = [[(dl.ids, dl.all_ids.tolist()) for _ in range(1 + (state['epoch'] == 0)) for _ in dl] for dl in ranks]
        assert all(got + sum((every for _, every in r), []) == flat for r in rest)
        assert all(set(np.concatenate([own for own, _ in deliveries])) == set(deliveries[0][1]) for deliveries in zip(*rest))


def test_new_loaders_stay_ranks_and_plain_ones_plain():
    dl = world(2, shuffle=True)[1]
    assert isinstance(dl, fastai.distributed.DistributedDL) and isinstance(dl, TSMetaDataLoader) and type(dl).__name__ == 'TSMetaDataLoader'
    new = dl.new()
    assert (new.sharding.rank, new.sharding.world_size) == (1, 2) and [new.ids.tolist() for _ in new] == [dl.ids.tolist() for _ in dl]
    assert type(world(1)[0]) is TSMetaDataLoader and 'rank 1 of 2' in repr(dl)
    again = pickle.loads(pickle.dumps(dl))
    assert type(again) is TSMetaDataLoader and (again.sharding.rank, again.sharding.world_size) == (0, 1) and len(next(iter(again))[0]) == 12


def test_batch_transforms_are_keyed_by_rank_too():
    def noise(x): return x + torch.randn(1)
    a, b = ([x.flatten() - torch.from_numpy(dl.ids) for x, y in dl] for dl in world(2, batch_tfms=noise))
    again = [x.flatten() - torch.from_numpy(dl.ids) for dl in world(2, batch_tfms=noise)[:1] for x, y in dl]
    assert all(torch.equal(p, q) for p, q in zip(a, again))
    assert not any(torch.isclose(p[0], q[0]) for p, q in zip(a[:8], b[:8]))
