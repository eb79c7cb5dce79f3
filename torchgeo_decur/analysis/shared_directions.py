"""Number of directions that two sets of features share, with a confidence interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .embeddings import Embeddings
from .matplotlib_style import COLOURS, PAGE, figure_style, grid_of_panels
from .result import TITLES, AnalysisResult, NotApplicable

type Array = NDArray[np.float64]

# Minimum number of samples for a test.
_LEAST = 40
# Directions whose variance is below this fraction of the largest are numerical noise.
_VARIANCE = 1e-12


@dataclass(frozen=True)
class SharedDirections:
    """Number of directions that two sets of features share, with a confidence interval.

    Args:
        number: number of directions that correlate significantly on held-out samples.
        lower: lower bound of the 95 % confidence interval.
        upper: upper bound of the 95 % confidence interval.
        of: number of tested directions.
        correlations: canonical correlations on held-out samples, shape (``of``,), in
            the order of the correlations on the fitted samples.
        smallest: minimum correlation that counts as shared.
        scored: number of held-out samples.
    """

    number: int
    lower: int
    upper: int
    of: int
    correlations: Array
    smallest: float
    scored: int

    def __str__(self) -> str:
        """Describe the result in one phrase."""
        return (
            f'{self.number} of {self.of} directions are shared '
            f'(95 % interval {self.lower} to {self.upper})'
        )


def count_shared_directions(
    x: NDArray[Any],
    y: NDArray[Any],
    smallest: float = 0.2,
    permutations: int = 1000,
    seed: int = 0,
) -> SharedDirections:
    """Count the directions that two sets of features share.

    Canonical directions are fitted on one half of the samples, and their correlations
    are measured on the other half. A step-down permutation test (Westfall and Young,
    *Resampling-Based Multiple Testing*, 1993) counts the correlations that are
    significant at 5 %. The lower bound of the interval is the count at 2.5 %. The upper
    bound counts the directions for which the upper 97.5 % limit of the correlation, by
    Fisher's z, reaches ``smallest``.

    The result is invariant to invertible linear maps of the features. With few samples,
    the interval is wide, so use at least ten samples per dimension.

    Args:
        x: features of one encoder, shape (N, D).
        y: features of another encoder for the same samples, shape (N, E).
        smallest: minimum correlation that counts as shared, in (0, 1).
        permutations: number of permutations in the test.
        seed: random seed of the halves and the permutations.

    Returns:
        The number of shared directions, its interval and the correlations.

    Raises:
        ValueError: if the numbers of samples differ or are below 40, or values are not
            finite.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> common = generator.normal(size=(1000, 3))
        >>> views = [np.hstack([common, generator.normal(size=(1000, 5))]) for _ in 'ab']
        >>> print(count_shared_directions(*views))
        3 of 8 directions are shared (95 % interval 3 to 3)
    """
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < _LEAST:
        raise ValueError(
            'x and y must have shapes (N, D) and (N, E) with at least '
            f'{_LEAST} samples, got {x.shape} and {y.shape}'
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(
            'x and y must be finite, got NaN or infinity; remove such rows'
        )
    if not 0 < smallest < 1:
        raise ValueError(f'smallest must be in (0, 1), got {smallest}')
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(x))
    fitted, scored = order[: len(x) // 2], order[len(x) // 2 :]
    a, b = _canonical(x, y, fitted)
    a, b = _standardize(a[scored]), _standardize(b[scored])
    found = (a * b).mean(0)
    chance = np.stack(
        [(a * b[generator.permutation(len(b))]).mean(0) for _ in range(permutations)]
    )
    # The standard error of Fisher's z does not depend on the correlation.
    z, error = np.arctanh(np.clip(found, -0.999, 0.999)), (len(b) - 3) ** -0.5
    excess = z - np.arctanh(smallest / 2)
    number, lower = (
        _step_down(excess, np.arctanh(chance), level) for level in (0.05, 0.025)
    )
    possible = int((z + 1.96 * error >= np.arctanh(smallest)).sum())
    return SharedDirections(
        number=number,
        lower=lower,
        upper=max(number, possible),
        of=len(found),
        correlations=found,
        smallest=smallest,
        scored=len(b),
    )


def compare_features(
    features: Mapping[str, NDArray[Any]],
    smallest: float = 0.2,
    seed: int = 0,
    available: Mapping[str, NDArray[np.bool_]] | None = None,
) -> AnalysisResult:
    """Count the directions that each pair of feature sets shares.

    Args:
        features: features of the same samples, by name, shape (N, D); D may differ.
        smallest: minimum correlation that counts as shared, in (0, 1).
        seed: random seed of :func:`count_shared_directions`.
        available: mask of the samples that have features, by name, shape (N,). Without
            a mask, all samples have them. Each pair is compared on the samples that
            have both.

    Returns:
        Table ``shared`` with one row per pair, table ``correlations`` with one row per
        direction, and figure ``correlations``.

    Raises:
        NotApplicable: if there are fewer than two feature sets, or too few samples.
        ValueError: if the numbers of samples differ, or values are not finite.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> x = generator.normal(size=(500, 4))
        >>> result = compare_features({'s1': x, 's2': x[:, :2]})
        >>> result.tables['shared'][0]['shared']
        2
    """
    pairs = {
        (m, n): _common(features[m], features[n], m, n, available or {})
        for m, n in combinations(features, 2)
    }
    numbers = sorted(
        {len(z) for pair in pairs.values() or [tuple(features.values())] for z in pair}
    )
    samples = min(numbers, default=0)
    if len(features) < 2 or samples < _LEAST:
        raise NotApplicable(
            f'shared directions need features of at least two modalities and {_LEAST} '
            f'samples, got {list(features)} with {samples} samples'
        )
    counts = {
        pair: count_shared_directions(x, y, smallest, seed=seed)
        for pair, (x, y) in pairs.items()
    }
    rows = [
        {
            'first': m,
            'second': n,
            'shared': c.number,
            'low': c.lower,
            'high': c.upper,
            'of': c.of,
            'samples': len(pairs[m, n][0]),
        }
        for (m, n), c in counts.items()
    ]
    each = [
        {'first': m, 'second': n, 'direction': i, 'correlation': round(float(r), 4)}
        for (m, n), c in counts.items()
        for i, r in enumerate(c.correlations, start=1)
    ]
    lines = [f'- {m} and {n}: {c}' for (m, n), c in counts.items()]
    tested = min(c.of for c in counts.values())
    dims = min(x.shape[1] for x in features.values())
    note = (
        f' With fewer than ten samples per dimension, only the {tested} directions with '
        'the largest variance are tested.'
        if samples < 10 * dims
        else ''
    )
    text = ' to '.join(map(str, dict.fromkeys((samples, numbers[-1]))))
    return AnalysisResult(
        name='shared',
        title=TITLES['shared'],
        text=(
            f'Canonical correlations of features, fitted on one half of {text} samples '
            'and measured on the other half. A permutation test counts the directions '
            'that correlate significantly. Correlations below '
            f'{smallest / 2:g} never count.{note}\n\n' + '\n'.join(lines)
        ),
        tables={'shared': rows, 'correlations': each},
        figures={'correlations': _plot(counts)},
    )


def shared_directions_of(embeddings: Embeddings) -> AnalysisResult:
    """Count the directions that the features of each pair of modalities share.

    Args:
        embeddings: features of at least two modalities.

    Returns:
        The result of :func:`compare_features`.

    Raises:
        NotApplicable: if there are fewer than two modalities, or too few samples.
    """
    names = [m for m in embeddings.modalities if m in embeddings.h]
    return compare_features(
        {m: embeddings.h[m].numpy() for m in names},
        available={
            m: there.numpy() for m, there in embeddings.available.items() if m in names
        },
    )


def _common(
    x: NDArray[Any],
    y: NDArray[Any],
    m: str,
    n: str,
    available: Mapping[str, NDArray[np.bool_]],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the rows of the samples that have both feature sets."""
    masks = [available[name] for name in (m, n) if name in available]
    if not masks or len(x) != len(y):
        return x, y
    both = np.logical_and.reduce(masks)
    return x[both], y[both]


def _plot(counts: Mapping[tuple[str, str], SharedDirections]) -> Figure:
    columns = min(len(counts), 3)
    with figure_style():
        figure, axes = grid_of_panels(
            len(counts), columns, (min(PAGE, 2.8 * columns), 2.2)
        )
        for axis, ((m, n), c) in zip(axes, counts.items(), strict=True):
            order = np.sort(c.correlations)[::-1]
            axis.axvspan(
                c.lower + 0.5, c.upper + 0.5, color=COLOURS['common'], alpha=0.2, lw=0
            )
            axis.axvline(
                c.number + 0.5, color=COLOURS['common'], lw=1, label='shared, 95 %'
            )
            axis.plot(range(1, c.of + 1), order, color=COLOURS['features'])
            axis.axhline(0, color='black', ls=':', lw=1)
            axis.set(title=f'{m} and {n}', xlabel='direction')
        axes[0].set_ylabel('held-out correlation')
        axes[0].legend()
    return figure


def _canonical(x: Array, y: Array, fitted: NDArray[np.int64]) -> tuple[Array, Array]:
    """Project all samples onto the canonical directions of the fitted samples."""
    a, b = _whiten(x, fitted), _whiten(y, fitted)
    left, _, right = np.linalg.svd(
        a[fitted].T @ b[fitted] / len(fitted), full_matrices=False
    )
    return a @ left, b @ right.T


def _whiten(x: Array, fitted: NDArray[np.int64]) -> Array:
    """Compute whitened principal components, limited by the number of fitted samples."""
    x = x - x[fitted].mean(0)
    _, singular, directions = np.linalg.svd(x[fitted], full_matrices=False)
    variance = singular**2
    kept = variance > _VARIANCE * variance.max()
    # With fewer than five samples per direction, whitening would fit noise.
    kept[len(fitted) // 5 :] = False
    scale = singular[kept] / len(fitted) ** 0.5
    return np.asarray(x @ directions[kept].T / scale)


def _standardize(x: Array) -> Array:
    x = x - x.mean(0)
    return np.asarray(x / np.maximum(x.std(0), 1e-12))


def _step_down(found: Array, chance: Array, level: float) -> int:
    """Count the correlations that are significant in a step-down permutation test."""
    order = np.argsort(-found)
    # Largest chance correlation of each direction and all following ones.
    largest = np.maximum.accumulate(chance[:, order[::-1]], axis=1)[:, ::-1]
    p = (1 + (largest >= found[order]).sum(0)) / (1 + len(chance))
    return int(np.argmin(np.append(p <= level, False)))
