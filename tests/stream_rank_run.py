"What one process of several does with streams; run by torchrun and accelerate in test_stream_ranks.py, and imported there for the process that is alone."
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

import rank_run
from fastai.callback.core import Callback
from fastai.metrics import accuracy
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.load.loader import TSMetaDataLoaders
from tsmeta.train.metrics import DatasetMetrics
from tsmeta.load.stream_loader import TSStreamLoader

BS, TRAIN, SIZES = rank_run.BS, rank_run.TRAIN, (641, 675)


def shifted(b): return {**b, 'x': b['x'] + .5*b['x'].mean(-1, keepdims=True)}
def noisy(b, rng): return {**b, 'x': b['x'] + rng.normal(size=b['x'].shape).astype(np.float32)}


def parts(n):
    ids = np.random.default_rng(1).permutation(TRAIN + n)
    return TSMetaDatasets(rank_run.meta(n), [ids[:TRAIN], ids[TRAIN:]])


def loaders(n, workers=0, fn=shifted, **train):
    how = dict(bs=BS, seed=7)
    made = [p.stream(**how, **(dict(shuffle=True, drop_last=True) | train if i == 0 else {})).map(fn, num_workers=workers, worker='process', fan_out=1) for i, p in enumerate(parts(n))]
    return TSMetaDataLoaders.from_streams(*made, device='cpu')


def train(n, together, folder=None, workers=0, **kwargs):
    "Two epochs, then everything that predicts"
    dls = loaders(n, workers, **kwargs)
    learn, by_dataset = rank_run.learner(dls), DatasetMetrics(accuracy)
    kept = list(dls)
    with learn.distrib_ctx(sync_bn=False, cpu=True) if together else nullcontext():
        learn.fit(2, lr=.05, cbs=by_dataset)
        recorded = [list(v) for v in learn.recorder.values]
        found = rank_run.results(learn, n, folder)
        new = learn.get_preds(dl=dls.test_dl(np.ones((5, 2, 8), np.float32)))[0]
    for dl in dls.loaders: dl.stream.close()
    return dict(found, new=new, by_dataset=learn.dataset_metrics, recorded=recorded, left_alone=all(a is b for a, b in zip(dls, kept)))


class Stop(Callback):
    "Remember where the training loader is after some batches, and end the training"
    def __init__(self, after): self.after = after
    def after_batch(self):
        if self.training and self.train_iter == self.after:
            self.state = json.dumps(self.dls.train.state_dict())
            raise KeyboardInterrupt


def resumed(together):
    "Ids of the batches after a stop in the middle of the second epoch, and of the epoch after"
    stop, dls = Stop(14), loaders(641, fn=noisy)
    learn = rank_run.learner(dls)
    with learn.distrib_ctx(sync_bn=False, cpu=True) if together else nullcontext():
        try: learn.fit(3, cbs=stop)
        except KeyboardInterrupt: pass
    again = loaders(641, fn=noisy).train
    again.load_state_dict(json.loads(stop.state))
    return len(stop.state), [(again.ids.copy(), again.all_ids.copy(), x.as_subclass(torch.Tensor).clone()) for _ in range(2) for x, _ in again]


def noise(n):
    "Ids and mapped rows of a validation by a random function: the rest of the last batch is the same in all processes"
    dl = loaders(n, fn=noisy).valid
    return [(dl.ids.copy(), dl.all_ids.copy(), dl.delivered.shared, x.as_subclass(torch.Tensor).clone()) for x, _ in dl]


def refused(make):
    try: make()
    except ValueError as e: return str(e)


def main(folder):
    from accelerate import PartialState
    rank = PartialState(cpu=True).process_index
    out = {n: train(n, True, Path(folder)) for n in SIZES}
    out['workers'] = train(641, True, workers=1)
    out['weighted'] = train(641, True, weights='balanced')
    out['whole'] = train(641, True, drop_last=False)
    out['resumed'], out['noise'] = resumed(True), {n: noise(n) for n in SIZES}
    ds = parts(641).train
    out['other order'] = refused(lambda: next(iter(TSStreamLoader(ds.stream(bs=BS, shuffle=True, seed=rank).map(shifted, fan_out=1)))))
    torch.save(out, Path(folder)/f'{rank}.pt')
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == '__main__': main(sys.argv[1])
