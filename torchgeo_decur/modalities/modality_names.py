"""Check the names of modalities."""

from collections.abc import Iterable
from typing import Any

from torch import nn

# Modalities are attributes of module dictionaries, which must not hide PyTorch's own. The
# name 'encoders' marks models of this package in files.
_TAKEN = frozenset(dir(nn.ModuleDict())) | {'encoders'}


def check_names(names: Iterable[Any]) -> None:
    """Check that a model can store the names of modalities.

    Args:
        names: the names.

    Raises:
        ValueError: if a name is not a string, is empty, has a dot, or is an attribute in
            PyTorch, such as 'type', 'values' or 'forward'.

    Example:
        >>> check_names(['s1', 'elevation'])
        >>> check_names(['values'])
        Traceback (most recent call last):
            ...
        ValueError: modalities must not have names that PyTorch uses itself, got \
['values']; rename them, for example to ['values_image']
    """
    given = list(names)
    odd = [m for m in given if not isinstance(m, str) or not m or '.' in m]
    if odd:
        raise ValueError(
            f'modalities must have names without a dot, such as s1, got {odd}; rename '
            'them'
        )
    if taken := [m for m in given if m in _TAKEN]:
        raise ValueError(
            f'modalities must not have names that PyTorch uses itself, got {taken}; '
            f'rename them, for example to {[f"{m}_image" for m in taken]}'
        )
