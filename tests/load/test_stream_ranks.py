"Several processes train on streams as one: the same weights, metrics and predictions; rests count once; what cannot be is said, and nothing hangs."
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip('accelerate')
import fastai.distributed
import rank_run
import stream_rank_run as run
from tsmeta.load.stream import Stream
from tsmeta.load.stream_loader import LoaderFeed, TSStreamLoader

ROOT = Path(__file__).parents[1]
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(ROOT.parent), str(ROOT), os.environ.get('PYTHONPATH', '')])}
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "What each of two processes found"
    folder = tmp_path_factory.mktemp('ranks')
    done = subprocess.run([*TORCHRUN, str(ROOT/'stream_rank_run.py'), str(folder)], env=ENV, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder/f'{r}.pt', weights_only=False) for r in (0, 1)]


@pytest.fixture(scope='module')
def alone():
    kinds = {'weighted': dict(weights='balanced'), 'whole': dict(drop_last=False)}
    return {n: run.train(n, False) for n in run.SIZES} | {k: run.train(641, False, **kw) for k, kw in kinds.items()}


RUNS = [641, 675, 'workers', 'weighted']


@pytest.mark.parametrize('which', RUNS)
def test_weights_equal_those_of_one_process(both, alone, which):
    for rank in both:
        for a, b in zip(rank[which]['weights'], alone[641 if which == 'workers' else which]['weights'], strict=True): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('which', [*RUNS, 'whole'])
def test_losses_and_metrics_are_those_of_one_process_and_the_same_everywhere(both, alone, which):
    want = alone[641 if which == 'workers' else which]
    assert both[0][which]['validated'] == both[1][which]['validated'] and both[0][which]['recorded'] == both[1][which]['recorded']
    if which == 'whole': return
    for rank in both:
        np.testing.assert_allclose(rank[which]['validated'], want['validated'], rtol=1e-4)
        np.testing.assert_allclose([v[1:] for v in rank[which]['recorded']], [v[1:] for v in want['recorded']], rtol=1e-4)
        pd.testing.assert_frame_equal(rank[which]['by_dataset'], want['by_dataset'], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('which', [641, 675, 'workers'])
def test_predictions_are_complete_and_in_order_on_every_process(both, alone, which):
    n, want = (which, alone[which]) if which in run.SIZES else (641, alone[641])
    ds = run.parts(n)
    for rank in both:
        got = rank[which]
        assert np.array_equal(got['targs'], ds.valid.targets()) and np.array_equal(got['train_targs'], ds.train.targets())
        for k in ('preds', 'targs', 'train_preds', 'train_targs', 'losses', 'new'): torch.testing.assert_close(got[k], want[k], rtol=1e-3, atol=1e-4, check_dtype=False)
        assert [len(got[k]) for k in ('preds', 'train_preds', 'losses', 'new')] == [n, run.TRAIN, n, 5] and got['left_alone']


@pytest.mark.parametrize('n', run.SIZES)
def test_tables_hold_every_row_once_and_in_order(both, alone, n):
    for rank in both:
        for k in ('table', 'own'): pd.testing.assert_frame_equal(rank[n][k], alone[n][k], rtol=1e-3, atol=1e-4)
        saved, table = rank[n]['saved'], alone[n]['table']
        assert (saved[['dataset', 'row']].to_numpy() == table[['dataset', 'row']].to_numpy()).all()
    assert np.array_equal(alone[n]['table'][['dataset', 'row']].to_numpy(), run.parts(n).valid.mapping)
    assert len(alone[n]['own']) == run.TRAIN == len(alone[n]['own'][['dataset', 'row']].drop_duplicates())


def test_a_training_goes_on_in_the_middle_of_an_epoch(both):
    size, want = run.resumed(False)
    assert size <= 1024 and all(rank['resumed'][0] <= 1024 for rank in both)
    got = [rank['resumed'][1] for rank in both]
    assert len(got[0]) == len(got[1]) == len(want)
    for (ids, _, _), (a, every, _), (b, also, _) in zip(want, *got):
        assert np.array_equal(ids, every) and np.array_equal(ids, also) and np.array_equal(ids, np.concatenate([a, b]))
    straight = run.loaders(641, fn=run.noisy).train
    straight.set_epoch(1)
    whole = [x.as_subclass(torch.Tensor).clone() for x, _ in straight]
    for (_, _, x), y in zip(want, whole[4:]): assert torch.equal(x, y)


@pytest.mark.parametrize('n', run.SIZES)
def test_the_rest_of_a_batch_is_the_same_rows_mapped_alike_in_all_processes(both, n):
    got = [rank['noise'][n] for rank in both]
    shared = [(a, b) for a, b in zip(*got) if a[2]]
    assert len(shared) == (n % run.BS) % 2
    for a, b in shared: assert np.array_equal(a[0], b[0]) and torch.equal(a[3], b[3])
    rows = sum([a[1].tolist() for a in got[0]], [])
    assert rows == run.parts(n).valid.ids().tolist() and not torch.equal(got[0][0][3], got[1][0][3])


def test_other_orders_are_refused_in_all_processes(both):
    for rank in both: assert 'order their rows otherwise' in rank['other order']


# ---- What goes wrong is said by every process, and soon ----

BROKEN = '''
import os, signal, sys
import numpy as np, torch
import rank_run, stream_rank_run as run
from accelerate import PartialState
from tsmeta.load.loader import TSMetaDataLoaders

rank, seen = PartialState(cpu=True).process_index, []
def work(b):
    seen.append(0)
    if rank == 1 and len(seen) == 5: {what}
    return b
mds = run.parts(641)
dls = TSMetaDataLoaders.from_streams(*(p.stream(bs=64, seed=7, shuffle=i == 0, drop_last=i == 0).map(work, fan_out=1) for i, p in enumerate(mds)), device='cpu')
learn = rank_run.learner(dls)
with learn.distrib_ctx(sync_bn=False, cpu=True): learn.fit(2, lr=.05)
print('done')
'''
WRONG = {'killed': ('os.kill(os.getpid(), signal.SIGKILL)', 'SIGKILL'), 'rows lost': ("return {k: v[1:] for k, v in b.items()}", 'has left out rows')}


@pytest.fixture(scope='module')
def broken(tmp_path_factory):
    "What becomes of trainings in which something goes wrong in one of two processes, side by side"
    folder, out = tmp_path_factory.mktemp('broken'), {}
    for k, (what, _) in WRONG.items(): (folder/f'{k}.py').write_text(BROKEN.replace('{what}', what))
    runs = {k: subprocess.Popen([*TORCHRUN, str(folder/f'{k}.py')], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for k in WRONG}
    for k, p in runs.items():
        try: out[k] = (*p.communicate(timeout=120), p.returncode)
        finally: p.kill()
    return out


@pytest.mark.parametrize('name', WRONG)
def test_what_goes_wrong_in_one_process_ends_all(broken, name):
    out, err, code = broken[name]
    assert code and WRONG[name][1] in err and 'done' not in out, err[-3000:]
