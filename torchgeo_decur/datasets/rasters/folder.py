"""Reading of a folder of rasters, in which missing pixels are NaN."""

import math
import os
import re
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, cast
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.merge import merge
from rasterio.transform import array_bounds, from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform
from rasterio.windows import Window
from rasterio.windows import transform as window_transform
from shapely.affinity import affine_transform
from torch import Tensor
from torchgeo.datasets import RasterDataset
from torchgeo.datasets.utils import GeoSlice, Sample

from .extents import Bounds, largest_part, project_extent
from .files import RasterFile, without_listing

# Those with which GDAL can read; the others are for warping only.
RESAMPLING = (
    *('nearest', 'bilinear', 'cubic', 'cubic_spline', 'lanczos'),
    *('average', 'mode', 'gauss', 'rms'),
)
# A number of float32 that no sensor measures. NaN would spread when it is interpolated.
_MISSING = float(np.float32(-1e38))


class RasterFolder(RasterDataset):
    """The rasters of a list of files, whose missing pixels are NaN.

    Missing are the pixels that have the nodata value of their band, are masked or
    transparent, or lie where no file is. Files may differ in data type.

    Args:
        files: the files.
        bands: names of the bands, or None for a label raster.
        nodata: value that marks a missing pixel in place of what the files declare; of
            labels also the one that stands for a missing label.
        resampling: one of ``RESAMPLING``, or None for bilinear, nearest for labels.
        filename_regex: pattern of the names of files, with a group ``date``, or
            ``start`` and ``stop``, where they are dated, and a group ``band`` where each
            band is a file of its own.
        date_format: how dates are written, as in :meth:`datetime.datetime.strptime`.

    Raises:
        ValueError: if a date cannot be read, or the file of a band is missing.
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
        # All that is read, in the CRS of the dataset, where files may cover far more.
        self.extent: Bounds | None = None
        self.unwarped: set[tuple[Any, ...]] = set()
        self.records = {file.path: file for file in files}
        paths = list(self.records)
        if filename_regex is not None:
            self.filename_regex = filename_regex
            self.separate_files = 'band' in re.compile(filename_regex).groupindex
        if self.separate_files and bands is not None:
            self.all_bands, self.count = tuple(bands), 1
            paths = self._first_of_each(paths)
        paths.sort()
        # TorchGeo would open each file again, of which all is known but the first.
        super().__init__(paths[:1])
        self.paths = paths
        self.index = self._index(paths)
        if not self.separate_files:
            # A file may have transparency too, which is no band to read.
            self.band_indexes = list(range(1, self.count + 1))

    @property
    def resampling(self) -> Resampling:
        """How values between pixels are found."""
        return Resampling[self.method] if self.method else super().resampling

    def _first_of_each(self, paths: Iterable[str]) -> list[str]:
        """List the file of the first band of each scene, which stands for all."""
        pattern = re.compile(self.filename_regex, re.VERBOSE)
        scenes = {}
        for path in paths:
            match = pattern.match(os.path.basename(path))
            if match and match['band'] in self.all_bands:
                scenes[self._update_filepath(self.all_bands[0], path)] = path
        for scene, path in scenes.items():
            for band in self.all_bands:
                wanted = self._update_filepath(band, scene)
                if wanted not in self.records:
                    raise ValueError(
                        f'expected a file for each of the bands {list(self.all_bands)}, '
                        f'found {path} but no readable {wanted}; restore it, or correct '
                        'bands or filename_regex'
                    )
        return list(scenes)

    def _index(self, paths: Sequence[str]) -> gpd.GeoDataFrame:
        """Build the index of files from their metadata, as TorchGeo builds it."""
        target = CRS.from_user_input(self.crs)
        bounds = np.empty((len(paths), 4))
        for i, file in enumerate(self.records[path] for path in paths):
            transform: Any = file.transform
            width, height = file.size
            grid = self._compute_affine_warp_grid(
                file.crs, transform, width, height, target
            )
            if grid[3]:
                transform, width, height, _ = grid
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
        """Read a window.

        Args:
            index: slices of x, of y and of time.

        Returns:
            As TorchGeo's, which goes through all files several times for each window.
        """
        x, y, *_ = cast(tuple[slice, ...], index)
        sides = (x.start, y.start, x.stop, y.stop)
        if None in sides:
            return super().__getitem__(index)
        rows = self.index.sindex.query(shapely.box(*sides))
        if not len(rows):
            return super().__getitem__(index)
        near = copy(self)
        # Handles of files are kept by the whole.
        vars(near).update(
            index=self.index.iloc[np.sort(rows)],
            _cached_load_warp_file=self._cached_load_warp_file,
        )
        return RasterDataset.__getitem__(near, index)

    def _load_warp_file(
        self, filepath: Any, crs: Any = None
    ) -> DatasetReader | WarpedVRT:
        file = self.records[str(filepath)]
        with without_listing([file.path]):
            return self._open(file, crs)

    def _open(self, file: RasterFile, crs: Any) -> DatasetReader | WarpedVRT:
        marked = self.marked is not None or file.masked or bool(file.alpha)
        if not marked and file.residual is None:
            opened = super()._load_warp_file(file.path, crs)
            if not isinstance(opened, WarpedVRT):
                return opened
            # What is around a warped file would be 0.
            opened.close()
        kind = 'Float32' if self.is_image else 'Float64'
        source = mark_missing(file, self.count, self._marks(file), kind)
        return super()._load_warp_file(source, crs)

    def _compute_affine_warp_grid(
        self, crs: Any, transform: Affine, width: int, height: int, dst_crs: Any
    ) -> tuple[Affine, int, int, bool]:
        """Choose the grid of a file, around the extent alone of a larger one that is warped."""
        usual = (crs, transform, width, height, dst_crs)
        if crs == dst_crs:
            return self._own_grid(*usual)
        if self.extent is None:
            return super()._compute_affine_warp_grid(*usual)
        area = project_extent(self.extent, dst_crs, crs)
        whole = shapely.box(*array_bounds(height, width, transform))
        if area is None or not area.intersects(whole) or area.covers(whole):
            return super()._compute_affine_warp_grid(*usual)
        # Whole pixels of the file: the extent may be within one of them.
        a, b, c, d, e, f, *_ = ~transform
        part = largest_part(area.intersection(whole))
        pixels = affine_transform(part, [a, b, d, e, c, f]).bounds
        left, top = map(math.floor, pixels[:2])
        right, bottom = map(math.ceil, pixels[2:])
        columns, rows = max(right - left, 1), max(bottom - top, 1)
        place = window_transform(Window(left, top, columns, rows), transform)
        bounds = array_bounds(rows, columns, place)
        grid, _, _ = calculate_default_transform(crs, dst_crs, columns, rows, *bounds)
        xres, yres = grid.a, -grid.e
        if self.resampling == Resampling.nearest:
            # What is nearest must not be chosen twice.
            xres, yres = min(xres, self.res[0]), min(yres, self.res[1])
        west, south, east, north = self.extent
        # Two pixels more, for what lies between pixels at the edge.
        columns = math.ceil((east - west) / xres) + 4
        rows = math.ceil((north - south) / yres) + 4
        origin = from_origin(west - 2 * xres, north + 2 * yres, xres, yres)
        return origin, columns, rows, True

    def _own_grid(
        self, crs: Any, transform: Affine, width: int, height: int, dst_crs: Any
    ) -> tuple[Affine, int, int, bool]:
        """Compute the grid that a file of the same CRS is read in.

        Of files that differ only in their place all are warped, or none.
        """
        kind = (crs, width, height, *transform[:2], *transform[3:5])
        if kind in self.unwarped:
            return transform, width, height, False
        grid: tuple[Affine, int, int, bool] = super()._compute_affine_warp_grid(
            crs, transform, width, height, dst_crs
        )
        if not grid[3]:
            self.unwarped.add(kind)
        return grid

    def _marks(self, file: RasterFile) -> list[tuple[float | None, ...]]:
        """List the values that mark missing pixels, by band, one set after another."""
        if self.marked is None:
            return [file.nodata]
        given: list[tuple[float | None, ...]] = [(self.marked,) * file.count]
        # A declared value that no label can have is not a label, whatever is given.
        odd = any(v is not None and not is_label(v) for v in file.nodata)
        return [file.nodata, *given] if odd and not self.is_image else given

    def _merge_or_stack(
        self,
        filepaths: Sequence[str],
        index: GeoSlice,
        band_indexes: Sequence[int] | None = None,
        out_crs: Any = None,
    ) -> Tensor:
        """Read the mosaic of files: float32 images with NaN, or whole labels."""
        load = self._cached_load_warp_file if self.cache else self._load_warp_file
        opened = [load(path, out_crs or self.crs) for path in filepaths]
        x, y, _ = self._disambiguate_slice(index)
        values, _ = merge(
            opened,
            bounds=(x.start, y.start, x.stop, y.stop),
            res=(x.step, y.step),
            nodata=math.nan,
            # Each file in the type of the first would wrap around.
            dtype='float32' if self.is_image else 'float64',
            indexes=list(band_indexes or [1]),
            resampling=self.resampling,
        )
        if not self.is_image:
            values = self._whole(values, filepaths)
        return torch.from_numpy(values)

    def _whole(self, labels: Any, filepaths: Sequence[str]) -> Any:
        missing = np.isnan(labels)
        files = [self.records[path] for path in filepaths]
        value = self.marked if self.marked is not None else files[0].nodata[0]
        if value is None and missing.any() and any(file.floating for file in files):
            raise ValueError(
                f'mask: expected a label in each pixel, found NaN in {list(filepaths)}; '
                'give the mask a nodata value that is no class, such as 255, and the '
                'task the same ignore_index'
            )
        labels = np.where(missing, 0 if value is None else value, labels)
        wrong = labels[labels != np.round(labels)]
        if wrong.size:
            raise ValueError(
                f'mask: expected whole numbers as labels, found {wrong[0]:g} in '
                f'{list(filepaths)}; give a raster of classes'
            )
        return labels


def is_label(value: float) -> bool:
    """Return whether a number can be a label.

    Args:
        value: the number.

    Returns:
        Whether it is whole and fits in 64 bits.

    Example:
        >>> is_label(255.0), is_label(0.5), is_label(float('nan')), is_label(-3.4e38)
        (True, False, False, False)
    """
    return math.isfinite(value) and value == round(value) and abs(value) < 2**63


def mark_missing(
    file: RasterFile, count: int, marks: Sequence[Sequence[float | None]], kind: str
) -> str:
    """Describe a file as a virtual raster of which all missing pixels have one value.

    GDAL's own warping takes one nodata value for all bands, and either it or a mask.

    Args:
        file: the file.
        count: how many bands are named.
        marks: values of missing pixels by band of the file, one set after another.
        kind: GDAL's name of the type of the values, 'Float32' or 'Float64'.

    Returns:
        The document, which can be opened in place of a path.
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
