"""Check modality names."""

from collections.abc import Iterable
from typing import Any

from torch import nn

# Modality names become attributes of nn.ModuleDict and must not shadow its own attributes.
# In files, the name 'encoders' marks models of this package.
_TAKEN = frozenset(dir(nn.ModuleDict())) | {'encoders'}


def check_names(names: Iterable[Any]) -> None:
    """Check that modality names can be used as submodule names.

    Args:
        names: names of the modalities.

    Raises:
        ValueError: if a name is not a string, is empty, contains a dot, or is an attribute
            of ``nn.ModuleDict``, such as 'type', 'values' or 'forward'.

    Example:
        >>> check_names(['s1', 'elevation'])
        >>> check_names(['values'])
        Traceback (most recent call last):
            ...
        ValueError: modalities must not have the name of a PyTorch attribute, got \
['values']; rename them, for example to ['values_image']
    """
    given = list(names)
    odd = [m for m in given if not isinstance(m, str) or not m or '.' in m]
    if odd:
        raise ValueError(
            'modalities must have nonempty string names without a dot, such as s1, got '
            f'{odd}; rename them'
        )
    if taken := [m for m in given if m in _TAKEN]:
        raise ValueError(
            f'modalities must not have the name of a PyTorch attribute, got {taken}; '
            f'rename them, for example to {[f"{m}_image" for m in taken]}'
        )
