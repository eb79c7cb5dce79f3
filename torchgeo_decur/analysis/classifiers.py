"""Probes of frozen features for classification and regression, with chance scores."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

Array = NDArray[Any]
# Number of values below which several BLAS threads are slower than one.
_SMALL = 10_000_000
Classifier = Literal['knn', 'linear']
# Ridge regression penalties, from which cross-validation chooses one.
_PENALTIES = np.logspace(-1, 5, 7)
#: The probes: nearest neighbors, and a linear model, which is logistic or ridge
#: regression.
CLASSIFIERS: tuple[Classifier, ...] = ('knn', 'linear')


@dataclass(frozen=True)
class Outcome:
    """Predictions of a probe for held-out samples.

    Args:
        y: classes, shape (n,), multi-label targets, shape (n, K), or floating-point
            regression targets of either shape.
        predicted: predicted classes, shape (n,), scores of the labels, shape (n, K), or
            predicted regression targets.
    """

    y: Array
    predicted: Array

    @property
    def metric(self) -> str:
        """Name of the score's metric."""
        if is_number(self.y):
            return 'R2'
        return 'average precision' if self.y.ndim == 2 else 'balanced accuracy'

    @property
    def chance(self) -> float:
        """Expected score in percent of random predictions, or of the mean target for R2."""
        if is_number(self.y):
            return 0.0
        share = self.y.mean() if self.y.ndim == 2 else 1 / len(np.unique(self.y))
        return 100 * float(share)

    def score(self, weights: Array | None = None) -> Array:
        """Score the samples, or bootstrap resamples of them.

        The score is the balanced accuracy over the classes in the samples, or the
        micro-averaged average precision for multi-label data. For regression, it is the
        coefficient of determination R2, averaged over the targets.

        Args:
            weights: number of copies of each sample in each resample, shape (R, n), by
                default one resample with one copy each.

        Returns:
            The scores in percent, shape (R,).

        Example:
            >>> outcome = Outcome(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
            >>> float(outcome.score().round(1)[0])
            83.3
        """
        if weights is None:
            weights = np.ones((1, len(self.y)))
        if is_number(self.y):
            return 100 * _determination(self.y, self.predicted, weights)
        if self.y.ndim == 2:
            return 100 * _average_precision(self.y, self.predicted, weights)
        member = (self.y[:, None] == np.unique(self.y)).astype(np.float64)
        hits = weights @ (member * (self.y == self.predicted)[:, None])
        there = weights @ member
        # A class without samples has no recall.
        recall = np.where(there > 0, hits / np.maximum(there, 1), np.nan)
        mean: Array = np.nanmean(recall, axis=1)
        return 100 * mean

    def summary(self, resampled: Array, digits: int | None = 2) -> dict[str, Any]:
        """Summarize the score for a table row.

        Args:
            resampled: scores of the resamples, shape (R,).
            digits: number of decimal places, or None for no rounding.

        Returns:
            Values by column name. The score, the bounds of its 95 % confidence interval
            and the chance score are in percent. The others are the name of the metric
            and the number of scored samples.
        """
        numbers = {
            'score': float(self.score()[0]),
            **interval(resampled),
            'chance': self.chance,
        }
        if digits is not None:
            numbers = {name: round(x, digits) for name, x in numbers.items()}
        return {**numbers, 'metric': self.metric, 'scored': len(self.y)}


def halves(number: int) -> tuple[Array, Array]:
    """Split samples into two random halves, with a fixed seed.

    Args:
        number: number of samples.

    Returns:
        Indices of the samples for fitting, and of the samples for scoring.
    """
    order = np.random.default_rng(0).permutation(number)
    return order[::2], order[1::2]


def run_probes(
    x: Array,
    y: Array,
    k: int = 5,
    classifiers: tuple[Classifier, ...] = CLASSIFIERS,
    places: tuple[Array, Array] | None = None,
) -> Iterator[tuple[Classifier, Outcome]]:
    """Fit probes on standardized features of some samples and predict the others.

    Args:
        x: features, shape (N, F).
        y: classes, shape (N,), or multi-label targets of 0 and 1, shape (N, K). Labels
            that do not occur in both the fitted and the scored samples are ignored.
            Floating-point values of either shape are regression targets; samples with
            NaN are omitted.
        k: number of nearest neighbors.
        classifiers: names of the probes, 'knn', 'linear' or both.
        places: indices of the samples for fitting and for scoring, by default the two
            :func:`halves`.

    Yields:
        Name and predictions of each probe. If there are fewer than two classes or too
        few samples, nothing is yielded.

    Example:
        >>> x = np.repeat([[0.0, 1.0], [9.0, 1.0]], 20, axis=0)
        >>> [(name, float(o.score()[0])) for name, o in run_probes(x, x[:, 0] > 1)]
        [('knn', 100.0), ('linear', 100.0)]
    """
    train, test = places or halves(len(x))
    if is_number(y):
        yield from _probe_numbers(x, y, k, classifiers, train, test)
        return
    multilabel = y.ndim == 2
    # A label that is absent from the fitted or scored samples cannot be learned or
    # scored.
    if multilabel:
        y = y[:, [len(set(c[train])) > 1 and c[test].any() for c in y.T]]
    y = y.astype(int)
    if len(train) <= k or not y.size or len(np.unique(y[train])) < 2:
        return
    linear: Any = LogisticRegression(max_iter=200)
    models: dict[Classifier, Any] = {
        'knn': KNeighborsClassifier(k),
        'linear': OneVsRestClassifier(linear) if multilabel else linear,
    }
    target = y[:, 0] if y.shape[1:] == (1,) else y
    for name in classifiers:
        threads = threadpool_limits(1 if x.size < _SMALL else None)
        with threads, warnings.catch_warnings():
            # Scores are stable long before the optimizer converges.
            warnings.simplefilter('ignore', ConvergenceWarning)
            probe = make_pipeline(StandardScaler(), models[name])
            probe.fit(x[train], target[train])
        if multilabel:
            p = probe.predict_proba(x[test])
            if isinstance(p, list):
                p = np.stack([c[:, 1] for c in p], 1)
            elif target.ndim == 1:
                p = p[:, 1:]
        else:
            p = probe.predict(x[test])
        yield name, Outcome(y[test], p)


def is_number(y: Array) -> bool:
    """Check whether labels are floating-point regression targets and not classes.

    Two-dimensional labels with only 0 and 1 are multi-label data, whatever their type.
    """
    several = y.ndim == 2 and bool(np.isin(y, (0, 1)).all())
    return np.issubdtype(y.dtype, np.floating) and not several


@lru_cache(maxsize=2)
def resamples(number: int, times: int, seed: int = 0) -> Array:
    """Draw bootstrap resamples.

    Args:
        number: number of samples n.
        times: number of resamples R.
        seed: random seed.

    Returns:
        Number of copies of each sample in each resample, shape (R, n). Each row sums to
        n.
    """
    even = np.full(number, 1 / number)
    drawn = np.random.default_rng(seed).multinomial(number, even, size=times)
    # Convert to floating point, because BLAS does not multiply integers.
    weights = drawn.astype(np.float64)
    weights.flags.writeable = False
    return weights


def interval(values: Array) -> dict[str, float]:
    """Return the bounds ``low`` and ``high`` of the 95 % percentile interval."""
    low, high = np.percentile(values, (2.5, 97.5))
    return {'low': float(low), 'high': float(high)}


def _probe_numbers(
    x: Array,
    y: Array,
    k: int,
    classifiers: tuple[Classifier, ...],
    train: Array,
    test: Array,
) -> Iterator[tuple[Classifier, Outcome]]:
    """Fit regression probes on some samples and predict the targets of the others."""
    rows = y.reshape(len(y), -1).astype(np.float64)
    known = np.isfinite(rows).all(axis=1)
    train, test = train[known[train]], test[known[test]]
    # R2 is undefined for a target that does not vary.
    varies = [len(np.unique(c[s])) > 1 for c in rows.T for s in (train, test)]
    if len(train) <= k or len(test) < 2 or not all(varies):
        return
    models: dict[Classifier, Any] = {
        'knn': KNeighborsRegressor(k),
        'linear': RidgeCV(_PENALTIES),
    }
    scale = StandardScaler().fit(rows[train])
    for name in classifiers:
        with threadpool_limits(1 if x.size < _SMALL else None):
            probe = make_pipeline(StandardScaler(), models[name])
            probe.fit(x[train], scale.transform(rows[train]))
            found = probe.predict(x[test]).reshape(len(test), -1)
        yield name, Outcome(rows[test], scale.inverse_transform(found))


def _determination(y: Array, p: Array, weights: Array) -> Array:
    """Compute the R2 of all resamples, averaged over the targets."""
    y, p = y.reshape(len(y), -1), p.reshape(len(p), -1)
    # Subtracting the mean first keeps the sums of squares accurate.
    centre = y.mean(axis=0)
    y, p = y - centre, p - centre
    total = weights.sum(axis=1, keepdims=True)
    spread = weights @ y**2 - (weights @ y) ** 2 / total
    # A resample may contain copies of only one sample.
    spread = np.where(spread > 0, spread, np.nan)
    scores: Array = 1 - (weights @ (y - p) ** 2) / spread
    mean: Array = np.nanmean(scores, axis=1)
    return mean


def _average_precision(y: Array, p: Array, weights: Array) -> Array:
    """Compute the micro-averaged average precision of all resamples with one sort."""
    labels = y.shape[1]
    order = np.argsort(-p.ravel(), kind='stable')
    scores, truth = p.ravel()[order], y.ravel()[order]
    # A threshold cannot separate equal scores, so use the last of each group.
    last = np.flatnonzero(np.append(np.diff(scores), 1))
    found = np.empty(len(weights))
    for i, weight in enumerate(weights):
        w = np.repeat(weight, labels)[order].astype(float)
        hits, taken = np.cumsum(w * truth)[last], np.cumsum(w)[last]
        precision = hits / np.maximum(taken, 1)
        gain = np.diff(hits, prepend=0)
        found[i] = (gain * precision).sum() / max(hits[-1], 1)
    return found
