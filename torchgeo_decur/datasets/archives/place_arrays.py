"""Read the images, dates and coordinates of one location from its zarr arrays."""

import re
from typing import Any, NamedTuple

import numpy as np
import shapely

from .zarr_zip import ZarrZip

# Time units in xarray attributes, in nanoseconds.
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
    """Arrays of one location from a file with one or many locations.

    Args:
        file: reader of the file.
        row: row of the location, or an empty tuple for a file with one location.
    """

    file: ZarrZip
    row: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of dates, number of bands, height and width of the images."""
        shape = self.file.metadata('bands').shape[len(self.row) :]
        if len(shape) != 4:
            layout = '(sample, time, band, y, x)' if self.row else '(time, band, y, x)'
            raise ValueError(
                f'{self.file.name}: expected an array `bands` {layout}, found shape '
                f'{self.file.metadata("bands").shape}; restore the original file'
            )
        return shape

    @property
    def bands(self) -> list[str]:
        """Band names, or [] if the file does not store them."""
        return [str(b) for b in self.file.read('band')] if 'band' in self.file else []

    def image(self, date: int) -> np.ndarray[Any, Any]:
        """Read the image for a date.

        Args:
            date: index of the date.

        Returns:
            The stored values, shape (C, H, W).
        """
        return self.file.read('bands', *self.row, date)

    def seconds(self) -> list[int]:
        """Read the acquisition time of each date.

        Returns:
            Seconds since 1970, UTC, or 0 for products without a date.
        """
        # In files with many locations, `time` contains indices of the dates.
        name = 'time_' if self.row else 'time'
        values = np.atleast_1d(self.file.read(name, *self.row)).astype(np.int64)
        factor, origin = _unit_of(self.file.attributes(name).get('units'))
        return [(int(v) * factor + origin) // 1_000_000_000 for v in values]

    def number(self) -> int:
        """Read the number of the location from a file with many locations."""
        return int(str(self.file.read('sample', *self.row)))

    def outline(self) -> tuple[shapely.Polygon, str]:
        """Read the outline of the location.

        Returns:
            The bounding box of the pixels and its CRS.

        Raises:
            ValueError: if the file has no coordinates.
        """
        x, y = (f'{axis}_' if self.row else axis for axis in 'xy')
        if lost := [name for name in (x, y, 'crs') if name not in self.file]:
            raise ValueError(
                f'{self.file.name}: expected coordinates of the location, but the arrays '
                f'{lost} are missing; use files with coordinates, which embeddings require'
            )
        # Coordinates refer to pixel centers.
        sides = []
        for name in (x, y):
            centres = self.file.read(name, *self.row)
            half = abs(float(centres[-1] - centres[0])) / (2 * max(1, len(centres) - 1))
            sides.append((float(centres.min()) - half, float(centres.max()) + half))
        (west, east), (south, north) = sides
        code = int(self.file.read('crs', *self.row))
        return shapely.box(west, south, east, north), f'EPSG:{code}'


def _unit_of(units: str | None) -> tuple[int, int]:
    """Convert '<unit> since <date>' to the unit and the origin in nanoseconds."""
    if units is None:
        return 1, 0
    match = re.fullmatch(r'(\w+?)s? since (\S+)(?: (\S+))?.*', units)
    if match is None or match[1] not in _UNITS:
        raise ValueError(
            "expected a time unit such as 'seconds since 1970-01-01', found "
            f'{units!r}; restore the original file'
        )
    text = match[2] if match[3] is None else f'{match[2]}T{match[3]}'
    return _UNITS[match[1]], int(np.datetime64(text, 'ns').astype(np.int64))
