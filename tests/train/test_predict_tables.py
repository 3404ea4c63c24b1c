"Tables written in pieces and windows joined: the same as in one piece, the same as counted one by one."
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from hypothesis import given, settings, strategies as st
from torch import nn

import tsmeta.train.predict as predict
from tsmeta.data.datasets import TSMetaDatasets
from tsmeta.data.dataset import TSMetaDataset
from tsmeta.train.predict import TableFile
from tsmeta.train.predict import join_steps, join_windows
import tsmeta.data.dataset

INFO = pd.DataFrame({'person': ['Ann', None, 'Cem'], 'age': [30, 41, None], 'note': [None, None, 'late'], 'loss': [1, 2, 3]})


def learner(kind='class', c=3, **kwargs):
    rng = np.random.default_rng(0)
    y = dict(class_=lambda n: np.array(list('abc'))[np.arange(n) % 3], float=lambda n: rng.normal(size=n), multi=lambda n: [['a', 'b', 'c'][:k % 4] for k in range(n)],
             pair=lambda n: rng.normal(size=(n, 2)), none=lambda n: None)[kind.replace('class', 'class_')]
    data = {f'd{d}': (x, t) if t is not None else x for d, n in enumerate([40, 33, 50]) for x, t in [(rng.normal(size=(n, 2, 4)).astype(np.float32), y(n))]}
    meta = TSMetaDataset(data, info=INFO)
    torch.manual_seed(0)
    learn = Learner(TSMetaDatasets(meta, [range(123), range(123)], leak='allow').dataloaders(bs=8, seed=0), nn.Sequential(nn.Flatten(), nn.Linear(8, c)),
                    loss_func=nn.MSELoss() if kind == 'none' else None, **kwargs)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    return learn


@pytest.mark.parametrize('kind,c', [('class', 3), ('float', 1), ('multi', 3), ('pair', 2), ('none', 1)])
@pytest.mark.parametrize('ending', ['parquet', 'csv'])
def test_in_pieces_and_whole(kind, c, ending, tmp_path, monkeypatch):
    learn, pieces = learner(kind, c), []
    real, write = predict.RowCollector.__init__, predict.TableFile.write
    monkeypatch.setattr(predict.TableFile, 'write', lambda self, t: (pieces.append(len(t)), write(self, t))[1])
    monkeypatch.setattr(predict.RowCollector, '__init__', lambda self, *a: (real(self, *a), setattr(self, 'enough', self.enough and 40))[0])
    whole = learn.predict_table(probs=kind == 'class', with_input=ending == 'parquet')
    path = learn.predict_table(probs=kind == 'class', with_input=ending == 'parquet', save=tmp_path/f't.{ending}')
    back = pd.read_parquet(path) if ending == 'parquet' else pd.read_csv(path)
    assert len(pieces) > 3 and max(pieces) <= 48 and sum(pieces) == 123 == len(whole)
    assert list(back) == list(whole) and list(tmp_path.iterdir()) == [path]
    for col in whole:
        a, b = whole[col], back[col]
        if col == 'input': assert np.array_equal(np.stack([np.stack(o) for o in b]), np.stack(a))
        elif isinstance(a.iloc[0], tuple):
            same = [tuple(o) for o in b] if ending == 'parquet' else [eval(o, {'np': np}) for o in b]
            assert all(np.allclose(p, q) if kind == 'pair' else p == q for p, q in zip(a, same))
        elif a.dtype.kind == 'f': assert np.allclose(a, b, equal_nan=True)
        else: assert [None if pd.isna(o) else o for o in a] == [None if pd.isna(o) else o for o in b]


def test_nothing_half_written(tmp_path):
    learn = learner()
    (tmp_path/'t.parquet').write_bytes(b'old')
    class Break(nn.Module):
        def __init__(self, m): super().__init__(); self.m, self.n = m, 0
        def forward(self, x):
            self.n += 1
            if self.n > 5: raise RuntimeError('broken')
            return self.m(x)
    learn.model = Break(learn.model)
    with pytest.raises(RuntimeError, match='broken'): learn.predict_table(save=tmp_path/'t.parquet')
    assert [p.name for p in tmp_path.iterdir()] == ['t.parquet'] and (tmp_path/'t.parquet').read_bytes() == b'old'
    for bad, text in [('t.xlsx', '.parquet or .csv'), ('no/t.csv', 'There is no folder'), ('', 'parquet or .csv')]:
        with pytest.raises(ValueError, match=text): learn.predict_table(save=tmp_path/bad)


def test_nothing_to_predict(tmp_path):
    learn = learner()
    for ending, read in [('csv', pd.read_csv), ('parquet', pd.read_parquet)]:
        path = learn.predict_table(data=learn.dls.valid.dataset.subset([]), save=tmp_path/f't.{ending}')
        assert len(read(path)) == 0 and 'prediction' in read(path)


def test_columns_of_mixed_types(tmp_path):
    with pytest.raises(ValueError, match="Column 'a' cannot be written to Parquet"):
        with TableFile(tmp_path/'t.parquet') as f: f.write(pd.DataFrame({'a': ['x', 3]}))
    assert not list(tmp_path.iterdir())


def test_other_callbacks_take_it_for_a_prediction():
    "Loggers and schedulers rest while `gather_preds` is there, as they do for `get_preds`."
    from fastai.callback.core import Callback
    class Log(Callback):
        def after_batch(self): seen.append(hasattr(self.learn, 'gather_preds'))
    seen, learn = [], learner(cbs=Log())
    learn.predict_table()
    assert all(seen) and len(seen) == 16 and not hasattr(learn, 'gather_preds')


def windows_table(seed, n=40, numbers=False):
    rng = np.random.default_rng(seed)
    ds = np.sort(rng.integers(0, 4, n))
    start = rng.integers(0, 30, n)
    p = rng.dirichlet([1, 1, 1], n)
    t = pd.DataFrame(dict(dataset=ds, name=[f'r{d}' for d in ds], row=np.arange(n), start=start, end=start + rng.integers(1, 9, n), town=np.array(['O', 'R'])[ds % 2]))
    if numbers: return t.assign(prediction=p[:, 0], target=p[:, 1])
    t = t.assign(target=np.array(['a', 'b', 'c', 'a'])[ds], prediction=np.array(list('abc'))[p.argmax(1)], probability=p.max(1))
    return pd.concat([t, pd.DataFrame(p, columns=['p_a', 'p_b', 'p_c'])], axis=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_joined_windows_agree_with_counting(seed, n):
    t = windows_table(seed, n)
    means, votes = join_windows(t), join_windows(t, how='vote')
    towns = join_windows(t, 'town')
    for (_, a), (_, b) in zip(means.iterrows(), votes.iterrows()):
        mine = t[t.dataset == a.dataset]
        p = mine[['p_a', 'p_b', 'p_c']].mean()
        assert a.prediction == 'abc'[p.argmax()] and np.isclose(a.probability, p.max()) and a.rows == b.rows == len(mine) and a.target == mine.target.iloc[0]
        counts = mine.prediction.value_counts()
        assert counts[b.prediction] == counts.max() and np.isclose(b.probability, counts.max()/len(mine))
    assert len(means) == t.dataset.nunique() and len(towns) == t.town.nunique() and towns.rows.sum() == n


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.booleans())
def test_joined_steps_agree_with_counting(seed, n, numbers):
    t = windows_table(seed, n, numbers)
    out = join_steps(t)
    want = {}
    for _, r in t.iterrows():
        for s in range(r.start, r.end): want.setdefault((r.dataset, s), []).append(r.prediction if numbers else [r.p_a, r.p_b, r.p_c])
    assert list(zip(out.dataset, out.step)) == sorted(want) and list(out.windows) == [len(want[k]) for k in sorted(want)]
    for k, r in zip(sorted(want), out.itertuples()):
        mean = np.mean(want[k], 0)
        assert np.isclose(r.prediction, mean) if numbers else np.allclose([r.p_a, r.p_b, r.p_c], mean) and r.prediction == 'abc'[np.argmax([r.p_a, r.p_b, r.p_c])]


def test_labels_keep_their_type_and_wrong_questions():
    t = windows_table(0).drop(columns=['target', 'p_a', 'p_b', 'p_c']).assign(prediction=7, p_7=.4, p_3=.6)
    assert join_windows(t).prediction.tolist() == [3]*4 and set(join_steps(t).prediction) == {3}
    with pytest.raises(ValueError, match='probs=True'): join_steps(t.drop(columns=['p_7', 'p_3']))
    with pytest.raises(ValueError, match='not windows'): join_steps(t.drop(columns=['start']))
    with pytest.raises(ValueError, match="how must be"): join_windows(t, how='max')
    with pytest.raises(ValueError, match="Numbers cannot vote"): join_windows(windows_table(0, numbers=True), how='vote')
    with pytest.raises(ValueError, match="several labels"): join_windows(t.assign(prediction=[(1, 2)]*40))
    numbers = windows_table(0, numbers=True)
    assert np.allclose(join_windows(numbers).prediction, numbers.groupby('dataset').prediction.mean()) and 'target' not in join_windows(numbers)


def test_windows_of_a_real_metadataset():
    recs = {k: np.random.default_rng(1).normal(size=(2, n)).astype(np.float32) for k, n in [('a', 95), ('b', 9), ('c', 60)]}
    meta = TSMetaDataset.from_recordings(recs, 10, 5, y=['x', 'y', 'y'])
    torch.manual_seed(0)
    learn = Learner(TSMetaDatasets(meta, [range(len(meta))]*2, leak='allow').dataloaders(bs=8), nn.Sequential(nn.Flatten(), nn.Linear(20, 2)))
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, ProgressCallback)])
    t = learn.predict_table(probs=True)
    steps = join_steps(t)
    assert steps.groupby('name').step.max().to_dict() == {'a': 94, 'c': 59} and (steps[(steps.step > 5) & (steps.step < 50)].windows == 2).all()
    assert list(join_windows(t).name) == ['a', 'c'] and list(join_windows(t).target) == ['x', 'y']
