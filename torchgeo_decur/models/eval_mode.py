"""Evaluation mode within a context."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import nn


class _Modules(Protocol):
    def modules(self) -> Iterator[nn.Module]: ...


@contextmanager
def eval_mode(model: _Modules) -> Iterator[None]:
    """Set a model to evaluation mode within a context.

    Args:
        model: model to change. On exit, the mode of each module is restored.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with eval_mode(model):
        ...     model.training
        False
        >>> [module.training for module in model]
        [True, False]
    """
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
