"""Extents in another CRS, so that rasters of the world are projected in part only."""

import numpy as np
import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

# A margin, as a share of the longer side: edges are curved once they are projected.
_MARGIN = 0.1
Bounds = tuple[float, float, float, float]


def project_extent(
    bounds: Bounds, source: object, target: object
) -> BaseGeometry | None:
    """Return an area of another CRS that holds an extent.

    Args:
        bounds: west, south, east and north of the extent.
        source: CRS of the extent.
        target: CRS of the area.

    Returns:
        The area, with a margin. It is of two parts where it crosses the meridian of 180
        degrees. None if parts of the extent cannot be projected.

    Raises:
        ProjError: if nothing can be projected between the two CRS.
    """
    forth = Transformer.from_crs(source, target, always_xy=True)
    west, south, east, north = bounds
    side = max(east - west, north - south)
    # The edges alone do not tell: those of the world may come back from beyond a fold.
    grid = np.meshgrid(np.linspace(west, east, 21), np.linspace(south, north, 21))
    x, y = forth.transform(*grid)
    back = forth.transform(x, y, direction='INVERSE')
    # Infinity fails the comparison too.
    if not all(
        (abs(b - g) < side / 100).all() for b, g in zip(back, grid, strict=True)
    ):
        return None
    degrees = Transformer.from_crs(source, 'EPSG:4326', always_xy=True)
    left, bottom, right, top = degrees.transform_bounds(*bounds)
    if left <= right:
        return _with_margin(forth.transform_bounds(*bounds))
    # The two sides of 180 degrees are apart in most CRS of the world.
    onward = Transformer.from_crs('EPSG:4326', target, always_xy=True)
    sides = (left, bottom, 180, top), (-180, bottom, right, top)
    return shapely.union_all([_with_margin(onward.transform_bounds(*s)) for s in sides])


def _with_margin(bounds: Bounds) -> BaseGeometry:
    west, south, east, north = bounds
    margin = _MARGIN * max(east - west, north - south)
    return shapely.box(west - margin, south - margin, east + margin, north + margin)


def largest_part(shape: BaseGeometry) -> BaseGeometry:
    """Return the part of the largest area.

    Args:
        shape: a polygon, or several.

    Returns:
        A polygon.
    """
    parts = shapely.get_parts(shape)
    largest: BaseGeometry = parts[int(np.argmax(shapely.area(parts)))]
    return largest
