"""Divide a common footprint into areas for training, validation and test."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import cast

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from .join import JoinedRasters
from .window_positions import holds_window, random_positions

# Number of neighborhoods in the smallest area, if there are enough chips.
BLOCKS = 4


def split_by_area(
    rasters: JoinedRasters, fractions: Sequence[float], gap: float = 0.0
) -> list[BaseGeometry]:
    """Cut the common footprint into strips, from west to east, by area.

    Args:
        rasters: the joined rasters. Cuts follow columns of pixels.
        fractions: fraction of the area for each strip, with sum 1.
        gap: width of the gap between two strips, in units of the CRS.

    Returns:
        One area for each fraction, empty if the gap covers it.
    """
    footprint = rasters.footprint
    west, south, east, north = footprint.bounds
    xres = rasters.joined.res[0]
    origin = rasters.files(shapely.get_parts(footprint)[:1])[0, 0]
    edges = [west]
    for share in np.cumsum(fractions)[:-1]:
        low, high = west, east
        while high - low > xres / 8:
            middle = (low + high) / 2
            part = footprint.intersection(shapely.box(west, south, middle, north))
            if part.area < share * footprint.area:
                low = middle
            else:
                high = middle
        edges.append(origin + round(((low + high) / 2 - origin) / xres) * xres)
    free = math.ceil(gap / xres - 1e-6) * xres
    lefts = [edges[0], *(edge + free for edge in edges[1:])]
    return [
        footprint.intersection(shapely.box(left, south, right, north))
        if left < right
        else Polygon()
        for left, right in zip(lefts, [*edges[1:], east], strict=True)
    ]


def whole_parts(
    rasters: JoinedRasters,
    fractions: Sequence[float],
    gap: float = 0.0,
    uneven: bool = False,
) -> list[BaseGeometry] | None:
    """Distribute separate parts of the common footprint, such as chips, without cuts.

    Parts closer than the gap get the same area. So do most neighbors along a Hilbert
    curve.

    Args:
        rasters: the joined rasters.
        fractions: fraction of the area for each result, with sum 1.
        gap: smallest distance between parts of different results, in units of the CRS.
        uneven: whether to allow parts larger than the smallest fraction.

    Returns:
        One area for each fraction, or None if the parts are too few or too large. Parts
        without room for a window are left out.
    """
    parts = shapely.get_parts(rasters.footprint)
    if len(parts) < len(fractions):
        return None
    parts = parts[_hold_windows(rasters, parts)]
    group = _groups(parts, gap)
    sizes = np.bincount(group, weights=shapely.area(parts))
    total = sizes.sum()
    if len(sizes) < len(fractions):
        return None
    if sizes.max() > min(fractions) * total and not uneven:
        return None
    block = _blocks(parts, group, sizes, math.ceil(BLOCKS / min(fractions)))
    areas = np.bincount(block, weights=sizes) / total
    owner = np.zeros(len(areas), dtype=np.int64)
    got = np.zeros(len(fractions))
    # From the largest block to the smallest; equal ones in the order of the curve.
    for i in np.argsort(-areas.round(6), kind='stable'):
        owner[i] = np.argmin(got / fractions)
        got[owner[i]] += areas[i]
    chosen = owner[block[group]]
    shares = [parts[chosen == i].tolist() for i in range(len(fractions))]
    return [shapely.MultiPolygon(share) for share in shares] if all(shares) else None


def divide(
    rasters: JoinedRasters, shares: Mapping[str, float], widths: Mapping[str, float]
) -> dict[str, BaseGeometry]:
    """Divide the common footprint into areas that share no pixel.

    Separate parts, such as chips, are not cut if none is larger than the smallest area.
    Other footprints are cut into strips.

    Args:
        rasters: the joined rasters.
        shares: fraction of the area, by name, with sum 1.
        widths: pixel width of each dataset, in units of the CRS. The gap between areas is
            three pixels of the coarsest dataset, so that interpolation does not mix
            areas. If a window then does not fit, the gap is narrower and a warning names
            the datasets.

    Returns:
        An area by the same names. If no gap leaves room for a window in each area, the
        result has the largest gap.
    """
    xres = rasters.joined.res[0]
    fractions = list(shares.values())
    found: list[BaseGeometry] | None = None
    for width in sorted({*widths.values()}, reverse=True):
        gap = 3 * width - xres
        cut = whole_parts(rasters, fractions, gap)
        if cut is None:
            cut = split_by_area(rasters, fractions, gap)
            if not _hold_all(rasters, cut):
                cut = whole_parts(rasters, fractions, gap, uneven=True) or cut
        found = found or cut
        if _hold_all(rasters, cut):
            found = cut
            if shared := {n: w for n, w in widths.items() if w > width}:
                warnings.warn(
                    f'areas {list(shares)} share pixels of {list(shared)}, because a gap '
                    f'of three pixels of {max(shared.values()):g} CRS units leaves no '
                    'room for a window; use larger fractions',
                    stacklevel=2,
                )
            break
    return dict(zip(shares, found or [], strict=True))


def summarize_areas(
    rasters: JoinedRasters, areas: Mapping[str, BaseGeometry]
) -> str | None:
    """Count the separate parts of each area.

    Args:
        rasters: the joined rasters.
        areas: areas by name.

    Returns:
        A sentence, or None if the footprint has a single part.

    Warns:
        UserWarning: if parts have no room for a window.
    """
    total = len(shapely.get_parts(rasters.footprint))
    if total == 1:
        return None
    room = len(random_positions(rasters, rasters.footprint).parts)
    if not rasters.dated and room < total:
        warnings.warn(
            f'{total - room} of {total} separate parts of the {rasters.area_name} have no '
            f'room for a window of {rasters.patch_size} pixels and are left out; lower '
            'patch_size to use them',
            stacklevel=2,
        )
    counts = {n: len(shapely.get_parts(area)) for n, area in areas.items()}
    text = ', '.join(f'{count} for {name}' for name, count in counts.items())
    return f'Of {total} separate parts of the {rasters.area_name}: {text}'


def _hold_all(rasters: JoinedRasters, areas: Sequence[BaseGeometry]) -> bool:
    return all(holds_window(rasters, area) for area in areas)


def _hold_windows(
    rasters: JoinedRasters, parts: NDArray[np.object_]
) -> NDArray[np.bool_]:
    held = random_positions(rasters, rasters.footprint).parts
    tree = shapely.STRtree(parts)
    _, found = tree.query(shapely.point_on_surface(held), predicate='intersects')
    holds = np.zeros(len(parts), dtype=bool)
    holds[found] = True
    return holds


def _groups(parts: NDArray[np.object_], gap: float) -> NDArray[np.int64]:
    """Return the group of each part; parts closer than a gap share a group."""
    tree = shapely.STRtree(parts)
    pairs = tree.query(parts, predicate='dwithin', distance=gap * (1 - 1e-6))
    graph = coo_array((np.ones(pairs.shape[1]), pairs), shape=(len(parts), len(parts)))
    _, group = connected_components(graph, directed=False)
    return cast(NDArray[np.int64], group)


def _blocks(
    parts: NDArray[np.object_],
    group: NDArray[np.int64],
    sizes: NDArray[np.float64],
    number: int,
) -> NDArray[np.int64]:
    """Return the block of each group, a section of a Hilbert curve."""
    along = gpd.GeoSeries(parts).hilbert_distance().to_numpy().astype(np.int64)
    first = np.full(len(sizes), along.max())
    np.minimum.at(first, group, along)
    order = np.argsort(first, kind='stable')
    block = np.empty(len(sizes), dtype=np.int64)
    if len(sizes) <= number:
        block[order] = np.arange(len(sizes))
    else:
        middle = np.cumsum(sizes[order]) - sizes[order] / 2
        block[order] = np.minimum(middle / sizes.sum() * number, number - 1)
    return block
