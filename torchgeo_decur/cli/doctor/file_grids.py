"""Read the pixel grid of a georeferenced file."""

import warnings
from dataclasses import dataclass
from math import cos, radians
from pathlib import Path

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

# Length of one degree of latitude in meters.
_DEGREE = 111_320.0


@dataclass(frozen=True)
class Grid:
    """Pixel grid of a georeferenced file.

    Args:
        crs: coordinate reference system, such as 'EPSG:32632'.
        bounds: west, south, east and north, rounded.
        width: pixel width in units of the CRS.
        unit: unit of the CRS, such as 'degree' or 'metre'.
        metres: pixel width in meters, or None if unknown.
        shape: height and width in pixels.
    """

    crs: str
    bounds: tuple[float, ...]
    width: float
    unit: str
    metres: float | None
    shape: tuple[int, ...]


def read_grid(path: Path | str) -> Grid | None:
    """Read the pixel grid of a file.

    Args:
        path: path of the file.

    Returns:
        The grid, or None if the file is not georeferenced or cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                crs, bounds, width = file.crs, file.bounds, file.res[0]
                shape = file.shape
    except RasterioError:
        return None
    if crs is None:
        return None
    metres: float | None = None
    if crs.is_projected:
        metres = width * crs.linear_units_factor[1]
    elif crs.is_geographic:
        metres = width * _DEGREE * cos(radians((bounds.bottom + bounds.top) / 2))
    unit = 'degree' if crs.is_geographic else crs.linear_units
    digits = 7 if crs.is_geographic else 2
    rounded = tuple(round(x, digits) for x in bounds)
    return Grid(crs.to_string(), rounded, float(width), unit, metres, shape)
