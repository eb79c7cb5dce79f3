"""Convert file values to the unit of a modality."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from .modality import Modality

_KEYS = ('scale', 'offset', 'nodata')


@dataclass(frozen=True)
class Conversion:
    """Linear conversion of file values to the unit of a modality.

    The converted value is ``scale`` times the file value, plus ``offset``. Missing pixels
    become NaN.

    Args:
        scale: factor for each band, or one factor for all bands.
        offset: offset for each band, or one offset for all bands, in the unit
            of the modality.
        nodata: file values that mark missing pixels.

    Example:
        >>> convert = Conversion(offset=(-1000.0,), nodata=(0.0,))
        >>> convert(torch.tensor([0.0, 1200.0]).reshape(1, 1, 2)).flatten().tolist()
        [nan, 200.0]
    """

    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    nodata: tuple[float, ...] = ()

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any], bands: Sequence[str]) -> Self:
        """Create a conversion from a config entry.

        Args:
            name: name of the modality, for messages.
            entry: ``scale`` and ``offset``, each with one number or one number per band,
                and ``nodata``, with one or more numbers. Other keys are ignored.
            bands: names of the bands.

        Raises:
            ValueError: if a value is not a number, a scale is 0, or the number of values
                differs from the number of bands.
        """
        found = {
            key: _numbers(name, key, entry[key])
            for key in _KEYS
            if entry.get(key) is not None
        }
        for key in ('scale', 'offset'):
            values = found.get(key, (1.0,))
            if len(values) not in (1, len(bands)):
                raise ValueError(
                    f'{name}: {key} must be one number or one number per band '
                    f'{list(bands)}, got {len(values)} numbers'
                )
            if not all(map(math.isfinite, values)) or (key == 'scale' and 0 in values):
                raise ValueError(
                    f'{name}: {key} must be finite'
                    f'{" and not 0" if key == "scale" else ""}, got {list(values)}'
                )
        return cls(**found)

    @property
    def changes(self) -> bool:
        """True if the conversion changes valid pixels."""
        return set(self.scale) != {1.0} or set(self.offset) != {0.0}

    def record(self, modality: Modality) -> Modality:
        """Return the metadata after conversion, with NaN as nodata if it marks missing pixels."""
        return replace(modality, nodata=math.nan) if self.nodata else modality

    def __call__(self, image: Tensor) -> Tensor:
        """Convert an image.

        Args:
            image: file values, shape (..., C, H, W).

        Returns:
            Floating-point values in the unit of the modality, same shape. Missing pixels
            are NaN.
        """
        values = image if image.is_floating_point() else image.float()
        out = values
        if set(self.scale) != {1.0}:
            out = out * _of_bands(self.scale, values)
        if set(self.offset) != {0.0}:
            out = out + _of_bands(self.offset, values)
        for number in self.nodata:
            missing = values.isnan() if math.isnan(number) else values == number
            out = out.masked_fill(missing, torch.nan)
        return out


def conversions(
    modalities: Mapping[str, Modality], entries: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Conversion]:
    """Create the conversions of a dataset from config entries.

    Args:
        modalities: metadata of each modality.
        entries: ``scale``, ``offset`` and ``nodata`` by modality. Modalities without an
            entry need no conversion.

    Returns:
        Conversions by modality, only for modalities with an entry.

    Raises:
        ValueError: if a modality or key is unknown, or a value is invalid.

    Example:
        >>> from torchgeo_decur.modalities import MODALITIES
        >>> known = {'s2': MODALITIES['sentinel2_l1c']}
        >>> conversions(known, {'s2': {'offset': -1000}})['s2'].offset
        (-1000.0,)
    """
    entries = entries or {}
    if unknown := [m for m in entries if m not in modalities]:
        raise ValueError(
            f'modalities of conversion must be among {list(modalities)}, got {unknown}'
        )
    for name, entry in entries.items():
        if not isinstance(entry, Mapping) or set(entry) - set(_KEYS):
            raise ValueError(
                f'{name}: conversion must only have the keys {list(_KEYS)}, got {entry!r}'
            )
    return {
        name: Conversion.of(name, entry, modalities[name].bands)
        for name, entry in entries.items()
    }


def converted(
    modalities: Mapping[str, Modality | str],
    entries: Mapping[str, Mapping[str, Any]] | None,
) -> dict[str, Modality]:
    """Return the modality metadata of a dataset after conversion.

    Args:
        modalities: metadata or predefined name of each modality.
        entries: config entries, as for :func:`conversions`.

    Returns:
        Metadata by modality. If the entry of a modality has ``nodata``, NaN is the nodata
        value in its metadata.
    """
    records = {m: Modality.of(value) for m, value in modalities.items()}
    found = conversions(records, entries)
    return {m: found[m].record(r) if m in found else r for m, r in records.items()}


def _numbers(name: str, key: str, value: Any) -> tuple[float, ...]:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    listed: Sequence[Any] = value if several else [value]
    try:
        if not listed or any(isinstance(v, bool) for v in listed):
            raise TypeError
        # YAML parses nan and 1e-3 as strings.
        return tuple(float(v) for v in listed)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{name}: {key} must be a number or a list of numbers, got {value!r}'
        ) from error


def _of_bands(numbers: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)
