"""Which names modalities may have."""

from collections.abc import Iterable
from typing import Any

from torch import nn

# A modality has a part of its own in dictionaries of modules. Their keys are attributes,
# which must not hide those that PyTorch has; layouts of files find ours by 'encoders'.
_TAKEN = frozenset(dir(nn.ModuleDict())) | {'encoders'}


def check_names(names: Iterable[Any]) -> None:
    """Refuse names of modalities that a model cannot store.

    Args:
        names: the names.

    Raises:
        ValueError: if a name is no text, empty, has a dot, or is one of PyTorch's, such
            as 'type', 'values' or 'forward'.

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
