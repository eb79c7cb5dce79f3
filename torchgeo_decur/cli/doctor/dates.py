"""Check the acquisition dates of paired images."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from .findings import Finding, Level, count
from .observations import Observation

_DAY = 86_400
# Largest acceptable gap in days: vegetation and water change within a season.
_APART = 60


def check_dates(
    observations: Sequence[Observation], names: Sequence[str]
) -> list[Finding]:
    """Check that paired images were acquired within 60 days of each other.

    Args:
        observations: the examined samples.
        names: names of the modalities.
    """
    findings = []
    for a, b in combinations(names, 2):
        gaps = []
        for o in observations:
            first, second = o.dates.get(a), o.dates.get(b)
            if first is None or second is None or {a, b} & o.absent:
                continue
            # The task selects the same date index for all modalities. A modality may have
            # a single date.
            number = min(len(first), len(second))
            same = len(first) == len(second)
            x, y = (first, second) if same else (first[:number], second[:number])
            known = (x != 0) & (y != 0)
            gaps += (np.abs(x - y)[known] / _DAY).tolist()
        apart = sum(gap > _APART for gap in gaps)
        if apart:
            findings.append(
                Finding(
                    Level.WARNING if apart >= 0.05 * len(gaps) else Level.NOTE,
                    'dates',
                    f'{a}, {b}',
                    f'{apart} of {count(len(gaps), "image pair")} were acquired more than '
                    f'{_APART} days apart, up to {max(gaps):.0f} days',
                    f'acquisition dates at most {_APART} days apart',
                    'pair images with closer dates, for example with `date_sampling: same`',
                )
            )
    return findings
