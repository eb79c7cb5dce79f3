"""What a fit must not go on with: a loss that is no number, another model's weights."""

from collections.abc import Mapping, Sequence
from typing import Any

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


def check_same_model(
    options: Mapping[str, Any], checkpoint: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Refuse the checkpoint of another model.

    Args:
        options: hyperparameters of the task.
        checkpoint: what was read.
        names: hyperparameters that shape the model.

    Raises:
        ValueError: naming each of them that differs.

    Example:
        >>> checkpoint = {'hyper_parameters': {'projector': (8, 8)}}
        >>> check_same_model({'projector': [8, 8]}, checkpoint, ['projector'])
    """
    found = checkpoint.get('hyper_parameters', {})
    differ = [
        f'{k}: expected {_plain(options[k])}, found {_plain(found.get(k))}'
        for k in names
        if _plain(options[k]) != _plain(found.get(k))
    ]
    if differ:
        raise ValueError(f'checkpoint is of another model; {"; ".join(differ)}')


def _plain(value: Any) -> Any:
    """Make lists of tuples, so that a value equals its copy from a checkpoint."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, list | tuple) else value
