"Worker processes: what they may not change, how they die, and what becomes of bad rows."
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

matplotlib.use('agg')
import matplotlib.pyplot as plt
import tsmeta.train.predict, tsmeta.load.loader
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from fasttransform import ItemTransform
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.load.workers import WorkerDied
from tsmeta.load.loader import check_resume

KILLS = int(os.environ.get('TSMETA_KILLS', 50))


@pytest.fixture(autouse=True)
def tidy():
    "Loaders that earlier tests left over, and their workers, are gone"
    gc.collect()


class Rows:
    "A dataset that does something when a row is read"
    def __init__(self, n, act=None): self.n, self.act = n, act
    def __len__(self): return self.n
    def __getitem__(self, i): return np.full((1, 4), (self.act(i) if self.act else None) or 0, np.float32)


class Jitter(ItemTransform):
    def encodes(self, row): return row[0] + torch.randn(()), *row[1:]


class Flip(ItemTransform):
    "Random numbers from numpy and Python, for the list of rows"
    def encodes(self, rows): return [(r[0]*(1 + random.random()) + np.random.rand(), *r[1:]) for r in rows]


def arrays(n=60): return TSMetaDataset({k: (np.random.default_rng(i).normal(size=(n, 2, 6)).astype(np.float32), np.arange(n) % 2) for i, k in enumerate('ab')})


def epochs(dl, n=2): return [(dl.ids.tolist(), dl.dataset.mapping_idxs.tolist(), *(o.clone() for o in b)) for _ in range(n) for b in dl]


def same(a, b): return len(a) == len(b) and all(x[:2] == y[:2] and all(torch.equal(p, q) and type(p) is type(q) for p, q in zip(x[2:], y[2:])) for x, y in zip(a, b))


@pytest.mark.parametrize('context,workers', [('fork', 1), ('fork', 2), ('fork', 4), ('spawn', 2)] + [('spawn', 1), ('spawn', 4)]*(KILLS >= 50))
def test_everything_is_the_same_to_the_bit_for_any_workers(context, workers):
    def make(**kw): return TSMetaDataLoader(arrays(), bs=16, shuffle=True, seed=5, after_item=Jitter(), before_batch=Flip(), **kw)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert same(epochs(make(num_workers=workers, multiprocessing_context=context, persistent_workers=context == 'spawn')), epochs(make()))
    assert torch.equal(before[0], torch.get_rng_state()) and (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_random_transforms_of_rows_belong_to_seed_epoch_and_row():
    def values(bs=16, **kw):
        dl = TSMetaDataLoader(arrays(), bs=bs, after_item=Jitter(), **kw)
        return [dict(zip(sum((i for i, *_ in e), []), torch.cat([x for _, _, x, _ in e]))) for e in (epochs(dl, 1) for _ in range(2))]
    a, b, c = values(seed=1), values(bs=7, shuffle=True, seed=1), values(seed=2)
    for e in (0, 1): assert all(torch.equal(a[e][i], b[e][i]) for i in range(120)) and not any(torch.equal(a[e][i], c[e][i]) for i in range(120))
    assert not any(torch.equal(a[0][i], a[1][i]) for i in range(120))
    offs = [a[0][i][0, 0] - arrays()[i][0][0, 0] for i in range(120)]
    assert len({round(float(o), 4) for o in offs}) == 120
    torch.manual_seed(0)
    first, second = values(), values()
    assert not torch.equal(first[0][0], second[0][0])


def test_resuming_in_the_middle_keeps_the_randomness_of_rows():
    check_resume(lambda **kw: TSMetaDataLoader(arrays(20), bs=16, shuffle=True, seed=5, after_item=Jitter(), **kw), epochs=1, resume_with=({}, dict(num_workers=2)))


# ---- Death ----

def exits(code): return lambda i: os._exit(code)
def killed(i): os.kill(os.getpid(), signal.SIGKILL)


def children(): return [p for p in multiprocessing.active_children() if p.is_alive()]

def all_ended():
    "Whether all workers end, if not at once, as on a loaded machine"
    deadline = time.monotonic() + 60
    while children() and time.monotonic() < deadline: time.sleep(.05)
    return not children()


@pytest.mark.parametrize('persistent', [False, True])
@pytest.mark.parametrize('act,how', [(exits(0), 'code 0'), (exits(3), 'code 3'), (killed, 'signal 9 .out of memory')], ids=['exit0', 'exit3', 'kill9'])
def test_a_dead_worker_is_one_error_that_says_what_it_was_doing(act, how, persistent):
    meta = TSMetaDataset({'fine': Rows(30), 'fatal': Rows(10, lambda i: act(i) if i == 5 else None)})
    dl, got = TSMetaDataLoader(meta, bs=8, num_workers=2, persistent_workers=persistent), []
    for _ in range(2):
        with pytest.raises(WorkerDied, match=rf"Worker \d .process \d+. .*{how}.* before it had made batch \d of epoch \d, with rows of datasets .*'f"):
            for _ in dl: got.append(dl.ids.tolist())
        assert all_ended()
    assert all(g in [list(range(k, k+8)) for k in range(0, 40, 8)] and 35 not in g for g in got)


def test_random_kills_never_hang_shorten_an_epoch_or_leave_orphans():
    rng, died = random.Random(0), 0
    meta = TSMetaDataset({'a': Rows(200, lambda i: time.sleep(.0005)), 'b': Rows(200)})
    for k in range(KILLS):
        dl = TSMetaDataLoader(meta, bs=8, shuffle=True, seed=k, num_workers=rng.choice([1, 2, 3]), persistent_workers=rng.random() < .5)
        when, sig = rng.random()*.3, rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
        def kill():
            time.sleep(when)
            if not (alive := children()): return
            os.kill(rng.choice(alive).pid, sig)
        killer = threading.Thread(target=kill)
        killer.start()
        ids = []
        try:
            for _ in range(2):
                ids.append([])
                for _ in dl: ids[-1] += dl.ids.tolist()
        except WorkerDied:
            died += 1
            ids.pop()
        assert all(sorted(e) == list(range(400)) for e in ids)
        dl = None
        gc.collect()
        killer.join()
        assert all_ended()
    assert died > KILLS/4


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_workers_end_with_their_parent_even_if_it_is_killed_right_after_the_fork():
    dl, groups = TSMetaDataLoader(arrays(), bs=8, num_workers=2), []
    for k in range(20):
        pid = os.fork()
        if not pid:
            os.setsid()
            forks = iter(range(k % 2, -1, -1))
            def parent_dies():
                if next(forks): return
                os.kill(os.getpid(), signal.SIGKILL)
            os.register_at_fork(after_in_parent=parent_dies, after_in_child=lambda: time.sleep(k % 4*.1))
            for _ in dl: pass
            os._exit(3)
        groups.append(pid)
    assert [os.WTERMSIG(os.waitpid(pid, 0)[1]) for pid in groups] == [signal.SIGKILL]*20
    end = time.monotonic() + 8
    while (left := [g for g in groups if _alive(g)]) and time.monotonic() < end: time.sleep(.05)
    for g in left: os.killpg(g, signal.SIGKILL)
    assert not left


def _alive(group):
    try: os.killpg(group, 0)
    except ProcessLookupError: return False
    return True


def test_ctrl_c_ends_everything():
    code = '''
import sys, time
import numpy as np
from tsmeta.load.loader import TSMetaDataLoader
from tsmeta.data.dataset import TSMetaDataset
class Slow:
    def __len__(self): return 1000
    def __getitem__(self, i):
        time.sleep(.002)
        return np.zeros((1, 4), np.float32)
dl = TSMetaDataLoader(TSMetaDataset([Slow()]), bs=8, num_workers=2)
for k, _ in enumerate(dl):
    if k == 3: print('going', flush=True)
'''
    run = subprocess.Popen([sys.executable, '-c', code], env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stdout.readline() == 'going\n'
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=15)
    assert err.rstrip().endswith('KeyboardInterrupt') and 'WorkerDied' not in err
    with pytest.raises(ProcessLookupError): os.killpg(run.pid, 0)


# ---- Torch's options ----

def pid(i): return os.getpid() % 1000003


def pids(dl): return {int(v) for b in dl for v in b[0].unique()}


def test_persistent_workers_stay():
    meta = TSMetaDataset([Rows(40, pid)])
    kept, anew = (TSMetaDataLoader(meta, bs=4, num_workers=2, persistent_workers=p) for p in (True, False))
    first = pids(kept)
    assert len(first) == 2 and first == pids(kept) == pids(kept) and not pids(anew) & pids(anew) and os.getpid() % 1000003 not in first
    next(iter(kept))
    assert pids(kept) == first
    order = [kept.ids.tolist() for _ in kept]
    assert order == [list(range(k, k+4)) for k in range(0, 40, 4)]
    it = iter(kept)
    next(it)
    assert not pids(kept) & first, 'one loop inside another needs workers of its own'
    assert sum(1 for _ in it) == 9
    with pytest.raises(ValueError, match='num_workers > 0'): TSMetaDataLoader(meta, persistent_workers=True)
    assert kept.new(num_workers=0).fake_l.persistent_workers is False and kept.new().fake_l.persistent_workers
    del kept, it
    gc.collect()
    assert all_ended()


def test_persistent_workers_follow_changes():
    dl = TSMetaDataLoader(arrays(), bs=16, shuffle=True, seed=1, num_workers=1, persistent_workers=True)
    other = TSMetaDataLoader(arrays(), bs=16, shuffle=True, seed=1)
    for change in (lambda d: None, lambda d: d.set_epoch(7), lambda d: setattr(d, 'bs', 10), lambda d: d.set_mix('equal')):
        for d in (dl, other): change(d)
        assert same(epochs(dl, 1), epochs(other, 1))


@pytest.mark.parametrize('ahead', [1, 4])
def test_prefetch_factor(ahead):
    seen = multiprocessing.Value('i', 0)
    def act(i): seen.value += 1
    dl = TSMetaDataLoader(TSMetaDataset([Rows(400, act)]), bs=4, num_workers=1, prefetch_factor=ahead)
    seen.value = 0
    it = iter(dl)
    next(it)
    time.sleep(.5)
    assert seen.value == 4*(1 + ahead)
    it.close()
    with pytest.raises(ValueError, match='prefetch_factor is about workers'): TSMetaDataLoader(arrays(), prefetch_factor=2)
    assert dl.new().prefetch_factor == ahead


def test_timeout():
    slow = TSMetaDataset([Rows(40, lambda i: time.sleep(.3) if i > 20 else None)])
    with pytest.raises(RuntimeError, match='timed out after 0.5'): list(TSMetaDataLoader(slow, bs=4, num_workers=1, timeout=.5))
    assert all_ended()


# ---- Errors and bad rows ----

def fails(i):
    if i == 3: raise KeyError('no such sensor')


@pytest.mark.parametrize('workers', [0, 2])
def test_an_error_names_dataset_and_row_and_keeps_its_type(workers):
    class Picky(ItemTransform):
        def encodes(self, row):
            if row[1] == 1: raise ZeroDivisionError('odd row')
            return row
    meta = TSMetaDataset({'good': Rows(5), 'broken': Rows(5, lambda i: fails(i))})
    with pytest.raises(KeyError, match=r"dataset 'broken' \(1\), row 3.*no such sensor"): list(TSMetaDataLoader(meta, bs=4, num_workers=workers))
    with pytest.raises(ZeroDivisionError, match=r"A transform of dataset 'a' \(0\), row 1.*odd row"):
        list(TSMetaDataLoader(arrays(), bs=4, num_workers=workers, after_item=Picky()))
    assert all_ended()


def dirty():
    X = np.ones((20, 1, 4), np.float32)
    X[[2, 7], 0, 1] = np.nan, np.inf
    return TSMetaDataset({'clean': np.ones((20, 1, 4), np.float32), 'dirty': X, 'broken': Rows(20, fails)})


@pytest.mark.parametrize('workers', [0, 2])
def test_bad_rows_are_left_out_counted_and_told(workers):
    def make(**kw): return TSMetaDataLoader(dirty(), bs=8, num_workers=workers, **kw)
    dl = make(on_bad='skip')
    for _ in range(2):
        ids = []
        for x, in dl:
            assert len(x) == len(dl.ids) == len(dl.where) and torch.isfinite(x).all()
            ids += dl.ids.tolist()
        assert ids == [i for i in range(60) if i not in (22, 27, 43)]
    assert dl.bad.to_dict('list') == dict(dataset=[1, 2], name=['dirty', 'broken'], rows=[20, 20], not_finite=[2, 0], unreadable=[0, 1], share=[.1, .05])
    assert not len(make(on_bad='skip').bad) and make(on_bad='skip').new().on_bad == 'skip'
    with pytest.raises(ValueError, match=r"NaN or Inf in dataset 'dirty' \(1\), row 2\."): list(make(on_bad='raise'))
    with pytest.raises(ValueError, match=r"3 of 60 rows are bad, more than max_bad=0.04 .*; [12] of them in dataset 'dirty' \(1\)"): list(make(on_bad='skip', max_bad=.04))
    with pytest.raises(KeyError, match="'broken'"): list(make())
    assert sum(len(x) for x, in TSMetaDataLoader(dirty().subset(range(40)), bs=8, num_workers=workers)) == 40


def test_bad_rows_and_predictions():
    X = np.random.default_rng(0).normal(size=(50, 1, 4)).astype(np.float32)
    X[45] = np.nan
    dls = TSMetaDatasets(TSMetaDataset({'one': (X, np.arange(50) % 2)}), [range(30), range(30, 50)]).dataloaders(bs=10, seed=0, device='cpu', on_bad='skip')
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), cbs=[])
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda *a: None
    learn.fit(1)
    assert np.isfinite(learn.recorder.values[0]).all() and dls.valid.bad['not_finite'].tolist() == [1]
    table = learn.predict_table()
    assert table.row.tolist() == [i for i in range(30, 50) if i != 45]
    with pytest.raises(ValueError, match='predict_table'): learn.get_preds()


def test_a_batch_of_bad_rows_alone_is_not_delivered():
    X = np.ones((24, 1, 4), np.float32)
    X[8:16] = np.nan
    dl = TSMetaDataLoader(TSMetaDataset([X]), bs=8, on_bad='skip', max_bad=.5)
    assert [dl.ids.tolist() for _ in dl] == [list(range(8)), list(range(16, 24))] and dl.state_dict()['epoch'] == 1
    with pytest.raises(ValueError, match='on_bad must be'): TSMetaDataLoader(arrays(), on_bad='ignore')


# ---- Loaders made from loaders ----

@pytest.mark.parametrize('kw', [dict(weights=np.arange(120.)), dict(stratify=True), dict(partial_n=40), dict(mix='equal'), dict(n=50), {}], ids=str)
def test_looking_at_a_loader_or_making_another_changes_nothing(kw):
    dls = TSMetaDatasets(arrays(), [range(120)]).dataloaders(bs=16, seed=3, device='cpu', **{k: v for k, v in kw.items() if k != 'n'})
    dl = dls.train.new(n=50) if 'n' in kw else dls.train
    want = [dl.new().get_idxs().tolist(), [dl.ids.tolist() for d in [dl.new()] for _ in d and []]]
    state = dl.state_dict()
    first = dl.one_batch()
    dl.show_batch(unique=True)
    dl.show_batch()
    plt.close('all')
    dl.cws, dl.vars, len(dl)
    assert dl.state_dict() == state and torch.equal(dl.one_batch()[0], first[0]) and dl.get_idxs().tolist() == want[0]
    new = dl.new()
    assert list(new.vocab) == list(dl.vocab) and (new.seed, new.n, len(new)) == (dl.seed, dl.n, len(dl))
    assert same(epochs(new), epochs(dl))
    if 'n' in kw: assert dl.n == 50 and max(dl.get_idxs()) < 50 and len(dl) == 3
    every = dl.new(shuffle=False, drop_last=False)
    assert every.get_idxs().tolist() == list(range(50 if 'n' in kw else 120))


def test_new_loaders_together_keep_what_they_had():
    dls = TSMetaDatasets(arrays(), [range(80), range(80, 120)]).dataloaders(bs=16, seed=3, device='cpu', weights=np.arange(120.))
    assert same(epochs(dls.new()), epochs(dls.train))
    assert [len(d.dataset) for d in dls.new_empty()] == [0, 0]
