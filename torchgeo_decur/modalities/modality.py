"""Metadata of a modality, and predefined modalities."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from torch import Tensor

Kind = Literal['sar', 'multispectral', 'rgb', 'elevation', 'depth', 'embedding']


#: Half the range of an embedding that is scaled to [0, 1], in standard deviations.
EMBEDDING_WIDTH = 4
# Synonyms of known units.
_UNITS = {
    **dict.fromkeys(('db', 'decibel', 'decibels'), 'dB'),
    **dict.fromkeys(('dn', 'digital number', 'digital numbers'), 'DN'),
    **dict.fromkeys(('uint8', 'byte', 'bytes'), 'uint8'),
    **dict.fromkeys(('meter', 'meters', 'metre', 'metres'), 'm'),
}


@dataclass(frozen=True)
class Modality:
    """Bands of one sensor, with their unit and statistics.

    Args:
        bands: name of each band, in channel order.
        kind: 'sar', 'multispectral', 'rgb', 'elevation', 'depth' or 'embedding'.
        unit: unit of the values: 'dB' (backscatter), 'DN' (reflectance times 10,000),
            'uint8' (0 to 255), 'm', or any other name. Case is ignored, and synonyms such
            as 'decibel', 'byte' and 'metre' are accepted.
        mean: mean of each band in ``unit``, or None.
        std: standard deviation of each band in ``unit``, or None.
        nodata: value that marks missing pixels, possibly NaN, or None.
        wavelengths: central wavelength of each band in nanometers, or None.

    Raises:
        ValueError: if ``bands`` is empty or repeats a name, ``kind`` is unknown, or only
            one of ``mean`` and ``std`` is set. The error is also raised if one of
            ``mean``, ``std`` and ``wavelengths`` does not have one value per band. Values
            of ``std`` and ``wavelengths`` must be positive.

    Example:
        >>> Modality(bands=('VV', 'VH'), kind='sar', unit='dB').channels
        2
        >>> Modality.of({'bands': ['height'], 'kind': 'elevation', 'unit': 'm'}).bands
        ('height',)
    """

    bands: tuple[str, ...]
    kind: Kind
    unit: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    nodata: float | None = None
    wavelengths: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Normalize the unit and check the fields."""
        unit = str(self.unit)
        object.__setattr__(self, 'unit', _UNITS.get(unit.strip().casefold(), unit))
        bands: Any = self.bands
        if isinstance(bands, str) or not bands or len(set(bands)) != len(bands):
            raise ValueError(
                f'bands must be a list of one or more different names, got {bands!r}'
            )
        if self.kind not in get_args(Kind):
            raise ValueError(f'kind must be one of {get_args(Kind)}, got {self.kind!r}')
        if (self.mean is None) != (self.std is None):
            raise ValueError('mean and std must be set together, got only one')
        for name in ('mean', 'std', 'wavelengths'):
            values = getattr(self, name)
            if values is not None and len(values) != self.channels:
                raise ValueError(
                    f'{name} must have one value per band {list(self.bands)}, '
                    f'got {len(values)}'
                )
        for name in ('std', 'wavelengths'):
            values = getattr(self, name)
            if values is not None and min(values) <= 0:
                raise ValueError(f'{name} must be positive, got {list(values)}')

    def __eq__(self, other: object) -> bool:
        """Check whether all fields are equal, where NaN equals NaN."""
        if not isinstance(other, Modality):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        """Return a hash that is equal for equal modalities."""
        return hash(self._key())

    @property
    def channels(self) -> int:
        """Number of bands."""
        return len(self.bands)

    @property
    def limits(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Lower and upper limit of each band, which are scaled to 0 and 1.

        The limits are mean - 2 std and mean + 2 std, or mean - 4 std and mean + 4 std for
        embeddings. Without statistics, they are 0 and 255 for ``uint8`` and otherwise None.
        Elevation and depth are then scaled with the percentiles of each patch.
        """
        if self.mean is not None and self.std is not None:
            width = EMBEDDING_WIDTH if self.kind == 'embedding' else 2
            pairs = list(zip(self.mean, self.std, strict=True))
            return tuple(m - width * s for m, s in pairs), tuple(
                m + width * s for m, s in pairs
            )
        if self.unit == 'uint8':
            return (0.0,) * self.channels, (255.0,) * self.channels
        return None

    def to_dict(self) -> dict[str, Any]:
        """Convert the fields and ``limits`` to JSON-compatible values.

        Returns:
            Numbers, strings and lists by name. A ``nodata`` value of NaN or infinity is a
            string, because JSON supports neither.

        Example:
            >>> Modality(('height',), 'elevation', 'm', nodata=math.nan).to_dict()['nodata']
            'nan'
        """
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}
        if self.nodata is not None and not math.isfinite(self.nodata):
            plain['nodata'] = str(self.nodata)
        limits = self.limits
        plain['limits'] = [list(values) for values in limits] if limits else None
        return plain

    @classmethod
    def of(cls, value: 'Modality | str | Mapping[str, Any]') -> Self:
        """Create a modality from a name, a dictionary or a modality.

        Args:
            value: a :class:`Modality`, the name of a predefined modality, or a dictionary
                of fields, as in a YAML file or from :meth:`to_dict`. ``limits`` is ignored.

        Raises:
            ValueError: if the name or a field is unknown, or if ``bands``, ``kind`` or
                ``unit`` is absent.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            if value not in MODALITIES:
                raise ValueError(
                    f'modality must be one of {sorted(MODALITIES)} or a dictionary '
                    f'with bands, kind and unit, got {value!r}'
                )
            value = MODALITIES[value]
            return cls(**{f.name: getattr(value, f.name) for f in fields(value)})
        if not isinstance(value, Mapping):
            raise ValueError(
                f'modality must be a name or a dictionary, got {type(value).__name__}'
            )
        value = {k: v for k, v in value.items() if k != 'limits'}
        names = [f.name for f in fields(cls)]
        unknown = sorted(set(value) - set(names))
        missing = [n for n in ('bands', 'kind', 'unit') if n not in value]
        if unknown or missing:
            raise ValueError(
                'modality must be a dictionary with bands, kind and unit (optionally mean, '
                f'std, nodata and wavelengths), got unknown {unknown}, missing {missing}'
            )
        lists = {
            k: tuple(v)
            for k, v in value.items()
            if isinstance(v, Sequence | Tensor) and not isinstance(v, str)
        }
        if isinstance(value.get('nodata'), str):
            value['nodata'] = _number(value['nodata'])
        return cls(**{**value, **lists})

    def _key(self) -> tuple[Any, ...]:
        values = (getattr(self, f.name) for f in fields(self))
        # NaN is not equal to itself.
        return tuple('nan' if v != v else v for v in values)


def _number(nodata: str) -> float:
    try:
        return float(nodata)
    except ValueError:
        raise ValueError(f'nodata must be a number, got {nodata!r}') from None


# Mean and standard deviation used by the published weights, also for L2A, and central
# wavelength in nm (ESA, Sentinel-2 User Handbook, 2015).
_SENTINEL2 = {
    'B1': (1612.9, 791.0, 443),
    'B2': (1397.6, 854.3, 490),
    'B3': (1322.3, 878.7, 560),
    'B4': (1373.1, 1144.9, 665),
    'B5': (1561.0, 1127.5, 705),
    'B6': (2108.4, 1164.2, 740),
    'B7': (2390.7, 1276.0, 783),
    'B8': (2318.7, 1249.5, 842),
    'B8A': (2581.0, 1345.9, 865),
    'B9': (837.7, 577.5, 945),
    'B10': (22.0, 47.5, 1375),
    'B11': (2195.2, 1340.0, 1610),
    'B12': (1537.4, 1142.9, 2190),
}


def _sentinel2(*without: str) -> Modality:
    statistics = {b: s for b, s in _SENTINEL2.items() if b not in without}
    mean, std, nm = zip(*statistics.values(), strict=True)
    bands = tuple(statistics)
    return Modality(bands, 'multispectral', 'DN', mean, std, wavelengths=nm)


MODALITIES: dict[str, Modality] = {
    'sentinel1_grd': Modality(
        bands=('VV', 'VH'),
        kind='sar',
        unit='dB',
        mean=(-12.59, -20.26),
        std=(5.26, 5.91),
        # C band, 5.405 GHz.
        wavelengths=(55.466e6, 55.466e6),
    ),
    'sentinel2_l1c': _sentinel2(),
    'sentinel2_l2a': _sentinel2('B10'),
    'geonrw_rgb': Modality(bands=('R', 'G', 'B'), kind='rgb', unit='uint8'),
    'geonrw_dem': Modality(bands=('elevation',), kind='elevation', unit='m'),
    'sunrgbd_rgb': Modality(bands=('R', 'G', 'B'), kind='rgb', unit='uint8'),
    'sunrgbd_hha': Modality(
        bands=('disparity', 'height', 'angle'), kind='depth', unit='uint8'
    ),
    'sunrgbd_depth': Modality(bands=('depth',), kind='depth', unit='m', nodata=0.0),
}
"""Predefined modalities by name, with the statistics of the published weights."""
