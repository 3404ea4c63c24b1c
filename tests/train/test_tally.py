"Scores of all groups at once are what sklearn says of each group alone."

import numpy as np
import pytest
import sklearn.metrics as skm
import torch
from fastai.metrics import (AccumMetric, APScoreBinary, APScoreMulti, BalancedAccuracy, BrierScore, CohenKappa, ExplainedVariance, F1Score, F1ScoreMulti, FBeta, FBetaMulti,
                            HammingLoss, HammingLossMulti, Jaccard, JaccardMulti, MatthewsCorrCoef, PearsonCorrCoef, Precision, PrecisionMulti, R2Score, Recall,
                            RecallMulti, RocAuc, RocAucBinary, RocAucMulti, SpearmanCorrCoef, exp_rmspe, rmse, skm_to_fastai)
from hypothesis import given, settings
from hypothesis import strategies as st

import tsmeta.train.metrics
from tsmeta.train.metrics import group_values
from tsmeta.train.metrics import GroupedConfusion, tally

AVERAGES = 'binary', 'macro', 'micro', 'weighted'
number = lambda f: skm_to_fastai(f, is_class=False)
BY_LABEL = [*(m(average=a, pos_label=k) for m in (F1Score, Precision, Recall, Jaccard) for a in AVERAGES for k in (0, 1)[:1 + (a == 'binary')]),
            FBeta(.5, average='macro'), FBeta(2., average='weighted'), *(skm_to_fastai(skm.precision_score, average=a, zero_division=z) for a in AVERAGES for z in (0, 1)),
            BalancedAccuracy(), BalancedAccuracy(adjusted=True), MatthewsCorrCoef(), HammingLoss(), *(CohenKappa(weights=w) for w in (None, 'linear', 'quadratic'))]
MULTI = [*(m(average=a) for m in (F1ScoreMulti, PrecisionMulti, RecallMulti, JaccardMulti) for a in ('macro', 'micro', 'weighted', 'samples')),
         FBetaMulti(.5, average='macro'), FBetaMulti(2., average='weighted'), HammingLossMulti(), F1ScoreMulti(thresh=.2),
         *(skm_to_fastai(skm.recall_score, thresh=.5, flatten=False, average=a, zero_division=1) for a in ('macro', 'weighted', 'samples')),
         *(m(average=a) for m in (RocAucMulti, APScoreMulti) for a in ('macro', 'micro', 'weighted')), RocAucMulti(sigmoid=False)]
CORRELATIONS = [PearsonCorrCoef(), SpearmanCorrCoef()]
OF_NUMBERS = [rmse, exp_rmspe, R2Score(), ExplainedVariance(), *map(number, (skm.mean_absolute_error, skm.mean_squared_error, skm.root_mean_squared_error))]
say = lambda m: f'{m.name} {m.kwargs.get("average")} {m.kwargs.get("zero_division")}'


def slow(metric, pred, y, of, n):
    "One group after the other"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(tsmeta.train.metrics, 'tally', lambda *a: None)
        return group_values(metric, pred, y, of, n)


def agree(metric, pred, y, of, n, **tol):
    got = tally(metric, pred, y, of, n)
    try: want = slow(metric, pred, y, of, n)
    except ValueError: want = np.full(n, np.nan)
    if np.isnan(want).all(): assert got is None
    else: np.testing.assert_allclose(got, want, **{'rtol': 1e-5, 'atol': 1e-6, **tol})


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 40))
def test_labels(seed, c, rows):
    "Groups with one row, one label, labels that are never predicted or never a target, and none at all"
    torch.manual_seed(seed)
    pred, y, of = torch.randn(rows, c), torch.randint(0, c, (rows,)), torch.randint(0, 8, (rows,)).numpy()
    for m in BY_LABEL: agree(m, pred, y, of, 9)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 40), st.booleans())
def test_several_labels_per_row(seed, c, rows, ties):
    "Groups with one row, labels that no row or every row has, scores that are equal, and groups without rows"
    torch.manual_seed(seed)
    pred, y, of = torch.randn(rows, c), (torch.rand(rows, c) < torch.rand(c)).float(), torch.randint(0, 8, (rows,)).numpy()
    if ties: pred = pred.round()
    for m in MULTI: agree(m, pred, y, of, 9)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 5), st.integers(1, 80), st.booleans())
def test_scores_of_classes(seed, c, rows, ties):
    torch.manual_seed(seed)
    pred, y, of = torch.randn(rows, c), torch.randint(0, c, (rows,)), torch.randint(0, 5, (rows,)).numpy()
    if ties: pred = pred.round()
    for a in ('macro', 'weighted'): agree(RocAuc(average=a), pred, y, of, 6)
    for m in (RocAucBinary(), APScoreBinary(), BrierScore()): agree(m, pred[:, :2], y % 2, of, 6)
    assert tally(RocAuc(multi_class='ovo'), pred, y, of, 6) is None and tally(APScoreBinary(pos_label=0), pred[:, :2], y % 2, of, 6) is None
    assert tally(BrierScore(), pred, y + 2, of, 6) is None and tally(RocAuc(), pred[:, :2], y % 2, of, 6) is None


@pytest.mark.parametrize('metric', OF_NUMBERS, ids=say)
def test_numbers(metric):
    torch.manual_seed(0)
    of = np.r_[np.arange(200) % 7, 8, 9, 9]
    y = torch.randn(203)*10
    pred = (y + torch.randn(203))[:, None]
    y[of == 3] = 4.; pred[of == 4, 0] = y[of == 4]; y[of == 5] = pred[of == 5] = 2.
    agree(metric, pred, y, of, 11)
    agree(metric, torch.stack([pred[:, 0]]*3, 1), torch.stack([y, y + 1, y], 1), of, 11)
    pred[of == 6, 0] = np.nan
    got = group_values(metric, pred, y, of, 11)
    assert np.isnan(got[6]) and (np.isfinite(got[:6])).all()


def test_ranks():
    torch.manual_seed(0)
    for ties in (False, True):
        pred, y, of = torch.randn(300, 2), torch.randint(0, 2, (300,)), np.arange(300) % 11
        if ties: pred = pred.round()
        y[of == 4], y[of == 5] = 0, 1
        pred[7] = np.nan
        agree(RocAucBinary(), pred, y, of, 12)
    assert tally(RocAucBinary(max_fpr=.2), pred, y, of, 12) is None and tally(RocAucBinary(), pred, y + 1, of, 12) is None


def test_labels_of_their_own_take_little_memory():
    n = 30_000
    of, t = np.arange(4*n) % n, (np.arange(4*n) % n)*2
    pairs = GroupedConfusion(t, t + np.arange(4*n)//n % 2, of, n)
    assert len(pairs.label) == 2*n and (pairs.labels == 2).all() and (pairs.add(pairs.hit) == 2).all()


def test_what_is_not_recognised_is_asked_group_by_group():
    pred, y, of = torch.randn(40, 3), torch.randint(0, 3, (40,)), np.arange(40) % 4
    for m in [F1Score(average='macro', labels=[0, 1]), CohenKappa(labels=[0, 1, 2]), skm_to_fastai(skm.zero_one_loss),
              skm_to_fastai(skm.f1_score, average='macro', zero_division=np.nan)]:
        assert tally(m, pred, y, of, 4) is None and np.isfinite(group_values(m, pred, y, of, 4)).all()
    for m in [*CORRELATIONS, AccumMetric(lambda p, t: (p - t).abs().max())]:
        assert tally(m, pred[:, 0], pred[:, 1], of, 4) is None
        for g, value in enumerate(group_values(m, pred[:, 0], pred[:, 1], of, 4)):
            assert np.isclose(value, float(m(pred[of == g, 0], pred[of == g, 1])), 1e-5)
    assert tally(RocAucMulti(average='samples'), pred, pred > 0, of, 4) is None and tally(RocAucMulti(max_fpr=.5), pred, pred > 0, of, 4) is None
    with pytest.raises(ValueError, match='multiclass'): group_values(F1Score(), pred, y, of, 4)


def test_sklearn_is_not_called_for_what_is_recognised(monkeypatch):
    "Ten thousand groups would call it ten thousand times"
    pred, y, of = torch.randn(100_000, 3), torch.randint(0, 3, (100_000,)), np.arange(100_000) % 10_000
    cases = [*((m, pred, y) for m in (F1Score(average='macro'), BalancedAccuracy(), CohenKappa(weights='linear'), RocAuc())), (RocAucBinary(), pred[:, :2], y % 2),
             (APScoreBinary(), pred[:, :2], y % 2), (rmse, pred[:, 0], y.float()), *((m, pred, (pred + .1 > 0).float()) for m in (F1ScoreMulti(), RocAucMulti(), HammingLossMulti()))]
    monkeypatch.setattr(tsmeta.train.metrics, '_slices', lambda *a: pytest.fail('the metric is called group by group'))
    for m, p, t in cases: assert np.isfinite(group_values(m, p, t, of, 10_000)).any(), m.name
