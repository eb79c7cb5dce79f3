"""Compute pixel-aligned window positions for each polygon and date of an area."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, cast

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from torchgeo.datasets.utils import GeoSlice

from .join import JoinedRasters

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Shapes = NDArray[np.object_]

# Tolerance for rounded area borders, as a fraction of a pixel.
SLACK = 0.01
ROUNDS = 1000
MANY = 64


@dataclass(frozen=True)
class Positions:
    """Regularly spaced window positions for each polygon of an area.

    Args:
        parts: polygons, shape (N,).
        times: time slice of each polygon, or an empty tuple for undated files.
        corners: southwest corner of the first window of each polygon, shape (N, 2).
        counts: number of columns and rows of windows for each polygon, shape (N, 2).
        inside: whether all positions of a polygon are valid, shape (N,).
        step: distance between windows along x and y, in CRS units.
        size: width and height of a window, in CRS units.
    """

    parts: Shapes
    times: Sequence[tuple[slice, ...]]
    corners: Floats
    counts: Integers
    inside: NDArray[np.bool_]
    step: tuple[float, float]
    size: tuple[float, float]

    @cached_property
    def ends(self) -> Integers:
        """Cumulative number of positions over the polygons."""
        return cast(Integers, np.cumsum(self.counts.prod(1)))

    def __len__(self) -> int:
        """Return the number of positions, valid or not."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def place(self, numbers: Integers) -> tuple[Integers, Floats]:
        """Return the polygon and bounds of positions.

        Args:
            numbers: indices of positions, shape (K,).

        Returns:
            Index of the polygon of each position, shape (K,), and window bounds (west,
            south, east, north), shape (K, 4).
        """
        part = np.searchsorted(self.ends, numbers, side='right')
        offset = numbers - (self.ends[part] - self.counts[part].prod(1))
        columns = self.counts[part, 0]
        steps = np.stack([offset % columns, offset // columns], axis=1)
        corner = self.corners[part] + steps * self.step
        return part, np.concatenate([corner, corner + self.size], axis=1)

    def draw(self, count: int, generator: np.random.Generator) -> list[GeoSlice]:
        """Draw random windows inside the polygons, uniformly over all positions.

        Args:
            count: number of windows.
            generator: random number generator.

        Returns:
            Slices of x, y and, for dated files, time.

        Raises:
            ValueError: if the polygons are too narrow for a window.
        """
        found: list[GeoSlice] = []
        rounds = 0
        while len(found) < count:
            numbers = generator.integers(len(self), size=max(count, MANY))
            part, bounds = self.place(numbers)
            valid = self.inside[part]
            check = ~valid
            valid[check] = shapely.covers(
                self._limits[part[check]], shapely.box(*bounds[check].T)
            )
            found += self.windows(part[valid], bounds[valid])
            rounds += 1
            if not found and rounds == ROUNDS:
                raise ValueError(
                    'windows of patch_size pixels must fit into the area, but all '
                    f'{rounds * max(count, MANY)} random windows extend beyond it; reduce '
                    'patch_size'
                )
        return found[:count]

    def windows(self, part: Integers, bounds: Floats) -> list[GeoSlice]:
        """Convert the result of :meth:`place` to slices of x, y and time."""
        return [
            cast(GeoSlice, (slice(west, east), slice(south, north), *self.times[i]))
            for i, (west, south, east, north) in zip(
                part.tolist(), bounds.tolist(), strict=True
            )
        ]

    @cached_property
    def _limits(self) -> Shapes:
        limits = _widened(self.parts, SLACK * min(self.step))
        shapely.prepare(limits[~self.inside])
        return limits


def random_positions(rasters: JoinedRasters, area: BaseGeometry) -> Positions:
    """Find all positions of windows inside the polygons of an area.

    A polygon that is slightly smaller than a window, such as a projected chip, can still
    have one window. The uncovered fraction of this window must not exceed the allowed
    nodata.

    Args:
        rasters: joined rasters.
        area: area of the windows.

    Returns:
        One position per possible corner pixel of a window. Polygons that are too small for
        a window are omitted.
    """
    parts, times = separate(rasters, area)
    step = rasters.joined.res
    size = np.array(rasters.size)
    limits = _widened(parts, SLACK * min(step))
    moved = [_moved(limits, size * (x, y)) for x in (0, 1) for y in (0, 1)]
    free = reduce(cast(Any, shapely.intersection), moved)
    fits = ~shapely.is_empty(free)
    files = rasters.files(parts)
    origins = files[:, [0, 3]]
    bounds = shapely.bounds(free)
    first = np.ceil((bounds[:, :2] - origins) / step)
    counts = np.floor((bounds[:, 2:] - origins) / step) - first + 1
    fits &= (counts >= 1).all(1)
    single, nearly = _single(rasters, area, parts, files, ~fits)
    corners = np.where(fits[:, None], origins + first * step, single)
    counts = np.where(fits[:, None], counts, 1)
    inside = nearly | _are_boxes(parts)
    return _chosen(
        parts, times, corners, counts, inside, step, rasters.size, fits | nearly
    )


def holds_window(rasters: JoinedRasters, area: BaseGeometry) -> bool:
    """Check whether at least one window from :func:`random_positions` fits into an area."""
    return len(random_positions(rasters, area)) > 0


def grid_positions(
    rasters: JoinedRasters, area: BaseGeometry, whole: bool = False
) -> Positions:
    """Place adjacent, non-overlapping windows in each polygon of an area.

    Args:
        rasters: joined rasters.
        area: area of the windows.
        whole: if True, windows cover each polygon completely and extend beyond its border.
            If False, windows lie within its bounding box, starting at the northeast
            corner; a polygon that is slightly too small has one window.

    Returns:
        The positions. ``inside`` is False for polygons that are not rectangles.
    """
    parts, times = separate(rasters, area)
    step, size = rasters.joined.res, np.array(rasters.size)
    files = rasters.files(parts)
    origins = files[:, [0, 3]]
    bounds = shapely.bounds(parts).reshape(-1, 2, 2)
    low, high = bounds[:, 0], bounds[:, 1]
    if whole:
        counts = np.ceil((high - low) / size - 1e-6)
        south_west = (low + high - counts * size) / 2
        corners = origins + np.round((south_west - origins) / step) * step
    else:
        last = np.floor((high - origins) / step + 1e-6)
        first = np.ceil((low - origins) / step - 1e-6)
        counts = (last - first) // rasters.patch_size
        south_west = origins + last * step - counts * size
        small = (counts < 1).any(1)
        single, nearly = _single(rasters, area, parts, files, small)
        corners = np.where(nearly[:, None], single, south_west)
        counts = np.where(nearly[:, None], 1, counts)
    inside = _are_boxes(parts) & (counts * size <= high - low + 1e-6 * size).all(1)
    return _chosen(
        parts,
        times,
        corners,
        counts,
        inside,
        (float(size[0]), float(size[1])),
        rasters.size,
        (counts >= 1).all(1),
    )


def separate(
    rasters: JoinedRasters, area: BaseGeometry
) -> tuple[Shapes, list[tuple[slice, ...]]]:
    """Split an area into polygons by date.

    Args:
        rasters: joined rasters.
        area: polygon or multipolygon.

    Returns:
        Polygons that the files of each date cover, and the time slice of each polygon, or
        an empty tuple for undated files.
    """
    parts = shapely.get_parts(area)
    parts = parts[shapely.get_type_id(parts) == 3]
    if not rasters.dated:
        return parts, [()] * len(parts)
    tree = shapely.STRtree(parts)
    shapes: list[Any] = []
    times: list[tuple[slice, ...]] = []
    for time, footprint in rasters.footprints:
        near = parts[np.sort(tree.query(footprint, predicate='intersects'))]
        found = shapely.get_parts(shapely.intersection(near, footprint))
        found = found[shapely.get_type_id(found) == 3]
        shapes += found.tolist()
        times += [(time,)] * len(found)
    return np.array(shapes, dtype=object), times


def clear_of_others(
    rasters: JoinedRasters, area: BaseGeometry, boxes: Shapes
) -> NDArray[np.bool_]:
    """Compute a mask of the windows that do not overlap the footprint outside an area.

    Args:
        rasters: joined rasters.
        area: part of the footprint of the rasters.
        boxes: outlines of the windows, shape (N,).

    Returns:
        Boolean array, shape (N,).
    """
    clear = np.ones(len(boxes), dtype=bool)
    others = rasters.footprint.difference(area) if len(boxes) else area
    if not len(boxes) or others.is_empty:
        return clear
    tree = shapely.STRtree(shapely.get_parts(others))
    smaller = shapely.buffer(boxes, -min(rasters.joined.res) / 4, join_style='mitre')
    touched, _ = tree.query(smaller, predicate='intersects')
    clear[touched] = False
    return clear


def _single(
    rasters: JoinedRasters,
    area: BaseGeometry,
    parts: Shapes,
    files: Floats,
    small: NDArray[np.bool_],
) -> tuple[Floats, NDArray[np.bool_]]:
    """Place one window at the center of each small polygon within its file.

    Returns:
        Southwest corners, shape (N, 2), and a mask of the windows that are sufficiently
        inside their polygons, shape (N,).
    """
    step, size = rasters.joined.res, np.array(rasters.size)
    origins = files[:, [0, 3]]
    middle = shapely.bounds(parts).reshape(-1, 2, 2).mean(1)
    corners = origins + np.round((middle - size / 2 - origins) / step) * step
    corners = np.clip(corners, files[:, :2], files[:, 2:] - size)
    within = files[:, 2:] - files[:, :2] >= size - SLACK * min(step)
    chosen = np.flatnonzero(small & within.all(1))
    boxes = shapely.box(*corners[chosen].T, *(corners[chosen] + size).T)
    filled = shapely.area(shapely.intersection(parts[chosen], boxes)) / size.prod()
    enough = filled >= 1 - rasters.max_outside - 1e-6
    nearly = np.zeros(len(parts), dtype=bool)
    nearly[chosen] = enough & clear_of_others(rasters, area, boxes)
    return corners, nearly


def _chosen(
    parts: Shapes,
    times: Sequence[tuple[slice, ...]],
    corners: Floats,
    counts: Floats,
    inside: NDArray[np.bool_],
    step: tuple[float, float],
    size: tuple[float, float],
    chosen: NDArray[np.bool_],
) -> Positions:
    kept = np.flatnonzero(chosen)
    return Positions(
        parts[kept],
        [times[i] for i in kept.tolist()],
        corners[kept],
        counts[kept].astype(np.int64),
        inside[kept],
        step,
        size,
    )


def _widened(parts: Shapes, distance: float) -> Shapes:
    return cast(Shapes, shapely.buffer(parts, distance, join_style='mitre'))


def _moved(parts: Shapes, distance: Any) -> Shapes:
    return cast(Shapes, shapely.transform(parts, lambda points: points - distance))


def _are_boxes(parts: Shapes) -> NDArray[np.bool_]:
    boxes = shapely.box(*shapely.bounds(parts).T)
    return cast(
        NDArray[np.bool_], shapely.area(parts) >= (1 - 1e-9) * shapely.area(boxes)
    )
