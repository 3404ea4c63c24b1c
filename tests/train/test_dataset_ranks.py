"Two processes that share the rows score every dataset as one process does."
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fastai.learner import AvgLoss, mk_metric
from fastai.metrics import F1Score, accuracy, rmse
from torch import nn

from tsmeta.load.distributed import sum_over_ranks
from tsmeta.splits.index import Index
from tsmeta.train.metrics import EpochAccumulator

LENS = [20, 0, 41, 7]


def rows(): return torch.randn(68, 3, generator=torch.Generator().manual_seed(0)), torch.arange(68) % 3


def scored(ids, bs=9):
    pred, y = rows()
    p = EpochAccumulator({m.name: m for m in map(mk_metric, [AvgLoss(), accuracy, F1Score(average='macro')])}, nn.CrossEntropyLoss(), Index(LENS), {'half': (np.array([0, 0, 1, -1]), 2)})
    for k in range(0, len(ids), bs): p.add(ids[k:k+bs], pred[ids[k:k+bs]], y[ids[k:k+bs]])
    return {by: (s.rows, s.value, s.low) for by, s in p.scores().items()}


def run(rank, where, out, only_first):
    dist.init_process_group('gloo', init_method=f'file://{where}', rank=rank, world_size=2)
    mine = np.arange(68)[rank::2] if not only_first else np.arange(68) if rank == 0 else np.zeros(0, np.int64)
    torch.save((scored(mine), sum_over_ranks(np.array([rank + 1., 2.]))), f'{out}/{rank}.pt')
    dist.destroy_process_group()


def check(tmp_path, only_first):
    mp.spawn(run, (str(tmp_path/'meet'), str(tmp_path), only_first), 2)
    want = scored(np.arange(68))
    for rank in range(2):
        got, total = torch.load(tmp_path/f'{rank}.pt', weights_only=False)
        assert total.tolist() == [3., 4.]
        for by in want: assert all(np.allclose(a, b, equal_nan=True) for a, b in zip(got[by], want[by]))


def test_two_processes(tmp_path): check(tmp_path, False)


def test_one_of_two_has_no_rows(tmp_path): check(tmp_path, True)
