"""Guards against invalid targets, without device synchronization in each step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

# Larger magnitudes, such as -3.4e38 in float32, are placeholders for missing pixels.
_LARGEST = 1e30


class TargetGuard(ABC):
    """Guard that records and replaces invalid targets.

    The recorded targets stay on the device, because reading them would synchronize host
    and device.

    Attributes:
        filler: value that replaces invalid targets.
    """

    filler: float = 0

    def __init__(self) -> None:
        """Initialize a new TargetGuard instance."""
        self._extremes: Tensor | None = None

    def replace(self, y: Tensor) -> Tensor:
        """Record invalid targets and replace them.

        Args:
            y: targets, of any shape.

        Returns:
            The targets, all valid and of the same shape.
        """
        invalid = self.find_invalid(y)
        values = y.where(invalid, 0)
        found = torch.stack([values.amin(), values.amax()])
        if self._extremes is not None:
            before = self._extremes.to(y.device)
            found = torch.stack(
                [found[0].minimum(before[0]), found[1].maximum(before[1])]
            )
        self._extremes = found
        return y.masked_fill(invalid, self.filler)

    def check(self, key: str) -> None:
        """Raise an error if an invalid target was recorded.

        Reading the recorded targets synchronizes with the device.

        Args:
            key: key of the targets in the batch, for the error message.

        Raises:
            ValueError: if a target was invalid. The message contains the extreme values.
        """
        if self._extremes is None:
            return
        extremes, self._extremes = self._extremes.tolist(), None
        # Valid targets were recorded as 0.
        if found := sorted({x for x in extremes if x}):
            raise ValueError(f'{key} must {self.explain(found)}')

    @abstractmethod
    def find_invalid(self, y: Tensor) -> Tensor:
        """Return a Boolean mask of the invalid targets; 0 must be valid."""

    @abstractmethod
    def explain(self, found: Sequence[float]) -> str:
        """Return what targets must be, what was found and the fix."""


class LabelGuard(TargetGuard):
    """Guard against invalid labels, which would crash a GPU kernel.

    If an invalid label reached a CUDA kernel, the process could no longer use the GPU.
    Invalid labels become the first class.

    Args:
        number: number of classes.
        ignore_index: value that marks unknown targets.

    Example:
        >>> guard = LabelGuard(3, ignore_index=255)
        >>> guard.replace(torch.tensor([0, 2, 255]))
        tensor([  0,   2, 255])
        >>> guard.check('mask')
    """

    def __init__(self, number: int, ignore_index: int | None = None) -> None:
        """Initialize a new LabelGuard instance."""
        super().__init__()
        self.number = number
        self.ignore_index = ignore_index

    def find_invalid(self, y: Tensor) -> Tensor:
        """Return a mask of the labels that are neither a class nor ``ignore_index``."""
        outside = (y < 0) | (y >= self.number)
        if self.ignore_index is not None:
            outside &= y != self.ignore_index
        return outside

    def explain(self, found: Sequence[float]) -> str:
        """Return the valid labels, the extreme invalid ones and the fix."""
        index = self.ignore_index
        other = '' if index is None else f' or ignore_index {index}'
        return (
            f'have classes from 0 to {self.number - 1}{other}, got '
            f'{" and ".join(map(str, found))}; set num_classes, set ignore_index for '
            'unknown pixels and labels, or remap the labels'
        )


class NumberGuard(TargetGuard):
    """Guard against infinite or huge targets, which become NaN.

    Example:
        >>> guard = NumberGuard()
        >>> guard.replace(torch.tensor([2.0, torch.nan]))
        tensor([2., nan])
        >>> guard.check('label')
    """

    filler = torch.nan

    def find_invalid(self, y: Tensor) -> Tensor:
        """Return a mask of the targets that are infinite or huge."""
        return y.abs() > _LARGEST

    def explain(self, found: Sequence[float]) -> str:
        """Return the extreme invalid targets and the fix."""
        return (
            'contain finite numbers, or NaN where unknown, got '
            f'{" and ".join(f"{x:g}" for x in found)}; set nodata to the value of '
            'unknown targets'
        )
