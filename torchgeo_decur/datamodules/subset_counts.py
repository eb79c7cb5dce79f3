"""Count samples by the subset of modalities that they have."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from numpy.typing import NDArray


def count_subsets(
    availability: Mapping[str, NDArray[np.bool_]],
) -> Counter[tuple[str, ...]]:
    """Count samples by the exact subset of modalities that they have.

    Args:
        availability: Boolean array for each modality, shape (N,). It is True for the
            samples that have the modality.

    Returns:
        Number of samples for each subset.

    Example:
        >>> there = {'s1': np.array([True, True, False]), 's2': np.array([True] * 3)}
        >>> count_subsets(there)
        Counter({('s1', 's2'): 2, ('s2',): 1})
    """
    names = list(availability)
    rows = np.stack([availability[m] for m in names], axis=1)
    subsets, counts = np.unique(rows, axis=0, return_counts=True)
    return Counter(
        {
            tuple(m for m, has in zip(names, row, strict=True) if has): int(count)
            for row, count in zip(subsets, counts, strict=True)
        }
    )


@rank_zero_only
def report_subsets(
    counts: Mapping[str, Mapping[tuple[str, ...], int]], modalities: Sequence[str]
) -> None:
    """Print the subset counts of each split, unless all samples are complete.

    Args:
        counts: subset counts by split.
        modalities: names of the modalities.

    Warns:
        UserWarning: if no training sample has two modalities, or a modality is absent
            from all training samples.
    """
    found = {subset for split in counts.values() for subset in split}
    if found <= {tuple(modalities)}:
        return
    order = sorted(found, key=lambda s: (-len(s), [modalities.index(m) for m in s]))
    labels = {s: ' + '.join(s) + (' only' if len(s) == 1 else '') for s in order}
    width = max(len('modalities'), *map(len, labels.values()))
    cells = {
        name: [f'{split.get(s, 0):,}' for s in order] for name, split in counts.items()
    }
    sizes = {name: max(len(name), *map(len, column)) for name, column in cells.items()}
    print(
        'modalities'.ljust(width),
        *(name.rjust(sizes[name]) for name in cells),
        sep='  ',
    )
    for i, subset in enumerate(order):
        print(
            labels[subset].ljust(width),
            *(column[i].rjust(sizes[name]) for name, column in cells.items()),
            sep='  ',
        )
    train = counts.get('train')
    if train is None:
        return
    if len(modalities) > 1 and not any(len(s) > 1 for s, n in train.items() if n):
        rank_zero_warn(
            'no training sample has two modalities, so modalities cannot be aligned; check '
            'that paired files have matching names or locations'
        )
    for m in modalities:
        if not any(m in s for s, n in train.items() if n):
            rank_zero_warn(
                f'no training sample has the modality {m}; check the files of this modality'
            )
