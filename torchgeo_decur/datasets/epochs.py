"""Share the number of the epoch with persistent workers."""

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from .base import FileDataset


def shared_epoch() -> Tensor:
    """Return a scalar in memory shared with persistent workers, initially epoch 0."""
    epoch: Tensor = torch.zeros((), dtype=torch.int64).share_memory_()
    return epoch


class DatedDataset(FileDataset):
    """Base of the datasets whose dates depend on the epoch."""

    _epoch: Tensor

    def set_epoch(self, epoch: int) -> None:
        """Choose the dates of an epoch; no effect with ``date_sampling='all'``.

        Args:
            epoch: number of the epoch, from 0.
        """
        self._epoch.fill_(epoch)

    def subset(self, indices: Iterable[int]) -> Self:
        """Restrict the dataset to some of its places.

        Returns:
            A dataset of the same class, with its own epoch.
        """
        other = super().subset(indices)
        other._epoch = shared_epoch()
        return other
