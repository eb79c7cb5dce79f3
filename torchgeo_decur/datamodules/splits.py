"""Random splits that keep groups of samples together."""

from collections.abc import Hashable, Sequence

import torch


def split_groups(
    groups: Sequence[Hashable], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Hold out a fraction of the groups at random.

    Args:
        groups: group of each sample. Samples of one group are never separated.
        fraction: fraction of the groups to hold out, in [0, 1]. Strictly in between,
            both sides get at least one group.
        seed: seed of the draw.

    Returns:
        The numbers of the samples that are kept, and of those that are held out, in
        order.

    Raises:
        ValueError: if ``fraction`` is out of range, or a single group cannot be split.

    Example:
        >>> kept, held_out = split_groups(['a', 'a', 'b', 'b', 'c', 'c'], 0.3, seed=0)
        >>> len(kept), len(held_out)
        (4, 2)
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f'fraction must be in [0, 1], got {fraction}')
    names = list(dict.fromkeys(groups))
    number = round(len(names) * fraction)
    if 0 < fraction < 1:
        if len(names) < 2:
            raise ValueError(
                f'expected at least two groups to split, got {len(names)}; '
                'give more data or a fraction of 0'
            )
        number = min(max(number, 1), len(names) - 1)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    chosen = {names[i] for i in order[:number].tolist()}
    kept = [i for i, group in enumerate(groups) if group not in chosen]
    return kept, [i for i, group in enumerate(groups) if group in chosen]
