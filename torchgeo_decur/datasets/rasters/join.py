"""Join rasters by location and read windows of the joined rasters."""

import itertools
import warnings
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from typing import Any, ClassVar, cast

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

# Slices of x, y and, for dated files, time.
Window = tuple[slice, ...]


@dataclass(frozen=True)
class JoinedRasters:
    """Co-registered rasters and the criteria for usable windows.

    Args:
        joined: datasets joined with ``&``, whose index is the common footprint.
        leaves: raster dataset of each modality, and of the labels as ``mask``.
        nodata: nodata value of each dataset, or None.
        patch_size: height and width of a window, in pixels of the first dataset.
        max_nodata: maximum fraction of missing pixels in each modality of a window.
        num_classes: number of classes in the mask, or None to accept any label.
    """

    joined: GeoDataset
    leaves: Mapping[str, RasterDataset]
    nodata: Mapping[str, float | None]
    patch_size: int
    max_nodata: float
    num_classes: int | None = None
    #: Term for the footprint in messages.
    area_name: ClassVar[str] = 'common footprint'

    @cached_property
    def footprint(self) -> Polygon:
        """Area that all datasets cover, in the CRS of the first dataset."""
        return self.joined.index.geometry.union_all()

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of a window, in units of the CRS."""
        xres, yres = self.joined.res
        return self.patch_size * xres, self.patch_size * yres

    @cached_property
    def patch_sizes(self) -> dict[str, int]:
        """Window size in pixels for each dataset."""
        width, _ = self.size
        return {name: round(width / leaf.res[0]) for name, leaf in self.leaves.items()}

    def pixels(self, area: BaseGeometry) -> tuple[int, int]:
        """Return the width and height of an area's bounding box in pixels."""
        if area.is_empty:
            return 0, 0
        west, south, east, north = area.bounds
        xres, yres = self.joined.res
        return round((east - west) / xres), round((north - south) / yres)

    def files(self, parts: NDArray[np.object_]) -> NDArray[np.float64]:
        """Find a file of the first dataset for each polygon of the footprint.

        Args:
            parts: polygons within the footprint, shape (N,).

        Returns:
            Bounds of the files (west, south, east, north), shape (N, 4).
        """
        first = next(iter(self.leaves.values())).index.geometry
        tree = shapely.STRtree(first.to_numpy())
        points = shapely.point_on_surface(parts)
        found, files = tree.query(points, predicate='intersects')
        chosen = np.zeros(len(parts), dtype=np.int64)
        # If there are several files, use the first so that a mosaic has a single grid.
        order = np.argsort(files)[::-1]
        chosen[found[order]] = files[order]
        return cast(NDArray[np.float64], first.bounds.to_numpy()[chosen])

    @property
    def max_outside(self) -> float:
        """Maximum fraction of a window outside the footprint.

        It is 0 unless all modalities have a nodata value.
        """
        known = [
            self.nodata[name] is not None for name in self.leaves if name != 'mask'
        ]
        return self.max_nodata if all(known) else 0.0

    @property
    def marked(self) -> list[str]:
        """Names of the modalities with a nodata value."""
        images = (name for name in self.leaves if name != 'mask')
        return [name for name in images if self.nodata[name] is not None]

    def read(self, window: GeoSlice, names: Iterable[str] | None = None) -> Sample:
        """Read the rasters in a window.

        Args:
            window: slices of x, y and, for dated files, time.
            names: names of the datasets to read. By default, all datasets are read.

        Returns:
            A dictionary with the following keys.

            - ``image_<m>``: float32 in physical units, shape (C, H, W). NaN and infinite
              values count as missing.
            - ``mask``: int64, or float32 for continuous values, shape (H, W).
            - ``bounds`` and ``transform``: as in TorchGeo, but float64, because float32
              rounds northings to a quarter of a meter.

        Raises:
            ValueError: if a file cannot be read or a label is out of range.
        """
        sample: Sample = {}
        chosen = list(self.leaves if names is None else names)
        for name in chosen:
            leaf = self.leaves[name]
            if get_worker_info() is not None:
                # Workers must not share a file handle opened before the fork.
                leaf.cache = True
            try:
                sample |= leaf[self._timed(window)]
                if name != 'mask':
                    _fill(sample, f'image_{name}', self.nodata[name])
            except (RasterioError, OSError) as error:
                x, y, *_ = cast(Window, window)
                near = leaf.index.cx[x.start : x.stop, y.start : y.stop].filepath
                raise ValueError(
                    f'{name}: cannot read {describe_window(window)} from {list(near)}: '
                    f'{error}; restore the files'
                ) from error
        if self.num_classes is not None and 'mask' in chosen:
            self._check_labels(sample['mask'], window)
        return {**sample, **self._place(window, sample['bounds'][6:])}

    def missing(
        self,
        sample: Mapping[str, Any],
        window: GeoSlice | None = None,
        whole: bool = False,
    ) -> dict[str, float]:
        """Compute the fraction of missing pixels in each modality.

        A pixel is missing if any of its bands is missing.
        """
        shares = {name: 0.0 for name in self.leaves if name != 'mask'}
        for name in self.marked:
            invalid = invalid_pixels(sample[f'image_{name}'], self.nodata[name])
            if invalid is not None:
                shares[name] = invalid.any(0).float().mean().item()
        return shares

    def missing_by_patch(
        self, sample: Mapping[str, Any], rows: int, columns: int
    ) -> NDArray[np.float64]:
        """Compute the fraction of missing pixels for each window in a block.

        Args:
            sample: sample of the whole block from :meth:`read`.
            rows: number of windows from north to south.
            columns: number of windows from west to east.

        Returns:
            The maximum fraction over all modalities, shape (rows, columns).
        """
        shares = torch.zeros(rows, columns, dtype=torch.double)
        for name in self.marked:
            size = self.patch_sizes[name]
            invalid = invalid_pixels(sample[f'image_{name}'], self.nodata[name])
            if invalid is not None:
                patches = invalid.any(0).view(rows, size, columns, size)
                shares = shares.maximum(patches.double().mean((1, 3)))
        return cast(NDArray[np.float64], shares.numpy())

    def usable(self, sample: Mapping[str, Any], window: GeoSlice | None = None) -> bool:
        """Check that no modality exceeds ``max_nodata`` missing pixels."""
        return max(self.missing(sample).values()) <= self.max_nodata

    def deliver(self, sample: Sample, window: GeoSlice, whole: bool = False) -> Sample:
        """Return the sample of a usable window. A union also marks absent modalities."""
        return sample

    @property
    def dated(self) -> bool:
        """True if files have different dates and a window therefore requires a time."""
        return len(pd.unique(self.joined.index.index)) > 1

    def area_of(self, name: str, time: tuple[slice, ...] = ()) -> BaseGeometry:
        """Return the area that the files of a dataset cover.

        Args:
            name: name of the dataset.
            time: time slice, or an empty tuple for all files.

        Returns:
            The area, in the CRS of the first dataset.
        """
        key = (name, *((part.start, part.stop) for part in time))
        if key not in self._areas:
            index = self.leaves[name].index
            if time:
                wanted = pd.Interval(*key[1], closed='both')
                index = index[index.index.overlaps(wanted)]
            area = shapely.union_all(index.geometry.to_numpy())
            shapely.prepare(area)
            self._areas[key] = area
        return self._areas[key]

    @cached_property
    def _areas(self) -> dict[tuple[Any, ...], BaseGeometry]:
        return {}

    def _timed(self, window: GeoSlice) -> GeoSlice:
        """Add the common time of all files to a window that has no time."""
        x, y, *time = cast(Window, window)
        if not time:
            shared = self.joined.index.index[0]
            time = [slice(shared.left, shared.right)]
        return cast(GeoSlice, (x, y, *time))

    @cached_property
    def footprints(self) -> list[tuple[slice, BaseGeometry]]:
        """Sorted times and the area that all datasets cover at each time."""
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
                f'{describe_window(window)}; correct the option num_classes or nodata'
            )


def join(
    rasters: Mapping[str, RasterDataset],
    union: bool = False,
    res: Mapping[str, float] | None = None,
) -> tuple[GeoDataset, dict[str, float]]:
    """Join datasets on their common area with TorchGeo's operator ``&``.

    Args:
        rasters: datasets by name. They are modified in place: each gets the CRS of the
            first dataset and, unless it is in ``res``, its resolution.
        union: whether to use ``|`` instead, which joins the areas of all modalities. The
            mask must cover the area. Files in another CRS are used only within the extent
            of the first dataset.
        res: pixel size after resampling, by dataset name, in CRS units of the first
            dataset.

    Returns:
        The joined dataset, and the pixel width of each dataset in CRS units of the first
        dataset: the larger of the widths before and after resampling.

    Raises:
        ValueError: if a dataset cannot be projected to the CRS of the first dataset, or
            the datasets have no common area or time.
    """
    (reference, first), *others = rasters.items()
    own = {name: leaf.index.geometry.copy() for name, leaf in rasters.items()}
    widths = {reference: first.res[0]}
    chosen = {name: (size, size) for name, size in (res or {}).items()}
    first.res = chosen.get(reference, first.res)
    for name, leaf in others:
        try:
            _clip(leaf, first)
            if not leaf.index.empty:
                widths[name] = _pixel_width(leaf, first.crs)
            leaf.crs, leaf.res = first.crs, chosen.get(name, first.res)
        except ProjError as error:
            raise ValueError(_irreconcilable(name, reference, own)) from error
        if not (leaf.index.empty or np.isfinite(leaf.index.total_bounds).all()):
            raise ValueError(_irreconcilable(name, reference, own))
    for a, b in itertools.combinations(rasters, 2):
        needed = not union or rasters[b].index.empty
        if needed and not _overlap(
            rasters[a].index.geometry, rasters[b].index.geometry
        ):
            place = '' if a == reference else f' within the extent of {reference}'
            raise ValueError(
                f'{a} and {b} must overlap{place}, but {a} covers {_degrees(own[a])} '
                f'and {b} covers {_degrees(own[b])}; check the paths and the CRS of the '
                'files'
            )
    joined: GeoDataset = first
    try:
        with warnings.catch_warnings():
            # TorchGeo 0.10 uses a pandas argument that pandas 3.1 deprecates.
            warnings.filterwarnings('ignore', 'The inplace keyword')
            # Hide TorchGeo's messages that it resamples all datasets to the first
            # resolution, and restore the resolution. Join the mask last.
            with redirect_stdout(StringIO()):
                for name, leaf in sorted(others, key=lambda other: other[0] == 'mask'):
                    own_res = leaf.res
                    any_covers = union and name != 'mask'
                    joined = joined | leaf if any_covers else joined & leaf
                    leaf.res = own_res
    except RuntimeError as error:
        raise ValueError(
            f'{list(rasters)} must have a common area and time, but have none: '
            f'{error}. Dates are read with filename_regex or by a dataset class; to '
            'ignore dates, set only the options paths and glob'
        ) from error
    for name in widths.keys() & chosen.keys():
        widths[name] = max(widths[name], chosen[name][0])
    return joined, widths


def outline(window: GeoSlice) -> Polygon:
    """Return the rectangle that a window covers."""
    x, y, *_ = cast(Window, window)
    return shapely.box(x.start, y.start, x.stop, y.stop)


def describe_window(window: GeoSlice) -> str:
    """Format the coordinates of a window for error messages."""
    x, y, *_ = cast(Window, window)
    return f'x {x.start:.10g} to {x.stop:.10g}, y {y.start:.10g} to {y.stop:.10g}'


def _fill(sample: Sample, key: str, nodata: float | None) -> None:
    """Replace NaN and infinite values with nodata, or with 0 if there is no nodata value.

    Without a nodata value, only pixels outside the files can be NaN.
    """
    image: Tensor = sample[key]
    sample[key] = image.where(image.isfinite(), 0.0 if nodata is None else nodata)


def _clip(leaf: RasterDataset, first: RasterDataset) -> None:
    """Clip a dataset to the extent of the first dataset if they differ in CRS.

    Most projections are valid only in a part of the world.
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
    """Add vertices to the edges of footprints, because projected edges are curved."""
    west, south, east, north = extent.bounds
    step = max(east - west, north - south) / 32
    leaf.index = leaf.index.set_geometry(leaf.index.geometry.segmentize(step))


def _pixel_width(leaf: RasterDataset, crs: Any) -> float:
    """Compute the pixel width of the first file in another CRS."""
    part = gpd.GeoSeries([largest_part(leaf.index.geometry.iloc[0])], crs=leaf.crs)
    west, _, east, _ = part.total_bounds
    left, _, right, _ = part.to_crs(crs).total_bounds
    return float((right - left) / (east - west) * leaf.res[0])


def _irreconcilable(name: str, reference: str, own: Mapping[str, Any]) -> str:
    crs, wanted = own[name].crs, own[reference].crs
    return (
        f'{name}: cannot be projected from its CRS {crs.name!r} to the CRS '
        f'{wanted.name!r} of {reference}; reproject the files in advance, or put a raster '
        'with a geographic CRS first'
    )


def _overlap(some: gpd.GeoSeries, others: gpd.GeoSeries) -> bool:
    """Check whether any two file footprints overlap."""
    a, b = others.sindex.query(some.to_numpy(), predicate='intersects')
    shared = shapely.intersection(some.to_numpy()[a], others.to_numpy()[b])
    return bool(shapely.area(shared).any())


def _degrees(footprints: gpd.GeoSeries) -> str:
    west, south, east, north = footprints.to_crs(4326).total_bounds
    return f'longitude {west:.4f} to {east:.4f}, latitude {south:.4f} to {north:.4f}'
