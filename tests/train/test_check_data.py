"Data that meets a learner is brought into its terms or refused, whichever loader it comes in."
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.metrics import accuracy
from torch import nn
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.load.loader import TSMetaDataLoader, TSMetaDataLoaders
from tsmeta.train.callbacks import CheckData
import tsmeta.train.predict

CPU = torch.device('cpu')


def marked(labels):
    "Rows whose values show their label"
    return np.stack([np.full((1, 4), ord(v) - ord('a'), np.float32) for v in labels]), list(labels)


class Reads(nn.Module):
    "A model that is right where labels are numbered a, b, c"
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
    def forward(self, x): return self.scale*10*nn.functional.one_hot(torch.as_tensor(x)[:, 0, 0].round().long(), 3).float()


def learner(dls):
    learn = Learner(dls, Reads(), loss_func=nn.CrossEntropyLoss(), metrics=accuracy)
    learn.no_bar().__enter__(), learn.no_logging().__enter__()
    return learn


def first_loaders(): return TSMetaDataset({'first': marked('abcabc')}).split([0, 1, 2], [3, 4, 5]).dataloaders(bs=2, device=CPU)


def test_validate_and_predict_rows_of_another_metadataset():
    learn, other = learner(first_loaders()), TSMetaDataset({'second': marked('cbbc'), 'third': marked('c')})
    for data in (other, other.subset([4, 1]), other.subset([0, 1, 2])):
        dl = TSMetaDataLoader(data, bs=2, device=CPU)
        assert learn.validate(dl=dl)[1] == 1
        preds, y = learn.get_preds(dl=dl)
        assert (preds.argmax(1) == y).all()
        table = learn.predict_table(dl=dl)
        assert (table.target == table.prediction).all() and table.loss.max() < .1
        assert dl.dataset is data and list(dl.vocab) == ['b', 'c']
        assert (learn.predict_table(data=data).target == table.target).all()


def test_validation_set_of_its_own_while_training():
    A, B = TSMetaDataset({'first': marked('abcabc')}), TSMetaDataset({'second': marked('cbbc')})
    learn = learner(TSMetaDataLoaders.from_dsets(A, B, bs=2, device=CPU))
    learn.fit(1, 1e-3)
    assert learn.recorder.values[-1][-1] == 1


def test_what_does_not_fit_is_refused():
    learn = learner(first_loaders())
    for data, says in [(TSMetaDataset([marked('abx')]), "unknown label 'x'"), (TSMetaDataset([(np.zeros((2, 1, 5), np.float32), ['a', 'b'])]), '5 steps')]:
        dl = TSMetaDataLoader(data, bs=2, device=CPU)
        for use in (learn.validate, learn.get_preds, learn.predict_table):
            with pytest.raises(ValueError, match=says): use(dl=dl)
    assert learn.validate()[1] == 1


def test_loaders_of_tsai():
    core = pytest.importorskip('tsai.data.core')
    A, B = TSMetaDataset({'first': marked('abcabc')}), TSMetaDataset({'second': marked('cbbc')})
    learn = learner(core.TSDataLoaders.from_dsets(A, B, bs=2, device=CPU))
    assert learn.validate()[1] == 1
    learn = learner(core.TSDataLoaders.from_dsets(A, A, bs=2, device=CPU))
    dl = core.TSDataLoader(B, bs=4, device=CPU)
    assert learn.validate(dl=dl)[1] == 1 and dl.dataset is B
    preds, y = learn.get_preds(dl=dl)
    assert (preds.argmax(1) == y).all()


@pytest.mark.parametrize('x, y, says', [(np.nan, 1., r"3 of 3 rows have missing values \(NaN\) in x, such as dataset 'a' \(0\), row"), (0., np.nan, 'in y')])
def test_missing_values_never_reach_the_loss_silently(x, y, says):
    class NaNTarget(Callback):
        order = -100
        def before_batch(self): self.learn.yb = tuple(t*y for t in self.learn.yb)
    meta = TSMetaDataset({'a': (np.full((4, 1, 4), x, np.float32), np.ones(4, np.float32))})
    learn = Learner(meta.split([0, 1, 2], [3]).dataloaders(bs=3, device=CPU), nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), loss_func=nn.MSELoss(), cbs=NaNTarget())
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match=says): learn.fit(1)


def test_other_learners_do_not_depend_on_it(tmp_path):
    import pickle
    learn = learner(first_loaders())
    assert any(type(c) is CheckData for c in learn.cbs) and type(pickle.loads(pickle.dumps(CheckData()))) is Callback


def test_targets_of_tables_keep_their_precision():
    meta = TSMetaDataset((np.zeros((4, 1, 4), 'f4'), np.array([16777217., 16777219., 1., 2.])))
    learn = Learner(meta.split([0, 1], [2, 3]).dataloaders(bs=2, device=CPU), nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), loss_func=nn.MSELoss())
    with learn.no_bar(), learn.no_logging(): assert learn.predict_table(0).target.tolist() == [16777217., 16777219.]


def test_columns_of_results_and_of_info():
    "What is known of datasets is kept beside results of the same name"
    info = dict(p_a=['x'], accuracy=[.5], target=['t'], info_target=['u'], prediction=[1])
    data = TSMetaDataset({'second': marked('cb')}, info=pd.DataFrame(info, ['second']))
    table = learner(first_loaders()).predict_table(data=data, probs=True)
    assert table.columns.is_unique and table.info_p_a.tolist() == ['x']*2 and table.info_info_target.tolist() == ['t']*2
    assert {'info_accuracy', 'info_prediction', 'p_a', 'target'} <= set(table)
