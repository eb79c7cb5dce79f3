"""Split a common footprint into areas for training, validation and test."""

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

# Number of blocks of neighboring chips in the smallest area, if there are enough chips.
BLOCKS = 4


def split_by_area(
    rasters: JoinedRasters, fractions: Sequence[float], gap: float = 0.0
) -> list[BaseGeometry]:
    """Split the common footprint by area into strips from west to east.

    Args:
        rasters: joined rasters. Cuts follow pixel columns.
        fractions: fraction of the area for each strip. The fractions sum to 1.
        gap: width of the gap between two strips, in CRS units.

    Returns:
        One area per fraction. An area is empty if the gap covers it.
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
    """Assign disconnected polygons of the footprint to areas without cutting them.

    Such polygons are typically chips. Polygons that are closer to each other than the gap
    are assigned to the same area, and so are most neighbors along a Hilbert curve.

    Args:
        rasters: joined rasters.
        fractions: fraction of the footprint for each area. The fractions sum to 1.
        gap: minimum distance between polygons in different areas, in CRS units.
        uneven: whether to allow polygons larger than the smallest fraction.

    Returns:
        One area per fraction, or None if there are too few polygons or one is too large.
        Polygons that are smaller than a window are omitted.
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
    # Assign blocks from largest to smallest, and equal blocks in the order of the curve.
    for i in np.argsort(-areas.round(6), kind='stable'):
        owner[i] = np.argmin(got / fractions)
        got[owner[i]] += areas[i]
    chosen = owner[block[group]]
    shares = [parts[chosen == i].tolist() for i in range(len(fractions))]
    return [shapely.MultiPolygon(share) for share in shares] if all(shares) else None


def divide(
    rasters: JoinedRasters, shares: Mapping[str, float], widths: Mapping[str, float]
) -> dict[str, BaseGeometry]:
    """Split the common footprint into areas that have no pixels in common.

    Disconnected polygons, such as chips, are not cut, provided that none is larger than
    the smallest area. Other footprints are cut into strips.

    Args:
        rasters: joined rasters.
        shares: fraction of the footprint for each area, by name. The fractions sum to 1.
        widths: pixel width of each dataset in CRS units. The gap between areas is three
            pixels of the coarsest dataset so that interpolation does not mix areas. If an
            area is then too small for a window, the gap is narrower, and a warning names
            the affected datasets.

    Returns:
        Areas by name. If some area is too small for a window with any gap, the result has
        the largest gap.
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
                    f'areas {list(shares)} have pixels of {list(shared)} in common, '
                    f'because a gap of three pixels of {max(shared.values()):g} CRS units '
                    'would make an area smaller than a window; increase val_fraction or '
                    'test_fraction',
                    stacklevel=2,
                )
            break
    return dict(zip(shares, found or [], strict=True))


def summarize_areas(
    rasters: JoinedRasters, areas: Mapping[str, BaseGeometry]
) -> str | None:
    """Format the number of disconnected polygons in each area as a message.

    Args:
        rasters: joined rasters.
        areas: areas by name.

    Returns:
        A message, or None if the footprint is a single polygon.

    Warns:
        UserWarning: if polygons are smaller than a window.
    """
    total = len(shapely.get_parts(rasters.footprint))
    if total == 1:
        return None
    room = len(random_positions(rasters, rasters.footprint).parts)
    if not rasters.dated and room < total:
        warnings.warn(
            f'skipped {total - room} of {total} separate polygons of the '
            f'{rasters.area_name}, because a window of {rasters.patch_size} pixels does not '
            'fit; reduce patch_size to use them',
            stacklevel=2,
        )
    counts = {n: len(shapely.get_parts(area)) for n, area in areas.items()}
    text = ', '.join(f'{count} for {name}' for name, count in counts.items())
    return f'Of {total} separate polygons of the {rasters.area_name}: {text}'


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
    """Assign polygons to groups so that polygons closer than the gap have the same group."""
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
    """Assign each group to a block, which is a section of a Hilbert curve."""
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
