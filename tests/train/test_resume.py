"A training that is stopped anywhere and started again ends with the weights it would have had."
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rank_resume
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.callback.training import GradientAccumulation
from fastai.metrics import F1Score, accuracy
from resume_tools import Noise, Stopped, StopAfter, Trace, digest, fit, learner, meta
from tsmeta.train.resume import Checkpoints
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.train.metrics import DatasetMetrics
from tsmeta.batches.mix import Mix
from tsmeta.train.mixture import MixtureScheduler, TrackDatasets
from tsmeta.train.resume import SaveResume

HERE = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stopped_at(k, folder, every=1, cbs=(), **kwargs):
    "Train, stopped after `k` batches"
    with pytest.raises(Stopped): fit(learner(cbs=StopAfter(k), **kwargs), folder, every=every, cbs=[c() for c in cbs])


def resumed(folder, cbs=(), **kwargs):
    learn = learner(init=9, **kwargs)
    fit(learn, folder, every=1, cbs=[c() for c in cbs])
    return learn


def whole(cbs=(), **kwargs):
    learn = learner(**kwargs)
    fit(learn, cbs=[c() for c in cbs])
    return learn


def test_stopped_after_any_batch_of_training_or_validation(tmp_path):
    trace = Trace()
    learn = learner()
    fit(learn, cbs=[trace])
    want, n = digest(learn), len(trace.seen)
    for k in range(1, n):
        stopped_at(k, tmp_path/str(k))
        again, rest = learner(init=9), Trace()
        fit(again, tmp_path/str(k), every='1h', cbs=[rest])
        assert digest(again) == want, f'stopped after batch {k}'
        assert rest.seen[-(n-k):] == trace.seen[k:], f'counters after batch {k}'


@pytest.mark.parametrize('kwargs', [dict(seed=None), dict(mix='equal'), dict(mix=Mix({'d0': 1, 'd2': 3}, batching='stratified')), dict(weights=np.arange(81.)),
                                    dict(batch_tfms=None, partial_n=.5), dict(stratify=True, drop_last=False)], ids=str)
def test_for_any_way_to_choose_rows(kwargs, tmp_path):
    want = learner(**kwargs)
    fit(want, tmp_path/'whole')
    for k in (2, 6, 10):
        stopped_at(k, tmp_path/str(k), **kwargs)
        assert digest(resumed(tmp_path/str(k), **kwargs)) == digest(want)


@pytest.mark.parametrize('before,after', [(2, 0), (0, 2)])
def test_with_another_number_of_workers(before, after, tmp_path):
    stopped_at(5, tmp_path, workers=before)
    assert digest(resumed(tmp_path, workers=after)) == digest(whole())


class Scaled(Callback):
    "A scaler of mixed precision whose scale changes on the way and decides about the steps"
    order = 10
    def before_fit(self): self.learn.scaler = torch.amp.GradScaler('cpu', init_scale=4., growth_interval=2)
    def before_backward(self): self.learn.loss_grad = self.learn.loss_grad*(1 + 1/self.learn.scaler.get_scale())
    def after_step(self):
        self.learn.scaler.scale(torch.zeros(1))
        self.learn.scaler._growth_tracker += 1
        self.learn.scaler.update(self.learn.scaler.get_scale()*1.5)


class Counts(Callback):
    "Counters of many kinds, one of which decides about the training"
    def __init__(self): self.total, self.by_class, self.last = 0., np.zeros(2), {'losses': []}
    def after_loss(self):
        if not self.training: return
        self.total, self.by_class = self.total + float(self.loss), self.by_class + np.bincount(self.y, minlength=2)
        self.last['losses'].append(self.loss.detach())
        self.learn.loss_grad = self.learn.loss_grad*(1 + self.total/100 + self.by_class[0]/1000 + float(self.last['losses'][0]))


@pytest.mark.parametrize('cb', [lambda: GradientAccumulation(20), Scaled, Counts, lambda: EarlyStoppingCallback(patience=1)],
                         ids=['accumulated gradients', 'scaler', 'counters', 'early stopping'])
def test_what_callbacks_count_goes_on(cb, tmp_path):
    want = digest(whole([cb]))
    for k in (1, 4, 9, 12):
        stopped_at(k, tmp_path/str(k), cbs=[cb])
        assert digest(resumed(tmp_path/str(k), [cb])) == want, k


def test_a_mix_that_changes_on_the_way(tmp_path):
    class Schedule(Callback):
        def before_epoch(self): self.dls.train.set_mix(('temperature', 1. + self.epoch))
    want = digest(whole([Schedule], mix='equal'))
    for k in (3, 9, 12, 15):
        stopped_at(k, tmp_path/str(k), cbs=[Schedule], mix='equal')
        assert digest(resumed(tmp_path/str(k), [Schedule], mix='equal')) == want, k


def test_a_mix_that_changes_in_the_middle_of_an_epoch_is_refused(tmp_path):
    class Hasty(Callback):
        def after_batch(self):
            if self.training and self.iter == 3: self.dls.train.set_mix('proportional')
    with pytest.raises(ValueError, match='Change it between epochs'): fit(learner(mix='equal'), tmp_path, cbs=[Hasty()])
    assert Checkpoints(tmp_path).newest()[1]['at']['batch'] == 3


def counters():
    return [DatasetMetrics(accuracy, F1Score(), train=True), TrackDatasets(), MixtureScheduler(by_loss='equal', floor=.2)]


def tables(learn): return learn.dataset_metrics, learn.datasets_seen, learn.mixture


def test_what_is_counted_by_dataset_and_decided_by_losses_goes_on(tmp_path):
    def run(folder=None, stop=None, init=0):
        learn = learner(init, mix='equal', cbs=StopAfter(stop) if stop else None)
        fit(learn, folder, cbs=counters())
        return learn
    want = run()
    for k in (3, 8, 11, 14, 18):
        with pytest.raises(Stopped): run(tmp_path/str(k), k)
        got = run(tmp_path/str(k), init=9)
        assert digest(got) == digest(want), k
        for a, b in zip(tables(got), tables(want)): pd.testing.assert_frame_equal(a, b, check_exact=True)
    done = run(tmp_path/'3', init=4)
    for a, b in zip(tables(done), tables(want)): pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_a_state_that_is_not_plain_names_the_callback(tmp_path):
    class Odd(Callback):
        def state_dict(self): return dict(a=object())
        def load_state_dict(self, s): pass
    with pytest.raises(TypeError, match='Odd.state_dict: .* not object'): fit(learner(), tmp_path, cbs=[Odd()])


def tuned(folder=None, stop=None, init=0):
    learn = learner(init, cbs=StopAfter(stop) if stop else None)
    learn.splitter = lambda m: [list(m[:2].parameters()), list(m[2:].parameters())]
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(1, 1e-2, cbs=[SaveResume(folder, every=1)] if folder else [])
    return digest(learn)


def test_both_trainings_of_fine_tune_resume(tmp_path):
    want = tuned()
    for k in (3, 9, 12, 17):
        with pytest.raises(Stopped): tuned(tmp_path/str(k), k)
        assert tuned(tmp_path/str(k), init=9) == want, k
    assert tuned(tmp_path/'3', init=8) == want


def doubled(b): return {**b, 'x': b['x']*2}


def test_streams_resume(tmp_path):
    def run(folder=None, stop=None, init=0, fn=doubled):
        learn = learner(init, cbs=StopAfter(stop) if stop else None)
        parts = [ds.stream(bs=8, shuffle=not k, seed=4).map(fn, fan_out=1) for k, ds in enumerate([learn.dls.train_ds, learn.dls.valid_ds])]
        learn.dls = TSMetaDataLoaders.from_streams(*parts, batch_tfms=Noise(), device='cpu')
        fit(learn, folder)
        return digest(learn)
    want = run()
    for k in (2, 8, 9, 13):
        with pytest.raises(Stopped): run(tmp_path/str(k), k)
        assert run(tmp_path/str(k), init=9) == want, k
    with pytest.raises(Stopped): run(tmp_path/'x', 5)
    with pytest.raises(ValueError, match='What changed: batch size, shuffling.* of the training set'): run(tmp_path/'x', fn=lambda b: b)


def test_several_processes_killed_and_resumed(tmp_path):
    pytest.importorskip('accelerate')
    def run(*args):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            env = {**os.environ, 'PYTHONPATH': f'{HERE.parent}:{HERE}', 'OMP_NUM_THREADS': '1', 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(s.getsockname()[1])}
        each = [subprocess.Popen([sys.executable, HERE/'rank_resume.py', tmp_path, *args], env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)}, stderr=subprocess.PIPE, text=True) for r in (0, 1)]
        said = [p.communicate(timeout=120)[1] for p in each]
        return [p.returncode for p in each], said
    codes, said = run('5')
    assert codes[0] and codes[1] == -9, said
    assert int(Checkpoints(tmp_path/'run').files[0].name.split('-')[0]) in (4, 5)
    codes, said = run()
    assert codes == [0, 0], said
    for r in (0, 1):
        got, want = (json.loads((tmp_path/f'{what}{r}.json').read_text()) for what in ('resumed', 'whole'))
        assert got['from']['batch'] in (4, 5) and {**got, 'from': None} == want
    with pytest.raises(ValueError, match=r'the number of processes \(2 then, 1 now\)'): rank_resume.train(tmp_path/'run')


def test_saving_changes_nothing(tmp_path):
    learn = learner()
    fit(learn, tmp_path)
    assert digest(learn) == digest(whole())


def test_a_training_that_is_done_stays_done_and_the_next_goes_on_from_it(tmp_path):
    def both(a, b, init):
        learn = learner(init)
        fit(learn, a)
        fit(learn, b)
        return digest(learn)
    want = both(None, None, 0)
    assert both(tmp_path/'a', None, 0) == want
    assert both(tmp_path/'a', tmp_path/'b', 5) == want
    assert both(tmp_path/'a', tmp_path/'b', 6) == want


def test_plain_fit_too(tmp_path):
    a = learner()
    fit(a, how='fit')
    with pytest.raises(Stopped): fit(learner(cbs=StopAfter(4)), tmp_path, how='fit')
    b = learner(4)
    fit(b, tmp_path, how='fit')
    assert digest(a) == digest(b)


def test_every_and_keep(tmp_path):
    stopped_at(7, tmp_path, every=3)
    assert [int(f.name.split('-')[0]) for f in Checkpoints(tmp_path).files] == [6, 3]
    learn = learner()
    cb = fit(learn, tmp_path, every=4, keep=1)
    assert cb.resumed == dict(epoch=0, phase='train', batch=6) and len(list(tmp_path.iterdir())) == 1
    assert digest(learn) == digest(whole())
    stopped_at(5, tmp_path/'t', every='1h')
    assert not Checkpoints(tmp_path/'t').files
    stopped_at(5, tmp_path/'t', every='0s')
    assert len(Checkpoints(tmp_path/'t').files) == 2


@pytest.mark.parametrize('other,n,words', [
    (dict(hidden=9), 2, 'the parameter 0.weight'), (dict(), 3, 'epochs (2 then, 3 now)'), (dict(data=meta((30, 10, 42))), 2, 'names or lengths of the datasets'),
    (dict(bs=9), 2, 'batch size of the training set'), (dict(seed=4), 2, 'seed of the training set'), (dict(mix='equal'), 2, 'mix of the training set'),
    (dict(batch_tfms=None), 2, 'transforms')], ids=str)
def test_another_training_is_refused_and_nothing_is_touched(other, n, words, tmp_path):
    stopped_at(5, tmp_path)
    files = sorted(f.name for f in tmp_path.iterdir())
    learn = learner(**other)
    before = [p.clone() for p in learn.model.parameters()]
    with pytest.raises(ValueError) as e: fit(learn, tmp_path, n=n)
    assert words in str(e.value) and 'Set it up as it was' in str(e.value)
    assert all((p == q).all() for p, q in zip(before, learn.model.parameters()))
    assert files == sorted(f.name for f in tmp_path.iterdir())


def test_another_schedule_or_optimizer_is_refused(tmp_path):
    stopped_at(5, tmp_path)
    with pytest.raises(ValueError, match='the schedule of lr'): fit(learner(), tmp_path, how='fit')
    from_sgd = learner()
    from_sgd.opt_func = torch_sgd
    with pytest.raises(ValueError, match='optimizer'): fit(from_sgd, tmp_path)


def torch_sgd(params, lr, **kwargs):
    from fastai.optimizer import SGD
    return SGD(params, lr, mom=.9)


def test_loaders_of_another_kind_are_refused(tmp_path):
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    learn = learner()
    x, y = learn.dls.train_ds[[0, 1, 2, 3]]
    learn.dls = DataLoaders(*[DataLoader(list(zip(x, y)), bs=2)]*2)
    with pytest.raises(TypeError, match='but this learner has a DataLoader'): fit(learn, tmp_path)


@pytest.mark.parametrize('harm', ['cut', 'flip', 'empty'])
def test_a_damaged_checkpoint_is_passed_over(harm, tmp_path):
    stopped_at(9, tmp_path)
    newest = Checkpoints(tmp_path).files[0]
    data = bytearray(newest.read_bytes())
    data[len(data)//3] ^= 4
    newest.write_bytes({'cut': data[:len(data)//2], 'flip': data, 'empty': b''}[harm])
    learn = learner(init=9)
    with pytest.warns(UserWarning, match='is damaged'): cb = fit(learn, tmp_path)
    assert cb.resumed['batch'] == 1 if cb.resumed['phase'] == 'valid' else 8
    assert digest(learn) == digest(whole())


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    stopped_at(4, tmp_path)
    for f in Checkpoints(tmp_path).files: f.write_bytes(b'junk')
    with pytest.warns(UserWarning), pytest.raises(ValueError, match='all 2 checkpoints'): fit(learner(), tmp_path)


FULL = """
import resource, signal, sys
from resume_tools import *
torch.set_num_threads(1)
class Limit(Callback):
    "From some batch on no file may grow beyond a kilobyte, as on a full disk"
    def before_fit(self): self.n = 0
    def after_batch(self):
        self.n += 1
        if self.n == 6:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try: fit(learner(), sys.argv[1], cbs=[Limit()])
except OSError as e: print(e)
"""


def test_a_full_disk_is_an_error_and_the_checkpoint_before_stays(tmp_path):
    run = tmp_path/'run'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', FULL, run], capture_output=True, text=True, cwd=HERE, env={**os.environ, 'PYTHONPATH': f'{HERE.parent}:{HERE}'})
    files = Checkpoints(run).files
    assert 'could not be written' in done.stdout and f'{files[0].name}, is kept' in done.stdout, done.stdout + done.stderr
    assert len(files) == 2 and len(list(run.iterdir())) == 2
    assert digest(resumed(run)) == digest(whole())


def test_checkpoints_load_without_trust_and_are_small(tmp_path):
    stopped_at(12, tmp_path)
    file = Checkpoints(tmp_path).files[0]
    kept = torch.load(file, weights_only=True)
    assert kept['at'] == dict(epoch=1, phase='train', batch=4) or kept['at']['phase'] in ('train', 'valid')
    assert file.stat().st_size < 200_000


def test_killed_at_random_moments(tmp_path):
    kills = int(os.environ.get('TSMETA_KILLS', 20))
    done = subprocess.run([sys.executable, '-W', 'ignore', HERE/'killed.py', tmp_path, str(kills)], capture_output=True, text=True, timeout=280, cwd=HERE,
                          env={**os.environ, 'PYTHONPATH': f'{HERE.parent}:{HERE}', 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout.splitlines()[-1])
    assert sum(r['kills'] for r in runs) >= kills and all(r['same'] for r in runs), runs
    assert any(len(files) for r in runs for files in r['left']), 'every kill came before the first checkpoint'


def test_validate_predict_and_lr_find_leave_the_folder_alone(tmp_path):
    learn = learner(cbs=SaveResume(tmp_path/'run', every=1))
    with learn.no_bar(), learn.no_logging():
        learn.validate()
        learn.get_preds()
        learn.lr_find(num_it=6, show_plot=False)
        assert not (tmp_path/'run').exists()
        learn.fit(1, 1e-2)
        learn.get_preds()
    assert Checkpoints(tmp_path/'run').newest()[1]['at']['phase'] == 'done'
