"""Read image, dates and position of one place from its zarr arrays."""

import re
from typing import Any, NamedTuple

import numpy as np
import shapely

from .zarr_zip import ZarrZip

# Units of time as in the attributes of xarray, in nanoseconds.
_UNITS = {
    'nanosecond': 1,
    'microsecond': 1_000,
    'millisecond': 1_000_000,
    'second': 1_000_000_000,
    'minute': 60_000_000_000,
    'hour': 3_600_000_000_000,
    'day': 86_400_000_000_000,
}


class PlaceArrays(NamedTuple):
    """Arrays of one place, in a file of one or of many places.

    Args:
        file: the file.
        row: number of the row of the place, or empty for a file of one place.
    """

    file: ZarrZip
    row: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Dates, bands, height and width of the images."""
        shape = self.file.metadata('bands').shape[len(self.row) :]
        if len(shape) != 4:
            layout = '(sample, time, band, y, x)' if self.row else '(time, band, y, x)'
            raise ValueError(
                f'{self.file.name}: expected an array bands {layout}, found shape '
                f'{self.file.metadata("bands").shape}; restore the original file'
            )
        return shape

    @property
    def bands(self) -> list[str]:
        """Name of each band; empty if the file has no names."""
        return [str(b) for b in self.file.read('band')] if 'band' in self.file else []

    def image(self, date: int) -> np.ndarray[Any, Any]:
        """Read the image of a date.

        Args:
            date: index of the date.

        Returns:
            The stored values, shape (C, H, W).
        """
        return self.file.read('bands', *self.row, date)

    def seconds(self) -> list[int]:
        """Read the time of each date.

        Returns:
            Seconds since 1970, UTC; 0 for products without a date.
        """
        # In files of many places, `time` has the numbers of the dates.
        name = 'time_' if self.row else 'time'
        values = np.atleast_1d(self.file.read(name, *self.row)).astype(np.int64)
        factor, origin = _unit_of(self.file.attributes(name).get('units'))
        return [(int(v) * factor + origin) // 1_000_000_000 for v in values]

    def number(self) -> int:
        """Read the number of the place, from a file of many places."""
        return int(str(self.file.read('sample', *self.row)))

    def outline(self) -> tuple[shapely.Polygon, str]:
        """Read the position of the place.

        Returns:
            The outline of its pixels, and the CRS.

        Raises:
            ValueError: if the file has no position.
        """
        x, y = (f'{axis}_' if self.row else axis for axis in 'xy')
        if lost := [name for name in (x, y, 'crs') if name not in self.file]:
            raise ValueError(
                f'{self.file.name}: expected the position of the place, found no arrays '
                f'{lost}; embeddings need positions'
            )
        # Coordinates are at the centres of the pixels.
        sides = []
        for name in (x, y):
            centres = self.file.read(name, *self.row)
            half = abs(float(centres[-1] - centres[0])) / (2 * max(1, len(centres) - 1))
            sides.append((float(centres.min()) - half, float(centres.max()) + half))
        (west, east), (south, north) = sides
        code = int(self.file.read('crs', *self.row))
        return shapely.box(west, south, east, north), f'EPSG:{code}'


def _unit_of(units: str | None) -> tuple[int, int]:
    """Return unit and origin of a time in nanoseconds, from '<unit> since <date>'."""
    if units is None:
        return 1, 0
    match = re.fullmatch(r'(\w+?)s? since (\S+)(?: (\S+))?.*', units)
    if match is None or match[1] not in _UNITS:
        raise ValueError(
            f"expected a time such as 'seconds since 1970-01-01', found {units!r}"
        )
    text = match[2] if match[3] is None else f'{match[2]}T{match[3]}'
    return _UNITS[match[1]], int(np.datetime64(text, 'ns').astype(np.int64))
