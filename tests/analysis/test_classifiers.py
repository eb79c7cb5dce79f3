"""Compare scores of probes with scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, r2_score

from torchgeo_decur.analysis.classifiers import (
    Outcome,
    halves,
    interval,
    resamples,
    run_probes,
)

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope='module')
def classes() -> Outcome:
    y = RANDOM.integers(3, size=90)
    return Outcome(y, np.where(RANDOM.random(90) < 0.6, y, RANDOM.integers(3, size=90)))


@pytest.fixture(scope='module', params=[1, 4])
def several(request: pytest.FixtureRequest) -> Outcome:
    y = (RANDOM.random((60, request.param)) < 0.3).astype(int)
    # Scores in steps: many are equal.
    return Outcome(y, np.round(y * 0.3 + RANDOM.random(y.shape), 1))


class TestOutcome:
    def test_scores_classes_by_balanced_accuracy(self, classes: Outcome) -> None:
        expected = 100 * balanced_accuracy_score(classes.y, classes.predicted)
        assert classes.score() == pytest.approx(expected)
        weights = resamples(90, 20)
        again = [
            balanced_accuracy_score(classes.y, classes.predicted, sample_weight=w)
            for w in weights
        ]
        assert classes.score(weights) == pytest.approx(100 * np.array(again))
        assert classes.metric == 'balanced accuracy'
        assert classes.chance == pytest.approx(100 / 3)

    def test_scores_several_labels_by_average_precision(self, several: Outcome) -> None:
        y, p = several.y.ravel(), several.predicted.ravel()
        assert several.score() == pytest.approx(100 * average_precision_score(y, p))
        weights = resamples(60, 20)
        again = [
            average_precision_score(
                y, p, sample_weight=np.repeat(w, several.y.shape[1])
            )
            for w in weights
        ]
        assert several.score(weights) == pytest.approx(100 * np.array(again))
        assert several.metric == 'average precision'
        assert several.chance == pytest.approx(100 * y.mean())

    def test_a_class_that_is_absent_from_a_resample(self) -> None:
        outcome = Outcome(np.array([0, 0, 1]), np.array([0, 1, 1]))
        assert outcome.score(np.array([[2, 1, 0]])) == pytest.approx(200 / 3)


def test_halves_are_always_the_same() -> None:
    first, second = halves(11), halves(11)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert sorted(np.concatenate(first)) == list(range(11))


def test_resamples() -> None:
    weights = resamples(50, 400, seed=1)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean() == 1
    assert weights.var() == pytest.approx(1, abs=0.05)


def test_interval_has_the_right_width() -> None:
    # The accuracy of a coin on 400 samples has a standard error of 2.5 percent.
    outcome = Outcome(np.tile([0, 1], 200), np.tile([0, 0, 1, 1], 100))
    low, high = interval(outcome.score(resamples(400, 2000))).values()
    assert high - low == pytest.approx(2 * 1.96 * 2.5, rel=0.1)
    assert low < 50 < high


def test_fits_only_the_chosen_classifiers() -> None:
    x = RANDOM.normal(size=(40, 2))
    found = list(run_probes(x, x[:, 0] > 0, classifiers=('knn',)))
    assert [name for name, _ in found] == ['knn']


@pytest.mark.parametrize('outputs', [1, 2])
def test_numbers_are_probed_by_regression(outputs: int) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 5)).astype(np.float32)
    y = 3000 + 20 * x[:, :outputs] + random.normal(size=(200, outputs))
    y[3], y = np.nan, y.astype(np.float32)
    target = y[:, 0] if outputs == 1 else y
    found = dict(run_probes(x, target))
    linear = found['linear']
    expected = r2_score(linear.y, linear.predicted)
    assert linear.metric == 'R2' and linear.chance == 0
    assert 99 < linear.score()[0] == pytest.approx(100 * expected, rel=1e-4)
    assert 30 < found['knn'].score()[0] < 95
    # A resample is scored like the samples that it copies.
    drawn = resamples(len(linear.y), 3)
    for weight, score in zip(drawn, linear.score(drawn), strict=True):
        rows = np.repeat(np.arange(len(weight)), weight.astype(int))
        copied = r2_score(linear.y[rows], linear.predicted[rows])
        assert score == pytest.approx(100 * copied, rel=1e-4)
    noise = dict(run_probes(x, random.normal(size=200)))
    assert noise['linear'].score()[0] < 10
    assert not dict(run_probes(x, np.ones(200)))
