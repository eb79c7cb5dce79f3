"""Random splits by group, and stratified label budgets."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Check that the validation and test fractions leave samples for training.

    Raises:
        ValueError: if a fraction is negative or the sum is not less than 1.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(
            'val_fraction and test_fraction must not be negative, and their sum must be '
            f'less than 1, got {val_fraction} and {test_fraction}'
        )


def split_groups(
    groups: Sequence[Hashable], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Hold out a random fraction of the groups.

    Args:
        groups: group of each sample. The samples of a group stay together.
        fraction: fraction of the groups to hold out, in [0, 1]. Unless it is 0 or 1, at
            least one group is kept and at least one is held out.
        seed: seed of the random choice.

    Returns:
        Sorted indices of the kept samples and of the held-out samples.

    Raises:
        ValueError: if ``fraction`` is out of range, or if it requires two groups and there
            are fewer.

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
                f'expected at least two groups to split, found {len(names)}; add data, or '
                'set the fraction to 0'
            )
        number = min(max(number, 1), len(names) - 1)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    chosen = {names[i] for i in order[:number].tolist()}
    kept = [i for i, group in enumerate(groups) if group not in chosen]
    return kept, [i for i, group in enumerate(groups) if group in chosen]


def order_for_budgets(labels: Tensor, seed: int) -> Tensor:
    """Order samples so that every prefix is stratified.

    A label budget is a prefix of this order, so larger budgets contain smaller ones. Each
    sample represents its rarest class. The samples of a class are shuffled and spread
    evenly over the order, with the first sample of each class at the front. A budget with
    at least as many samples as classes therefore includes every represented class.

    Args:
        labels: class indices, shape (N,), or multi-label targets, shape (N, K).
        seed: seed for shuffling.

    Returns:
        Indices of the samples, shape (N,).

    Raises:
        ValueError: if the labels are neither 1-dimensional nor 2-dimensional.

    Example:
        >>> labels = torch.tensor([0] * 98 + [1] * 2)
        >>> labels[order_for_budgets(labels, seed=0)[:50]].sum()
        tensor(1)
    """
    generator = torch.Generator().manual_seed(seed)
    if labels.ndim == 2:
        counts = labels.ne(0).sum(0)
        frequency = torch.where(labels.ne(0), counts, len(labels) + 1)
        without = labels.ne(0).sum(1) == 0
        groups = frequency.argmin(1).masked_fill(without, labels.shape[1])
    elif labels.ndim == 1:
        groups = labels
    else:
        raise ValueError(
            f'labels must have shape (N,) or (N, K), got {tuple(labels.shape)}'
        )
    shuffled = torch.randperm(len(labels), generator=generator)
    rank = torch.empty(len(labels), dtype=torch.float64)
    for group in groups.unique():
        members = shuffled[groups[shuffled] == group]
        steps = torch.arange(len(members), dtype=torch.float64)
        rank[members] = steps / len(members)
    return shuffled[rank[shuffled].argsort(stable=True)]


def take_budget(
    labels: Tensor, fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Choose the samples of a label budget.

    Args:
        labels: class indices or multi-label targets, as in :func:`order_for_budgets`.
        fraction: fraction of the samples, in (0, 1]. At least one sample is chosen.
        seed: seed of the random choice.

    Returns:
        Sorted indices of the chosen samples and sorted classes without a chosen sample.
    """
    number = max(1, round(fraction * len(labels)))
    chosen = order_for_budgets(labels, seed)[:number].sort().values
    kept = [_classes(x) for x in (labels, labels[chosen])]
    return chosen.tolist(), sorted(kept[0] - kept[1])


def _classes(labels: Tensor) -> set[int]:
    found = labels.ne(0).any(0).nonzero() if labels.ndim == 2 else labels.unique()
    return set(found.flatten().tolist())
