"""Rasters joined by place: their common footprint, its strips, windows into them."""

import copy
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
from pyproj.exceptions import ProjError
from rasterio.errors import RasterioError
from rasterio.transform import from_origin
from shapely import Polygon
from torch import Tensor
from torch.utils.data import get_worker_info
from torchgeo.datasets import GeoDataset, RasterDataset
from torchgeo.datasets.utils import GeoSlice, Sample

from ..modalities import invalid_pixels

# A window has slices of x, of y and, where dates count, of time.
Window = tuple[slice, ...]


@dataclass(frozen=True)
class JoinedRasters:
    """Co-registered rasters, and what of them makes a usable window.

    Args:
        joined: the datasets joined with ``&``; its index is the common footprint.
        leaves: the datasets by name of the modality; ``mask`` is the label raster.
        nodata: value that marks a missing pixel, or None, by the same names.
        origin: a corner of a pixel of the first dataset (x, y), in units of the CRS.
        patch_size: height and width of a window, in pixels of the first dataset.
        max_nodata: largest share of missing pixels in any modality of a window.
        num_classes: labels of the mask are below it; None for no check.
    """

    joined: GeoDataset
    leaves: Mapping[str, RasterDataset]
    nodata: Mapping[str, float | None]
    origin: tuple[float, float]
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

    def pixels(self, area: Polygon) -> tuple[int, int]:
        """Width and height of the bounding box of an area, in whole pixels."""
        west, south, east, north = area.bounds
        xres, yres = self.joined.res
        return round((east - west) / xres), round((north - south) / yres)

    def snap(self, x: float, y: float) -> tuple[float, float]:
        """Move a point to the nearest corner of a pixel of the first dataset."""
        (x0, y0), (xres, yres) = self.origin, self.joined.res
        return x0 + round((x - x0) / xres) * xres, y0 + round((y - y0) / yres) * yres

    def read(self, window: GeoSlice) -> Sample:
        """Read all rasters at a window.

        Args:
            window: slices of x, y and, where files have dates, of time.

        Returns:
            ``image_<m>`` float32 in physical units, shape (C, H, W), where what is NaN or
            infinite counts as missing, ``mask`` int64,
            shape (H, W), ``bounds`` and ``transform`` as TorchGeo has them, but float64:
            in float32 a northing in metres may be a quarter of a metre off.

        Raises:
            ValueError: if a file cannot be read, or a label is out of range.
        """
        sample: Sample = {}
        for name, leaf in self.leaves.items():
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
                    f'{name}: cannot read {describe(window)} from {list(near)}: {error}'
                ) from error
        if self.num_classes is not None:
            self._check_labels(sample['mask'], window)
        return {**sample, **self._place(window, sample['bounds'][6:])}

    def missing(self, sample: Mapping[str, Any]) -> dict[str, float]:
        """Share of the pixels of each modality that miss some band."""
        shares = {}
        for name in self.leaves:
            if name != 'mask':
                invalid = invalid_pixels(sample[f'image_{name}'], self.nodata[name])
                share = 0.0 if invalid is None else invalid.any(0).float().mean().item()
                shares[name] = share
        return shares

    def usable(self, sample: Mapping[str, Any]) -> bool:
        """Whether no modality of a sample misses more than ``max_nodata``."""
        return max(self.missing(sample).values()) <= self.max_nodata

    def stand_in(self, area: Polygon) -> GeoDataset:
        """The joined dataset with the bounding box of an area, on the grid of pixels.

        TorchGeo's samplers count pixels from the corner of the index, which is not on
        the grid where another raster cuts the footprint.
        """
        west, south, east, north = area.bounds
        (x0, y0), (xres, yres) = self.origin, self.joined.res
        west = x0 + math.floor((west - x0) / xres + 1e-6) * xres
        south = y0 + math.floor((south - y0) / yres + 1e-6) * yres
        whole = self.joined.index.index
        times = pd.IntervalIndex([whole[0]], closed='both', name='datetime')
        view = copy.copy(self.joined)
        box = shapely.box(west, south, east, north)
        view.index = gpd.GeoDataFrame(index=times, geometry=[box], crs=self.joined.crs)
        return view

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
                f'{describe(window)}; correct num_classes or nodata'
            )


def join(rasters: Mapping[str, RasterDataset]) -> tuple[GeoDataset, float]:
    """Join datasets where all of them have data, with TorchGeo's ``&``.

    Args:
        rasters: datasets by name. All take the CRS and the resolution of the first.

    Returns:
        The joined dataset, and the largest width of a pixel of any dataset, in units
        of the CRS of the first.

    Raises:
        ValueError: if a dataset cannot be projected into the CRS of the first, or
            there is no area, or no time, that all of them share.
    """
    (reference, first), *others = rasters.items()
    columns = {n: _width(leaf) / leaf.res[0] for n, leaf in rasters.items()}
    for name, leaf in others:
        try:
            leaf.crs, leaf.res = first.crs, first.res
        except ProjError as error:
            raise ValueError(_irreconcilable(name, leaf, reference, first)) from error
        if not np.isfinite(leaf.index.total_bounds).all():
            raise ValueError(_irreconcilable(name, leaf, reference, first))
    shapes = {name: leaf.index.geometry.union_all() for name, leaf in rasters.items()}
    for a, b in itertools.combinations(shapes, 2):
        if shapes[a].intersection(shapes[b]).area == 0:
            boxes = {n: _degrees(shapes[n], first.crs) for n in (a, b)}
            raise ValueError(
                f'{a} and {b} must overlap, but {a} covers {boxes[a]} and {b} covers '
                f'{boxes[b]}; check the paths and the CRS of the files'
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
    return joined, max(_width(leaf) / columns[n] for n, leaf in rasters.items())


def strips(
    rasters: JoinedRasters, fractions: Sequence[float], gap: float = 0.0
) -> list[Polygon]:
    """Cut the common footprint into strips, from west to east, by area.

    Args:
        rasters: whose footprint to cut, along its columns of pixels.
        fractions: share of the area of each strip; they add up to 1.
        gap: width left free between two strips, in units of the CRS.

    Returns:
        One area for each fraction.
    """
    footprint = rasters.footprint
    west, south, east, north = footprint.bounds
    xres = rasters.joined.res[0]
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
        edges.append(rasters.snap((low + high) / 2, south)[0])
    free = math.ceil(gap / xres - 1e-6) * xres
    lefts = [edges[0], *(edge + free for edge in edges[1:])]
    return [
        footprint.intersection(shapely.box(left, south, max(left, right), north))
        for left, right in zip(lefts, [*edges[1:], east], strict=True)
    ]


def outline(window: GeoSlice) -> Polygon:
    """The rectangle of a window."""
    x, y, *_ = cast(Window, window)
    return shapely.box(x.start, y.start, x.stop, y.stop)


def describe(window: GeoSlice) -> str:
    """Say where a window is."""
    x, y, *_ = cast(Window, window)
    return f'x {x.start:.10g} to {x.stop:.10g}, y {y.start:.10g} to {y.stop:.10g}'


def _fill(sample: Sample, key: str, nodata: float | None) -> None:
    """Give pixels that are no number the value of those that are missing.

    Without one, they are beyond the border of a file.
    """
    image: Tensor = sample[key]
    sample[key] = image.where(image.isfinite(), 0.0 if nodata is None else nodata)


def _width(leaf: RasterDataset) -> float:
    west, _, east, _ = leaf.index.geometry.iloc[0].bounds
    return float(east - west)


def _irreconcilable(
    name: str, leaf: RasterDataset, reference: str, first: RasterDataset
) -> str:
    return (
        f'{name}: cannot be projected from its CRS {leaf.crs.name!r} into that of '
        f'{reference}, {first.crs.name!r}; warp the files beforehand, or put a raster '
        'with a geographic CRS first'
    )


def _degrees(shape: Any, crs: Any) -> str:
    west, south, east, north = gpd.GeoSeries([shape], crs=crs).to_crs(4326).total_bounds
    return f'longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f}'
