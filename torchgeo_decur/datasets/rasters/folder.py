"""Read a folder of rasters with missing pixels set to NaN."""

import atexit
import functools
import math
import os
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
import torch
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.merge import merge
from rasterio.transform import array_bounds, from_origin
from rasterio.vrt import WarpedVRT
from torch import Tensor
from torchgeo.datasets import RasterDataset
from torchgeo.datasets.utils import GeoSlice, Sample

from .extents import Bounds, warped_grid
from .files import RasterFile, without_listing

# GDAL supports its other methods only for reprojection.
RESAMPLING = (
    *('nearest', 'bilinear', 'cubic', 'cubic_spline', 'lanczos'),
    *('average', 'mode', 'gauss', 'rms'),
)
# Internal nodata value, a float32 outside any physical range. NaN would spread during
# interpolation.
_MISSING = float(np.float32(-1e38))


class RasterFolder(RasterDataset):
    """Mosaic of raster files with missing pixels set to NaN.

    A pixel is missing if it has the nodata value of its band, is masked or transparent,
    or lies outside all files. Files may differ in data type.

    Args:
        files: metadata of the files.
        bands: names of the bands, or None for a label raster.
        nodata: value of missing pixels or labels. It overrides the value declared in the
            files.
        resampling: one of ``RESAMPLING``, by default 'bilinear' for images and 'nearest'
            for labels.
        filename_regex: pattern of the file names. Dated files require a group ``date``, or
            the groups ``start`` and ``stop``. With a group ``band``, each band is read
            from a separate file.
        date_format: date format, as in :meth:`datetime.datetime.strptime`.

    Raises:
        ValueError: if a date cannot be parsed, or the file of a band is missing.
    """

    def __init__(
        self,
        files: Sequence[RasterFile],
        bands: Sequence[str] | None = None,
        nodata: float | None = None,
        resampling: str | None = None,
        filename_regex: str | None = None,
        date_format: str = RasterDataset.date_format,
    ) -> None:
        """Initialize a new RasterFolder instance."""
        self.is_image = bands is not None
        self.method = resampling
        self.marked = nodata
        self.count = 1 if bands is None else len(bands)
        self.date_format = date_format
        # Extent to read, in the CRS of the dataset. Files may be much larger.
        self.extent: Bounds | None = None
        self.unwarped: set[tuple[Any, ...]] = set()
        # Index columns as lists, because accessing single pandas rows is slow.
        self._listed: tuple[gpd.GeoDataFrame, list[pd.Interval], list[str]] | None = (
            None
        )
        self.records = {file.path: file for file in files}
        paths = list(self.records)
        if filename_regex is not None:
            self.filename_regex = filename_regex
            self.separate_files = 'band' in re.compile(filename_regex).groupindex
        if self.separate_files and bands is not None:
            self.all_bands, self.count = tuple(bands), 1
            paths = self._first_of_each(paths)
        paths.sort()
        # Pass only one file to define the CRS, because TorchGeo would reopen all files.
        super().__init__(paths[:1])
        self.paths = paths
        self.index = self._index(paths)
        if not self.separate_files:
            # Exclude alpha bands.
            self.band_indexes = list(range(1, self.count + 1))

    @property
    def resampling(self) -> Resampling:
        """Resampling method."""
        return Resampling[self.method] if self.method else super().resampling

    def _first_of_each(self, paths: Iterable[str]) -> list[str]:
        """Return the file of one band of each scene and check that no band is missing."""
        pattern = re.compile(self.filename_regex, re.VERBOSE)
        scenes = {}
        for path in paths:
            match = pattern.match(os.path.basename(path))
            if match and match['band'] in self.all_bands:
                scenes[self._path_of_band(self.all_bands[0], path)] = path
        for scene, path in scenes.items():
            for band in self.all_bands:
                wanted = self._path_of_band(band, scene)
                if wanted not in self.records:
                    raise ValueError(
                        f'expected one file for each band of {list(self.all_bands)}, '
                        f'found {path} but no readable {wanted}; restore this file, or '
                        'correct the option bands or filename_regex'
                    )
        return list(scenes)

    def _index(self, paths: Sequence[str]) -> gpd.GeoDataFrame:
        """Build TorchGeo's file index from the metadata."""
        target = CRS.from_user_input(self.crs)
        bounds = np.empty((len(paths), 4))
        for i, file in enumerate(self.records[path] for path in paths):
            grid = self._grid(file, target) or (file.transform, *file.size)
            transform, width, height = grid
            bounds[i] = array_bounds(height, width, transform)
        return gpd.GeoDataFrame(
            {'filepath': paths},
            index=pd.IntervalIndex.from_tuples(
                [self._filepath_to_timestamp(path) for path in paths],
                closed='both',
                name='datetime',
            ),
            geometry=shapely.box(*bounds.T),
            crs=self.crs,
        )

    def __getitem__(self, index: GeoSlice) -> Sample:
        """Read the mosaic in a window.

        Args:
            index: slices of x, y and time. A missing slice covers the whole dataset.

        Returns:
            A dictionary with ``image`` (float32, shape (C, H, W)) or ``mask`` (int64, shape
            (H, W)), and with ``bounds`` and ``transform``.

        Raises:
            IndexError: if no file covers the window.
        """
        x, y, time = self._slices(index)
        paths = self._near(x, y, time)[:: time.step]
        if not paths:
            raise IndexError(f'{index} not found in dataset with bounds {self.bounds}')
        if self.separate_files:
            bands = [
                self._mosaic([self._path_of_band(b, p) for p in paths], [1], x, y)
                for b in self.bands
            ]
            values = torch.cat(bands)
        else:
            values = self._mosaic(paths, self.band_indexes or [1], x, y)
        times = [time.start.timestamp(), time.stop.timestamp(), time.step]
        sides = [x.start, x.stop, x.step, y.start, y.stop, y.step]
        transform = from_origin(x.start, y.stop, x.step, y.step)
        sample: Sample = {
            'bounds': torch.tensor([*sides, *times]),
            'transform': torch.tensor(list(transform)),
        }
        if self.is_image:
            sample['image'] = values.to(self.dtype)
        else:
            sample['mask'] = values.to(self.dtype)[0]
        return self.transforms(sample) if self.transforms else sample

    def _near(self, x: slice, y: slice, time: slice) -> list[str]:
        """Return the files that intersect a window, in index order."""
        if self._listed is None or self._listed[0] is not self.index:
            columns = self.index.index.tolist(), self.index.filepath.tolist()
            self._listed = (self.index, *columns)
        _, times, paths = self._listed
        # Query locations first, because comparing the times of all files is slower.
        window = shapely.box(x.start, y.start, x.stop, y.stop)
        rows = self.index.sindex.query(window, 'intersects', sort=True).tolist()
        wanted = pd.Interval(time.start, time.stop)
        return [paths[row] for row in rows if times[row].overlaps(wanted)]

    def _slices(self, index: GeoSlice) -> tuple[slice, slice, slice]:
        """Replace missing slices of x, y and time with slices of the whole dataset."""
        given = (index,) if isinstance(index, slice) else tuple(index)
        ends = [end for part in given for end in (part.start, part.stop)]
        # Compute bounds only if necessary: for thousands of files, it takes longer than
        # reading a window.
        whole = self.bounds if len(given) < 3 or None in ends else given
        x, y, time = (
            slice(
                default.start if part.start is None else part.start,
                default.stop if part.stop is None else part.stop,
                step if part.step is None else part.step,
            )
            for part, default, step in zip_longest(
                given, whole, (*self.res, 1), fillvalue=slice(None)
            )
        )
        return x, y, time

    def _path_of_band(self, band: str, path: str) -> str:
        """Return the path of a band that belongs to the same scene as another file."""
        folder, name = os.path.split(path)
        match = re.match(self.filename_regex, name, re.VERBOSE)
        if match is None:
            return path
        start, end = match.span('band')
        return os.path.join(folder, f'{name[:start]}{band}{name[end:]}')

    def _grid(self, file: RasterFile, crs: CRS) -> tuple[Affine, int, int] | None:
        """Return the target grid of a file, or None if it requires no reprojection."""
        transform: Any = file.transform
        kind = (crs, file.crs, *file.size, *transform[:2], *transform[3:5])
        # The result is the same for files that differ only in location.
        if kind in self.unwarped:
            return None
        nearest = self.resampling == Resampling.nearest
        # Avoid nearest-neighbor resampling twice.
        finest = self.res if nearest else (math.inf, math.inf)
        grid = warped_grid(file, crs, self.extent, finest)
        if grid is None:
            self.unwarped.add(kind)
        return grid

    def _open(self, path: str, crs: Any = None) -> DatasetReader | WarpedVRT:
        """Open a file in a CRS (its own by default) and mark missing pixels."""
        file = self.records[path]
        target = file.crs if crs is None else CRS.from_user_input(crs)
        grid = self._grid(file, target)
        marked = self.marked is not None or file.masked or bool(file.alpha)
        if not (marked or grid or file.residual is not None):
            with without_listing([path]):
                return rasterio.open(path)
        # Mark missing pixels: otherwise, the padding around a reprojected file would be 0.
        kind = 'Float32' if self.is_image else 'Float64'
        source = mark_missing(file, self.count, self._marks(file), kind)
        with without_listing([path]):
            opened = rasterio.open(source)
        if grid is None:
            return opened
        transform, width, height = grid
        size: dict[str, Any] = {'width': width, 'height': height}
        with opened:
            return WarpedVRT(opened, crs=target, transform=transform, **size)

    # One cache of file handles per process, as in TorchGeo.
    _keep_open = functools.lru_cache(maxsize=128)(_open)

    def _load_warp_file(
        self, filepath: Any, crs: Any = None
    ) -> DatasetReader | WarpedVRT:
        """Open a file for TorchGeo's constructor."""
        return self._open(str(filepath), crs)

    def _marks(self, file: RasterFile) -> list[tuple[float | None, ...]]:
        """Return tuples of nodata values with one value per band."""
        if self.marked is None:
            return [file.nodata]
        given: list[tuple[float | None, ...]] = [(self.marked,) * file.count]
        # A declared value that is not a valid label also marks missing pixels.
        odd = any(v is not None and not is_label(v) for v in file.nodata)
        return [file.nodata, *given] if odd and not self.is_image else given

    def _mosaic(
        self, paths: Sequence[str], bands: Sequence[int], x: slice, y: slice
    ) -> Tensor:
        """Merge files into a float32 image with NaN for missing pixels, or into labels."""
        load = self._keep_open if self.cache else self._open
        opened = [load(path, self.crs) for path in paths]
        values, _ = merge(
            opened,
            bounds=(x.start, y.start, x.stop, y.stop),
            res=(x.step, y.step),
            nodata=math.nan,
            # By default, merge uses the type of the first file, which could overflow.
            dtype='float32' if self.is_image else 'float64',
            indexes=list(bands),
            resampling=self.resampling,
        )
        if not self.is_image:
            values = self._whole(values, paths)
        return torch.from_numpy(values)

    def _whole(self, labels: Any, paths: Sequence[str]) -> Any:
        missing = np.isnan(labels)
        files = [self.records[path] for path in paths]
        value = self.marked if self.marked is not None else files[0].nodata[0]
        if value is None and missing.any() and any(file.floating for file in files):
            raise ValueError(
                f'mask: expected a label for each pixel, found NaN in {list(paths)}; '
                'set the option nodata in the mask entry to a value that is not a class, '
                'such as 255, and set ignore_index in the task to the same value'
            )
        labels = np.where(missing, 0 if value is None else value, labels)
        wrong = labels[labels != np.round(labels)]
        if wrong.size:
            raise ValueError(
                f'mask: expected integer labels, found {wrong[0]:g} in {list(paths)}; '
                'provide a raster of class indices'
            )
        return labels


# Close open files before Python unloads rasterio.
atexit.register(RasterFolder._keep_open.cache_clear)


def is_label(value: float) -> bool:
    """Check whether a number can be a label.

    Args:
        value: number to check.

    Returns:
        True if the number is an integer that fits into 64 bits.

    Example:
        >>> is_label(255.0), is_label(0.5), is_label(float('nan')), is_label(-3.4e38)
        (True, False, False, False)
    """
    return math.isfinite(value) and value == round(value) and abs(value) < 2**63


def mark_missing(
    file: RasterFile, count: int, marks: Sequence[Sequence[float | None]], kind: str
) -> str:
    """Wrap a file in a virtual raster (VRT) with a single nodata value.

    For reprojection, GDAL supports one nodata value for all bands or a mask, but not both.

    Args:
        file: metadata of the file.
        count: number of named bands.
        marks: sequences of nodata values, with one value per band of the file.
        kind: GDAL data type, 'Float32' or 'Float64'.

    Returns:
        XML of the VRT, which rasterio opens like a path.
    """
    source, bands = file.path, file.bands(count)
    if file.has_mask(count):
        source, bands = _layer(source, file, bands, None, kind), [*range(1, count + 1)]
    for values in marks:
        chosen = [values[b - 1] for b in file.bands(count)]
        source = _layer(source, file, bands, chosen, kind)
        bands = [*range(1, count + 1)]
    return source


def _layer(
    source: str,
    file: RasterFile,
    bands: Sequence[int],
    nodata: Sequence[float | None] | None,
    kind: str,
) -> str:
    width, height = file.size
    root = ElementTree.Element(
        'VRTDataset', rasterXSize=str(width), rasterYSize=str(height)
    )
    if file.crs is not None and file.transform is not None:
        ElementTree.SubElement(root, 'SRS').text = file.crs.to_wkt()
        numbers = ','.join(map(repr, file.transform.to_gdal()))
        ElementTree.SubElement(root, 'GeoTransform').text = numbers
    local = not source.startswith(('<', '/vsi'))
    for number, band in enumerate(bands):
        about = {'dataType': kind, 'band': str(number + 1)}
        target = ElementTree.SubElement(root, 'VRTRasterBand', about)
        ElementTree.SubElement(target, 'NoDataValue').text = repr(_MISSING)
        part = ElementTree.SubElement(target, 'ComplexSource')
        name = os.path.abspath(source) if local else source
        place = ElementTree.SubElement(part, 'SourceFilename', relativeToVRT='0')
        place.text = name
        ElementTree.SubElement(part, 'SourceBand').text = str(band)
        if nodata is None:
            ElementTree.SubElement(part, 'UseMaskBand').text = 'true'
        elif (value := nodata[number]) is not None:
            ElementTree.SubElement(part, 'NODATA').text = repr(float(value))
    return ElementTree.tostring(root, encoding='unicode')
