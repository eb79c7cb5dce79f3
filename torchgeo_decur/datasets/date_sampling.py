"""Choose the dates of a place in each modality."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

DateSampling = Literal['all', 'same', 'independent']


def check_date_sampling(date_sampling: str, num_dates: int) -> None:
    """Check the options that choose dates.

    Args:
        date_sampling: one of :data:`DateSampling`.
        num_dates: number of dates.

    Raises:
        ValueError: if an option is not valid.
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
    """Draw dates of a place at random.

    Args:
        seconds: time of each date by modality, in order of time.
        date_sampling: 'same' for dates of the first modality, with the nearest dates of
            the others, or 'independent'.
        num_dates: number of dates.
        seed: numbers that seed the draw, such as seed, epoch and place.

    Returns:
        Indices of the dates by modality.

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
