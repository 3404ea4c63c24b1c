"Dashboards get the columns of datasets: fastai's own loggers, and the files they write."
import numpy as np
import pytest
from fastai.metrics import accuracy

from test_compose import check, learner, ours, quiet

COLUMNS = {'accuracy_mean', 'accuracy_worst', 'accuracy_weighted', 'f1_score_mean', 'accuracy_mean_town', 'accuracy_worst_town', 'accuracy/d1', 'f1_score/d1'}


def last(learn, metric='accuracy', name='d1'):
    t = learn.dataset_metrics
    return t[(t.epoch == t.epoch.max()) & (t.part == 'valid') & (t.metric == metric) & (t.name == name)].value.item()


def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard', reason='TensorBoard is not installed')
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    learn = learner(tmp_path, metrics=accuracy)
    with learn.no_bar(): quiet(learn, 'fit', 3, cbs=ours(TensorBoardCallback(tmp_path/'log', log_preds=False)))
    check(learn, 3)
    log = EventAccumulator(str(tmp_path/'log')).Reload()
    assert COLUMNS < set(log.Tags()['scalars']) and log.Tags()['graph']
    found = [s.value for s in log.Scalars('accuracy/d1')]
    assert len(found) == 3 and found[-1] == pytest.approx(last(learn)) and [s.step for s in log.Scalars('accuracy_worst')] == [5, 10, 15]
    before = len(found)
    quiet(learn, 'lr_find', num_it=5, show_plot=False)
    learn.get_preds()
    assert len(EventAccumulator(str(tmp_path/'log')).Reload().Scalars('accuracy/d1')) == before


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb', reason='Weights & Biases is not installed')
    for k, v in dict(WANDB_MODE='offline', WANDB_DIR=str(tmp_path), WANDB_SILENT='true', WANDB_DATA_DIR=str(tmp_path), WANDB_CACHE_DIR=str(tmp_path)).items(): monkeypatch.setenv(k, v)
    import fastai.callback.wandb as board
    # fastai 2.8.12 asks numbers and texts for their arguments there, and fails with any learner
    ask = board.init_args
    monkeypatch.setattr(board, 'init_args', lambda o: ask(o) if hasattr(o, '__dict__') else {})
    sent, run, learn = {}, wandb.init(project='tsmeta', dir=tmp_path), learner(tmp_path, metrics=accuracy)
    real = wandb.log
    monkeypatch.setattr(wandb, 'log', lambda o, *a, **k: (sent.update(o), real(o, *a, **k))[1])
    with learn.no_bar(): quiet(learn, 'fit', 2, cbs=ours(board.WandbCallback(log_preds=False)))
    summary = dict(run.summary)
    run.finish()
    check(learn, 2)
    assert COLUMNS < set(sent) and np.isclose(sent['accuracy/d1'], last(learn)) and np.isclose(summary['accuracy/d1'], last(learn))
    files = [f.read_bytes() for f in tmp_path.rglob('*.wandb')]
    assert len(files) == 1 and all(c.encode() in files[0] for c in COLUMNS)
