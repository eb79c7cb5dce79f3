"""Rasters joined by place: their common footprint, and windows into them."""

import itertools
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
from numpy.typing import NDArray
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioError
from rasterio.transform import from_origin
from shapely import Polygon
from shapely.geometry.base import BaseGeometry
from torch import Tensor
from torch.utils.data import get_worker_info
from torchgeo.datasets import GeoDataset, RasterDataset
from torchgeo.datasets.utils import GeoSlice, Sample

from ...modalities import invalid_pixels
from .extents import Bounds, largest_part, project_extent
from .folder import RasterFolder

# A window has slices of x, of y and, where dates count, of time.
Window = tuple[slice, ...]


@dataclass(frozen=True)
class JoinedRasters:
    """Co-registered rasters, and what of them makes a usable window.

    Args:
        joined: the datasets joined with ``&``; its index is the common footprint.
        leaves: the datasets by name of the modality; ``mask`` is the label raster.
        nodata: value that marks a missing pixel, or None, by the same names.
        patch_size: height and width of a window, in pixels of the first dataset.
        max_nodata: largest share of missing pixels in any modality of a window.
        num_classes: labels of the mask are below it; None for no check.
    """

    joined: GeoDataset
    leaves: Mapping[str, RasterDataset]
    nodata: Mapping[str, float | None]
    patch_size: int
    max_nodata: float
    num_classes: int | None = None

    @cached_property
    def footprint(self) -> Polygon:
        """Where all datasets have files, in the CRS of the first."""
        return self.joined.index.geometry.union_all()

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of a window, in units of the CRS."""
        xres, yres = self.joined.res
        return self.patch_size * xres, self.patch_size * yres

    def pixels(self, area: BaseGeometry) -> tuple[int, int]:
        """Width and height of the bounding box of an area, in whole pixels."""
        if area.is_empty:
            return 0, 0
        west, south, east, north = area.bounds
        xres, yres = self.joined.res
        return round((east - west) / xres), round((north - south) / yres)

    def files(self, parts: NDArray[np.object_]) -> NDArray[np.float64]:
        """Find a file of the first dataset in each part of the footprint.

        Args:
            parts: polygons within the footprint, shape (N,).

        Returns:
            Bounds of the file (west, south, east, north), shape (N, 4). Its corner is
            that of a pixel; chips need not be on one grid.
        """
        first = next(iter(self.leaves.values())).index.geometry
        tree = shapely.STRtree(first.to_numpy())
        points = shapely.point_on_surface(parts)
        found, files = tree.query(points, predicate='intersects')
        chosen = np.zeros(len(parts), dtype=np.int64)
        # Of several files the first in order, so that a mosaic has one grid.
        order = np.argsort(files)[::-1]
        chosen[found[order]] = files[order]
        return cast(NDArray[np.float64], first.bounds.to_numpy()[chosen])

    @property
    def max_outside(self) -> float:
        """Largest share of a window outside the footprint, where some files have no data.

        Without a nodata value, what is read there would pass for data.
        """
        known = [
            self.nodata[name] is not None for name in self.leaves if name != 'mask'
        ]
        return self.max_nodata if all(known) else 0.0

    @property
    def marked(self) -> list[str]:
        """Names of the modalities of which pixels may be missing."""
        images = (name for name in self.leaves if name != 'mask')
        return [name for name in images if self.nodata[name] is not None]

    def read(self, window: GeoSlice, names: Iterable[str] | None = None) -> Sample:
        """Read rasters at a window.

        Args:
            window: slices of x, y and, where files have dates, of time.
            names: names of the datasets to read; all by default.

        Returns:
            ``image_<m>`` float32 in physical units, shape (C, H, W), where what is NaN or
            infinite counts as missing, ``mask`` int64,
            shape (H, W), ``bounds`` and ``transform`` as TorchGeo has them, but float64:
            in float32 a northing in metres may be a quarter of a metre off.

        Raises:
            ValueError: if a file cannot be read, or a label is out of range.
        """
        sample: Sample = {}
        chosen = list(self.leaves if names is None else names)
        for name in chosen:
            leaf = self.leaves[name]
            if get_worker_info() is not None:
                # A handle opened before the fork would be shared with other workers.
                leaf.cache = True
            try:
                sample |= leaf[self._timed(window)]
                if name != 'mask':
                    _fill(sample, f'image_{name}', self.nodata[name])
            except (RasterioError, OSError) as error:
                x, y, *_ = cast(Window, window)
                near = leaf.index.cx[x.start : x.stop, y.start : y.stop].filepath
                raise ValueError(
                    f'{name}: cannot read {describe_window(window)} from {list(near)}: {error}'
                ) from error
        if self.num_classes is not None and 'mask' in chosen:
            self._check_labels(sample['mask'], window)
        return {**sample, **self._place(window, sample['bounds'][6:])}

    def missing(self, sample: Mapping[str, Any]) -> dict[str, float]:
        """Share of the pixels of each modality that miss some band."""
        shares = {name: 0.0 for name in self.leaves if name != 'mask'}
        for name in self.marked:
            invalid = invalid_pixels(sample[f'image_{name}'], self.nodata[name])
            if invalid is not None:
                shares[name] = invalid.any(0).float().mean().item()
        return shares

    def missing_by_patch(
        self, sample: Mapping[str, Any], rows: int, columns: int
    ) -> NDArray[np.float64]:
        """Compute the share of missing pixels of each window of a block.

        Args:
            sample: the block, as :meth:`read` returns it.
            rows: number of windows from north to south.
            columns: number of windows from west to east.

        Returns:
            The largest share of any modality, shape (rows, columns).
        """
        size = self.patch_size
        shares = torch.zeros(rows, columns, dtype=torch.double)
        for name in self.marked:
            invalid = invalid_pixels(sample[f'image_{name}'], self.nodata[name])
            if invalid is not None:
                patches = invalid.any(0).view(rows, size, columns, size)
                shares = shares.maximum(patches.double().mean((1, 3)))
        return cast(NDArray[np.float64], shares.numpy())

    def usable(self, sample: Mapping[str, Any]) -> bool:
        """Whether no modality of a sample misses more than ``max_nodata``."""
        return max(self.missing(sample).values()) <= self.max_nodata

    @property
    def dated(self) -> bool:
        """Whether files have dates, so that a window needs a time too."""
        return len(pd.unique(self.joined.index.index)) > 1

    def _timed(self, window: GeoSlice) -> GeoSlice:
        """Add the time that all files share to a window without one.

        A dataset with more dates than the others would else be read at its first.
        """
        x, y, *time = cast(Window, window)
        if not time:
            shared = self.joined.index.index[0]
            time = [slice(shared.left, shared.right)]
        return cast(GeoSlice, (x, y, *time))

    @cached_property
    def footprints(self) -> list[tuple[slice, BaseGeometry]]:
        """Each time, in order, and where all datasets have files of it."""
        times: dict[Any, list[Any]] = {}
        for time, shape in self.joined.index.geometry.items():
            times.setdefault(time, []).append(shape)
        return [
            (slice(time.left, time.right), shapely.union_all(times[time]))
            for time in sorted(times)
        ]

    def _place(self, window: GeoSlice, times: Tensor) -> Sample:
        x, y, *_ = cast(Window, window)
        xres, yres = self.joined.res
        sides = [x.start, x.stop, xres, y.start, y.stop, yres]
        transform = from_origin(x.start, y.stop, xres, yres)
        return {
            'bounds': torch.tensor([*sides, *times.tolist()], dtype=torch.float64),
            'transform': torch.tensor(list(transform), dtype=torch.float64),
        }

    def _check_labels(self, mask: Tensor, window: GeoSlice) -> None:
        missing = invalid_pixels(mask, self.nodata['mask'])
        labels = mask.flatten() if missing is None else mask[~missing]
        wrong = labels[(labels < 0) | (labels >= (self.num_classes or 0))].unique()
        if wrong.numel():
            raise ValueError(
                f'mask: labels must be in [0, {self.num_classes}) or nodata '
                f'({self.nodata["mask"]}), got {wrong[:5].tolist()} at '
                f'{describe_window(window)}; correct num_classes or nodata'
            )


def join(rasters: Mapping[str, RasterDataset]) -> tuple[GeoDataset, dict[str, float]]:
    """Join datasets where all of them have data, with TorchGeo's ``&``.

    Args:
        rasters: datasets by name. All take the CRS and the resolution of the first.

    Returns:
        The joined dataset, and the width of a pixel of each dataset, in units of the
        CRS of the first.

    Raises:
        ValueError: if a dataset cannot be projected into the CRS of the first, or
            there is no area, or no time, that all of them share.
    """
    (reference, first), *others = rasters.items()
    own = {name: leaf.index.geometry.copy() for name, leaf in rasters.items()}
    widths = {reference: first.res[0]}
    for name, leaf in others:
        try:
            _clip(leaf, first)
            if not leaf.index.empty:
                widths[name] = _pixel_width(leaf, first.crs)
            leaf.crs, leaf.res = first.crs, first.res
        except ProjError as error:
            raise ValueError(_irreconcilable(name, reference, own)) from error
        if not (leaf.index.empty or np.isfinite(leaf.index.total_bounds).all()):
            raise ValueError(_irreconcilable(name, reference, own))
    for a, b in itertools.combinations(rasters, 2):
        if not _overlap(rasters[a].index.geometry, rasters[b].index.geometry):
            place = '' if a == reference else f' within the extent of {reference}'
            raise ValueError(
                f'{a} and {b} must overlap{place}, but {a} covers {_degrees(own[a])} '
                f'and {b} covers {_degrees(own[b])}; check the paths and the CRS of '
                'the files'
            )
    joined: GeoDataset = first
    try:
        with warnings.catch_warnings():
            # TorchGeo 0.10 calls pandas in a way that pandas 3.1 deprecates.
            warnings.filterwarnings('ignore', 'The inplace keyword')
            for _, leaf in others:
                joined = joined & leaf
    except RuntimeError as error:
        raise ValueError(
            f'{list(rasters)} must have a common area and time, but TorchGeo says: '
            f'{error}. Dates come from filename_regex or from a dataset class; give '
            'the folder by paths and glob alone to disregard them'
        ) from error
    return joined, widths


def outline(window: GeoSlice) -> Polygon:
    """The rectangle of a window."""
    x, y, *_ = cast(Window, window)
    return shapely.box(x.start, y.start, x.stop, y.stop)


def describe_window(window: GeoSlice) -> str:
    """Say where a window is."""
    x, y, *_ = cast(Window, window)
    return f'x {x.start:.10g} to {x.stop:.10g}, y {y.start:.10g} to {y.stop:.10g}'


def _fill(sample: Sample, key: str, nodata: float | None) -> None:
    """Give pixels that are no number the value of those that are missing.

    Without one, they are beyond the border of a file.
    """
    image: Tensor = sample[key]
    sample[key] = image.where(image.isfinite(), 0.0 if nodata is None else nodata)


def _clip(leaf: RasterDataset, first: RasterDataset) -> None:
    """Clip the files of a dataset to the extent of the first, if their CRS differ.

    Most projections take a part of the world only. The rest of a larger file would come
    back as infinity, or lie where it is not.
    """
    if leaf.crs == first.crs:
        return
    extent: Bounds = tuple(first.index.total_bounds.tolist())
    area = project_extent(extent, first.crs, leaf.crs)
    if area is None:
        _segmentize(leaf, leaf.index.geometry.iloc[0])
        return
    clipped = leaf.index.geometry.intersection(area)
    leaf.index = leaf.index.set_geometry(clipped)[shapely.area(clipped.to_numpy()) > 0]
    _segmentize(leaf, area)
    if isinstance(leaf, RasterFolder):
        leaf.extent = extent


def _segmentize(leaf: RasterDataset, extent: BaseGeometry) -> None:
    """Add points to footprints: corners are too few to project a long edge."""
    west, south, east, north = extent.bounds
    step = max(east - west, north - south) / 32
    leaf.index = leaf.index.set_geometry(leaf.index.geometry.segmentize(step))


def _pixel_width(leaf: RasterDataset, crs: Any) -> float:
    """Compute the width of a pixel in another CRS, from the first file."""
    part = gpd.GeoSeries([largest_part(leaf.index.geometry.iloc[0])], crs=leaf.crs)
    west, _, east, _ = part.total_bounds
    left, _, right, _ = part.to_crs(crs).total_bounds
    return float((right - left) / (east - west) * leaf.res[0])


def _irreconcilable(name: str, reference: str, own: Mapping[str, Any]) -> str:
    crs, wanted = own[name].crs, own[reference].crs
    return (
        f'{name}: cannot be projected from its CRS {crs.name!r} into that of '
        f'{reference}, {wanted.name!r}; warp the files beforehand, or put a raster '
        'with a geographic CRS first'
    )


def _overlap(some: gpd.GeoSeries, others: gpd.GeoSeries) -> bool:
    """Return whether any two footprints of files share an area."""
    a, b = others.sindex.query(some.to_numpy(), predicate='intersects')
    shared = shapely.intersection(some.to_numpy()[a], others.to_numpy()[b])
    return bool(shapely.area(shared).any())


def _degrees(footprints: gpd.GeoSeries) -> str:
    west, south, east, north = footprints.to_crs(4326).total_bounds
    return f'longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f}'
