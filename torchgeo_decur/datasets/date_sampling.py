"""Choose acquisition dates for each modality of a location."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

DateSampling = Literal['all', 'same', 'independent']


def check_date_sampling(date_sampling: str, num_dates: int) -> None:
    """Check the options for date sampling.

    Args:
        date_sampling: one of :data:`DateSampling`.
        num_dates: number of dates per sample.

    Raises:
        ValueError: if an option is invalid.
    """
    if date_sampling not in get_args(DateSampling):
        raise ValueError(
            f'date_sampling must be one of {get_args(DateSampling)}, '
            f'got {date_sampling!r}'
        )
    if num_dates < 1:
        raise ValueError(f'num_dates must be positive, got {num_dates}')


def draw_dates(
    seconds: Mapping[str, Sequence[int]],
    date_sampling: Literal['same', 'independent'],
    num_dates: int,
    seed: Sequence[int],
) -> dict[str, list[int]]:
    """Draw random acquisition dates for each modality of a location.

    Args:
        seconds: sorted acquisition times of each modality, in seconds.
        date_sampling: 'same' draws dates of the first modality and pairs them with the
            nearest dates of the other modalities. 'independent' draws dates separately
            for each modality.
        num_dates: number of dates to draw.
        seed: integers that seed the draw, such as seed, epoch and location.

    Returns:
        Indices of the drawn dates by modality.

    Example:
        >>> draw_dates({'s1': [0, 100], 's2': [10, 90]}, 'same', 1, [0, 0])
        {'s1': [0], 's2': [0]}
    """
    rng = np.random.default_rng(list(seed))
    drawn = {
        m: [int(i) for i in rng.permutation(len(found))[:num_dates]]
        for m, found in seconds.items()
    }
    if date_sampling == 'same':
        anchor, *others = seconds
        for m in others:
            drawn[m] = [
                min(range(len(seconds[m])), key=lambda i: abs(seconds[m][i] - time))
                for time in (seconds[anchor][k] for k in drawn[anchor])
            ]
    return drawn
