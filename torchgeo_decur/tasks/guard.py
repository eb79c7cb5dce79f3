"""Stop a fit whose loss is no longer a number."""

from collections.abc import Mapping

import torch
from torch import Tensor


class FiniteGuard:
    """Remembers the first step in which a part of the loss was NaN or infinite.

    The memory stays on the device, for looking at it makes the host wait.

    Example:
        >>> guard = FiniteGuard()
        >>> guard.add({'loss': torch.tensor(1.0), 'intra_s1': torch.tensor(1.0)})
        >>> guard.check(step=0)
    """

    def __init__(self) -> None:
        """Initialize a new FiniteGuard instance."""
        self.parts: list[str] = []
        self.first: Tensor | None = None

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Look at the loss of a step, without waiting.

        Args:
            terms: the loss and its parts, scalars.
        """
        self.parts = [k for k in terms if k != 'loss']
        bad = ~torch.stack([terms[k].detach() for k in self.parts]).isfinite()
        first = self.first
        self.first = bad if first is None else torch.where(first.any(), first, bad)

    def check(self, step: int) -> None:
        """Raise if a step was bad; this waits for the device.

        Args:
            step: number of optimiser steps so far, for the message.

        Raises:
            FloatingPointError: naming the parts that were bad first.
        """
        if self.first is None or not self.first.any():
            return
        flags = zip(self.parts, self.first.tolist(), strict=True)
        raise FloatingPointError(
            f'the loss must be finite, got NaN or infinity in {[p for p, b in flags if b]} '
            f'by step {step}; lower lr or add warmup_epochs, and look at the data for NaN'
        )
