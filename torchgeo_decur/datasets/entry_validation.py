"""Validate the types and keys of config entries and create modalities from them."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..modalities import Modality


def typed(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Check the types of the values in an entry.

    YAML parses ``nan`` and ``1e-3`` as strings. This function converts them to numbers.

    Args:
        name: name of the modality, or ``mask``.
        entry: values by key. Values of unknown keys are not changed.

    Returns:
        The entry, with strings converted to numbers where numbers are expected.

    Raises:
        ValueError: if a value has the wrong type. The message names the key.

    Example:
        >>> typed('dem', {'paths': 'heights', 'nodata': 'nan'})
        {'paths': 'heights', 'nodata': nan}
    """
    if not isinstance(entry, Mapping):
        raise ValueError(
            f'{name}: the entry must be a mapping of keys to values, got {entry!r}'
        )
    found = {}
    for key, value in entry.items():
        convert, expected = _TYPES.get(key, (None, ''))
        try:
            found[key] = value if convert is None or value is None else convert(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'{name}: {key} must be {expected}, got {value!r}'
            ) from error
    if name == 'mask' and isinstance(found.get('nodata'), list):
        raise ValueError(f'mask: nodata must be a single number, got {found["nodata"]}')
    return found


def check_keys(
    name: str, entry: Mapping[str, Any], known: Sequence[str], kind: str = ''
) -> None:
    """Check that an entry has only known keys.

    Args:
        name: name of the modality, or ``mask``.
        entry: values by key.
        known: allowed keys.
        kind: description of the entry type, appended to the allowed keys in the message.

    Raises:
        ValueError: if a key is unknown.
    """
    if unknown := sorted(set(entry) - set(known)):
        raise ValueError(
            f'{name}: keys must be among {list(known)}{kind}, got {unknown}'
        )


def record_of(name: str, fields: Mapping[str, Any]) -> Modality:
    """Create the modality of an entry and name the modality in error messages.

    Args:
        name: name of the modality.
        fields: fields of the modality. By default, its kind is 'multispectral' and its
            unit is 'native'.

    Returns:
        The modality.

    Raises:
        ValueError: if a field is invalid.
    """
    try:
        return Modality.of({'kind': 'multispectral', 'unit': 'native', **fields})
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    number = float(value)
    # Keep integers, which may be exact values of an integer raster.
    return value if isinstance(value, int) else number


def _factors(value: Any) -> float | list[float]:
    found = _number_or_several(value)
    if not all(abs(n) > 0 for n in (found if isinstance(found, list) else [found])):
        raise ValueError
    return found


def _number_or_several(value: Any) -> float | list[float]:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return _numbers(value) if several else _number(value)


def _numbers(value: Any) -> list[float]:
    return [_number(v) for v in _sequence(value)]


def _sequence(value: Any) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    number = _number(value)
    if number < 1 or number != int(number):
        raise ValueError
    return int(number)


def _size(value: Any) -> list[int]:
    height, width = map(_whole, _sequence(value))
    return [height, width]


def _length(value: Any) -> float:
    number = _number(value)
    if not number > 0:
        raise ValueError
    return number


def _classes(value: Any) -> dict[int, int]:
    numbers = [(_number(k), _number(v)) for k, v in _mapping(value).items()]
    if any(n != int(n) for pair in numbers for n in pair):
        raise ValueError
    return {int(k): int(v) for k, v in numbers}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _names(value: Any) -> list[str]:
    return [_text(v) for v in _sequence(value)]


def _paths(value: Any) -> Any:
    several = [value] if isinstance(value, str | os.PathLike) else _sequence(value)
    if not all(isinstance(path, str | os.PathLike) for path in several):
        raise TypeError
    return value


def _mapping(value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError
    return value


_ONE_EACH = 'a list with one number per band, such as [1.0, 2.0]'
_TYPES: dict[str, tuple[Callable[[Any], Any], str]] = {
    'paths': (_paths, 'a folder, or a list of folders and files'),
    'bands': (_names, 'a list of band names'),
    'mean': (_numbers, _ONE_EACH),
    'std': (_numbers, _ONE_EACH),
    'nodata': (_number_or_several, 'a number (.nan for NaN)'),
    'scale': (_factors, 'a nonzero number, or one per band'),
    'offset': (_number_or_several, 'a number, or one per band'),
    'num_classes': (_whole, 'a positive integer'),
    'size': (_size, 'a positive height and width in pixels, such as [20, 20]'),
    'res': (_length, 'a positive pixel size, such as 0.5'),
    'init_args': (_mapping, 'a dictionary of arguments'),
    'numbers': (_flag, 'true or false'),
    'values': (_classes, 'a dictionary that maps file values to classes'),
} | dict.fromkeys(
    (
        *('dataset', 'date_format', 'filename_regex', 'glob'),
        *('kind', 'pattern', 'resampling', 'unit'),
    ),
    (_text, 'a string'),
)
