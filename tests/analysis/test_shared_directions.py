"""Compare counts of shared directions with known answers."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.typing import NDArray

from torchgeo_decur.analysis import (
    Embeddings,
    NotApplicable,
    compare_features,
    count_shared_directions,
    shared_directions_of,
)


def gaussian(
    seed: int, samples: int, dims: tuple[int, int], shared: int, correlation: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw two views with as many shared directions, mixed by random matrices."""
    generator = np.random.default_rng(seed)
    common = correlation**0.5 * generator.normal(size=(samples, shared))
    views = []
    for dim in dims:
        own = generator.normal(size=(samples, dim))
        own[:, :shared] = common + (1 - correlation) ** 0.5 * own[:, :shared]
        views.append(own @ generator.normal(size=(dim, dim)))
    return views[0], views[1]


@pytest.mark.parametrize(
    ('samples', 'dims', 'shared', 'correlation'),
    [
        (1000, (20, 20), 5, 0.8),
        (1000, (20, 20), 0, 0.8),
        (1000, (32, 24), 24, 0.7),
        (600, (16, 16), 4, 0.4),
    ],
)
def test_interval_holds_the_true_number_in_95_percent_of_draws(
    samples: int, dims: tuple[int, int], shared: int, correlation: float
) -> None:
    found = [
        count_shared_directions(
            *gaussian(seed, samples, dims, shared, correlation), permutations=200
        )
        for seed in range(200)
    ]
    assert sum(f.lower <= shared <= f.upper for f in found) >= 190
    assert all(f.lower <= f.number <= f.upper <= f.of == min(dims) for f in found)
    if correlation > 0.5:
        assert sum(f.number == shared for f in found) >= 190


def test_many_dimensions_do_not_leak() -> None:
    found = count_shared_directions(*gaussian(0, 2000, (128, 128), 100, 0.8))
    assert (found.lower, found.number, found.upper) == (100, 100, 100)


def test_result_does_not_depend_on_a_linear_map_of_the_features() -> None:
    x, y = gaussian(0, 1000, (12, 12), 4, 0.8)
    mixed = x @ np.random.default_rng(1).normal(size=(12, 12)) + 5
    a, b = count_shared_directions(x, y), count_shared_directions(mixed, y)
    np.testing.assert_allclose(a.correlations, b.correlations, atol=1e-6)


def test_few_samples_limit_the_directions() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(100, 64))
    found = count_shared_directions(x, x)
    assert found.of == 10
    assert str(found).startswith(f'{found.number} of 10 directions are shared')


@pytest.mark.parametrize(
    ('shapes', 'options', 'message'),
    [
        (((50, 4), (49, 4)), {}, 'shapes .* got .50, 4. and .49, 4.'),
        (((20, 4), (20, 4)), {}, 'at least 40 samples'),
        (((50, 4), (50, 4)), {'smallest': 0}, 'smallest must be in .0, 1., got 0'),
    ],
)
def test_errors_name_what_was_given(
    shapes: tuple[tuple[int, int], tuple[int, int]],
    options: dict[str, float],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        count_shared_directions(np.ones(shapes[0]), np.ones(shapes[1]), **options)


def test_refuses_nan() -> None:
    x = np.random.default_rng(0).normal(size=(50, 4))
    with pytest.raises(ValueError, match='finite'):
        count_shared_directions(x, np.where(x > 2, np.nan, x) * np.nan)


def test_compares_every_pair() -> None:
    x, y = gaussian(0, 1000, (12, 8), 3, 0.8)
    result = compare_features({'s1': x, 's2': y, 'dem': x[:, :4]})
    rows = {(r['first'], r['second']): r for r in result.tables['shared']}
    assert {pair: r['of'] for pair, r in rows.items()} == {
        ('s1', 's2'): 8,
        ('s1', 'dem'): 4,
        ('s2', 'dem'): 4,
    }
    assert rows['s1', 's2']['shared'] == 3 and rows['s1', 'dem']['shared'] == 4
    assert 's1 and s2: 3 of 8 directions are shared' in result.text
    assert len(result.figures['correlations'].axes) == 3
    plt.close(result.figures['correlations'])


def test_text_says_that_few_samples_limit_the_test() -> None:
    x = np.random.default_rng(0).normal(size=(100, 64))
    result = compare_features({'a': x, 'b': x})
    plt.close(result.figures['correlations'])
    assert 'only the 10 directions with the largest variance are tested' in result.text


def test_analysis_uses_features_of_modalities(known: Embeddings) -> None:
    result = shared_directions_of(known)
    plt.close(result.figures['correlations'])
    # The features of s1 are noise.
    assert [r['shared'] for r in result.tables['shared']] == [0]


def test_one_modality_is_not_applicable() -> None:
    with pytest.raises(NotApplicable, match=r"got \['s1'\] with 50 samples"):
        compare_features({'s1': np.zeros((50, 2))})
