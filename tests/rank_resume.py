"What one process of two does: train until one of them is killed; or go on, and beside it train without a stop. Started twice by test_resume.py."
import json
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from fastai.callback.core import Callback
from fastai.metrics import accuracy
from resume_tools import digest, learner
from tsmeta.train.metrics import DatasetMetrics
from tsmeta.train.mixture import MixtureScheduler, TrackDatasets
from tsmeta.train.resume import SaveResume


class Kill(Callback):
    "End this process, as kill -9 does"
    order = 2000
    def __init__(self, left): self.left = left
    def after_batch(self):
        self.left -= 1
        if not self.left: os.kill(os.getpid(), signal.SIGKILL)


def train(folder=None, init=0, cbs=()):
    "What became of a training, in plain terms"
    learn = learner(init, mix='equal')
    together = torch.distributed.is_initialized()
    resume = [SaveResume(folder, every=1)] if folder else []
    mine = [DatasetMetrics(accuracy, train=True), TrackDatasets(), MixtureScheduler(by_loss='equal'), *cbs, *resume]
    with learn.distrib_ctx(sync_bn=False, cpu=True) if together else nullcontext(), learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-2, cbs=mine)
    tables = [t.to_csv() for t in (learn.dataset_metrics, learn.datasets_seen, learn.mixture)]
    return {'digest': digest(learn), 'tables': tables, 'from': resume[0].resumed if resume else None}


def main(folder, kill=None):
    from accelerate import PartialState
    rank = PartialState(cpu=True).process_index
    torch.manual_seed(rank)
    if kill: return train(folder/'run', cbs=[Kill(int(kill))]*rank)
    for what, where in (('resumed', folder/'run'), ('whole', None)):
        (folder/f'{what}{rank}.json').write_text(json.dumps(train(where, init=7*bool(where))))
    torch.distributed.destroy_process_group()


if __name__ == '__main__': main(Path(sys.argv[1]), *sys.argv[2:])
