"""Share the epoch number with persistent workers."""

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor

from .base import FileDataset


def shared_epoch() -> Tensor:
    """Create an epoch counter, starting at 0, in memory that persistent workers share."""
    epoch: Tensor = torch.zeros((), dtype=torch.int64).share_memory_()
    return epoch


class DatedDataset(FileDataset):
    """Base class for datasets whose dates depend on the epoch."""

    _epoch: Tensor

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the dates unless ``date_sampling='all'``.

        Args:
            epoch: epoch number, starting at 0.
        """
        self._epoch.fill_(epoch)

    def subset(self, indices: Iterable[int]) -> Self:
        """Return a copy of the dataset with only the given locations.

        Args:
            indices: indices of the locations, in order.

        Returns:
            A dataset of the same class, with its own epoch.
        """
        other = super().subset(indices)
        other._epoch = shared_epoch()
        return other
