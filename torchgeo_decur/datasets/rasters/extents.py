"""Project extents to another CRS so that only the required part of a raster is read."""

import math
from typing import Any

import numpy as np
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import array_bounds, from_origin
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window
from rasterio.windows import transform as window_transform
from shapely.affinity import affine_transform
from shapely.geometry.base import BaseGeometry

from .files import RasterFile

# Margin for curved projected edges, as a fraction of the longer side.
_MARGIN = 0.1
Bounds = tuple[float, float, float, float]


def project_extent(
    bounds: Bounds, source: object, target: object
) -> BaseGeometry | None:
    """Project an extent to another CRS and add a margin.

    Args:
        bounds: west, south, east and north of the extent.
        source: CRS of the extent.
        target: CRS of the result.

    Returns:
        An area that contains the extent, or None if the extent cannot be projected
        completely. If the extent crosses the antimeridian, the area has two polygons.

    Raises:
        ProjError: if there is no projection between the two CRS.
    """
    forth = Transformer.from_crs(source, target, always_xy=True)
    west, south, east, north = bounds
    side = max(east - west, north - south)
    # Also check inner points: they may be folded even if the edges can be inverted.
    grid = np.meshgrid(np.linspace(west, east, 21), np.linspace(south, north, 21))
    x, y = forth.transform(*grid)
    back = forth.transform(x, y, direction='INVERSE')
    # Infinite values also fail the comparison.
    if not all(
        (abs(b - g) < side / 100).all() for b, g in zip(back, grid, strict=True)
    ):
        return None
    degrees = Transformer.from_crs(source, 'EPSG:4326', always_xy=True)
    left, bottom, right, top = degrees.transform_bounds(*bounds)
    if left <= right:
        return _with_margin(forth.transform_bounds(*bounds))
    # Project both sides of the antimeridian separately, as most global CRSs split there.
    onward = Transformer.from_crs('EPSG:4326', target, always_xy=True)
    sides = (left, bottom, 180, top), (-180, bottom, right, top)
    return shapely.union_all([_with_margin(onward.transform_bounds(*s)) for s in sides])


def warped_grid(
    file: RasterFile, crs: CRS, extent: Bounds | None, finest: tuple[float, float]
) -> tuple[Affine, int, int] | None:
    """Choose the target grid for reading a file in another CRS.

    Args:
        file: georeferenced file.
        crs: target CRS.
        extent: extent to read in the target CRS, or None if unknown. If the file has
            another CRS and exceeds this extent, the grid covers only the extent.
        finest: maximum pixel size of a grid that covers only the extent, in units of the
            target CRS.

    Returns:
        Transform, width and height of the grid, or None if no reprojection is required.
    """
    width, height = file.size
    transform: Any = file.transform
    left, bottom, right, top = array_bounds(height, width, transform)
    west, east = sorted((left, right))
    south, north = sorted((bottom, top))
    if extent is not None and file.crs != crs:
        whole = shapely.box(west, south, east, north)
        area = project_extent(extent, crs, file.crs)
        if area is not None and area.intersects(whole) and not area.covers(whole):
            part = largest_part(area.intersection(whole))
            return _grid_of_part(file, part, crs, extent, finest)
    edges = (west, south, east, north)
    grid = calculate_default_transform(file.crs, crs, width, height, *edges)
    same = file.crs == crs and grid[1:] == file.size
    return None if same and transform.almost_equals(grid[0]) else grid


def _grid_of_part(
    file: RasterFile,
    part: BaseGeometry,
    crs: CRS,
    extent: Bounds,
    finest: tuple[float, float],
) -> tuple[Affine, int, int]:
    """Choose a grid that covers an extent and preserves the pixel size of the file."""
    transform: Any = file.transform
    # Expand to whole pixels of the file, because the extent may be smaller than a pixel.
    a, b, c, d, e, f, *_ = ~transform
    pixels = affine_transform(part, [a, b, d, e, c, f]).bounds
    left, top = map(math.floor, pixels[:2])
    right, bottom = map(math.ceil, pixels[2:])
    columns, rows = max(right - left, 1), max(bottom - top, 1)
    place = window_transform(Window(left, top, columns, rows), transform)
    bounds = array_bounds(rows, columns, place)
    grid, _, _ = calculate_default_transform(file.crs, crs, columns, rows, *bounds)
    xres, yres = min(grid.a, finest[0]), min(-grid.e, finest[1])
    west, south, east, north = extent
    # Add two pixels at each edge for interpolation.
    columns = math.ceil((east - west) / xres) + 4
    rows = math.ceil((north - south) / yres) + 4
    origin = from_origin(west - 2 * xres, north + 2 * yres, xres, yres)
    return origin, columns, rows


def _with_margin(bounds: Bounds) -> BaseGeometry:
    west, south, east, north = bounds
    margin = _MARGIN * max(east - west, north - south)
    return shapely.box(west - margin, south - margin, east + margin, north + margin)


def largest_part(shape: BaseGeometry) -> BaseGeometry:
    """Return the largest polygon of a geometry.

    Args:
        shape: polygon or multipolygon.

    Returns:
        The polygon.
    """
    parts = shapely.get_parts(shape)
    largest: BaseGeometry = parts[int(np.argmax(shapely.area(parts)))]
    return largest
