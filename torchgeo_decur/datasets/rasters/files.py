"""Find raster files and read their metadata."""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import from_gcps
from rasterio.windows import Window
from torchgeo.datasets import RasterDataset
from torchgeo.datasets.utils import find_files

SUFFIXES = ('.tif', '.tiff', '.vrt', '.jp2', '.img')


@dataclass(frozen=True)
class RasterFile:
    """Metadata of a readable raster file.

    Args:
        path: path of the file.
        size: width and height in pixels.
        nodata: declared nodata value of each band, or None.
        alpha: indices of alpha bands, starting at 1.
        masked: whether the file has an internal mask or a ``.msk`` file.
        floating: whether the data type is floating point.
        limits: lowest and highest value of the data type.
        descriptions: description of each band, or None.
        scales: declared scale and offset of each band, which are not applied to values.
        crs: CRS, or None.
        transform: affine transform from pixels to coordinates, affine fit to the ground
            control points, or None.
        residual: largest distance of a ground control point from this fit in pixels, or
            None if the file has a transform.
    """

    path: str
    size: tuple[int, int]
    nodata: tuple[float | None, ...]
    alpha: tuple[int, ...]
    masked: bool
    floating: bool
    limits: tuple[float, float]
    descriptions: tuple[str | None, ...]
    scales: tuple[tuple[float, float], ...]
    crs: CRS | None
    transform: Affine | None
    residual: float | None

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.nodata)

    @property
    def marks(self) -> str:
        """Declared nodata values as text, for comparing files."""
        return ', '.join(str(v) for v in dict.fromkeys(self.nodata))

    def bands(self, count: int | None = None) -> list[int]:
        """Return the indices of the bands to read.

        Args:
            count: number of bands that the user has named, or None.

        Returns:
            All bands if the user has named all of them, otherwise all except alpha bands.
        """
        every = range(1, self.count + 1)
        if count == self.count:
            return [*every]
        return [b for b in every if b not in self.alpha]

    def has_mask(self, count: int | None = None) -> bool:
        """Check whether a mask or an alpha band marks missing pixels.

        GDAL often interprets a near-infrared fourth band as alpha. If the user has named
        all bands, this band contains data.
        """
        return self.masked or len(self.bands(count)) < self.count

    def is_warped(self, crs: Any) -> bool:
        """Check whether reading the file in a CRS requires reprojection."""
        upright = self.transform is not None and self.transform.is_rectilinear
        return not upright or self.crs != CRS.from_user_input(crs)


def find_rasters(name: str, paths: Sequence[str], glob: str | None) -> list[str]:
    """List the rasters in folders without duplicates or hidden files.

    Args:
        name: modality name for error messages.
        paths: folders and files.
        glob: pattern of file names, or None for files with common raster suffixes.

    Returns:
        Sorted file paths.

    Raises:
        ValueError: if no raster is found.
    """
    found = sorted(f for path in paths for f in _below(path))
    listed: dict[str, str] = {}
    for file in found:
        if file in paths and not glob:
            fits = True
        elif glob:
            fits = PurePath(file).match(glob)
        else:
            fits = file.lower().endswith(SUFFIXES)
        if fits:
            listed.setdefault(os.path.realpath(file), file)
    if not listed:
        raise ValueError(
            f'{name}: expected rasters ({glob or " ".join(SUFFIXES)}) in {list(paths)}, '
            f'found none among {len(found)} files; check the options paths and glob'
        )
    return sorted(listed.values())


def inspect(paths: Sequence[str]) -> tuple[list[RasterFile], dict[str, str]]:
    """Read the metadata of raster files.

    Args:
        paths: file paths.

    Returns:
        Metadata of the readable files, and the error message by unreadable file.

    Raises:
        ValueError: if a file contains complex numbers.
    """
    files, broken = [], {}
    with warnings.catch_warnings(), without_listing(paths):
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        for path in paths:
            try:
                with rasterio.open(path) as src:
                    files.append(_look(path, src))
            except (RasterioError, OSError) as error:
                broken[path] = str(error.__cause__ or error)
    return files, broken


def without_listing(paths: Iterable[str]) -> rasterio.Env:
    """Return a GDAL environment that opens local files without listing their folder.

    In a folder with thousands of files, listing doubles the time to open a file. Sidecar
    files are still found by name.

    Args:
        paths: file paths. If any file is in an archive or remote storage, folders are
            listed, because GDAL would otherwise request each sidecar file over the
            network.

    Returns:
        The environment, a context manager.
    """
    remote = any(path.startswith('/vsi') for path in paths)
    return rasterio.Env(**({} if remote else {'GDAL_DISABLE_READDIR_ON_OPEN': 'TRUE'}))


def check_places(name: str, files: Sequence[RasterFile]) -> None:
    """Check that files are georeferenced with an error of at most one pixel.

    Args:
        name: modality name for error messages.
        files: metadata of the files.

    Raises:
        ValueError: if a file is not georeferenced. The message names the file.
    """
    for file in files:
        if file.crs is None or file.transform is None:
            raise ValueError(
                f'{name}: expected georeferenced rasters, but {file.path} has no CRS or '
                'no transform; add both, for example with gdal_edit.py -a_srs -a_ullr'
            )
        if file.residual is not None and file.residual > 1:
            raise ValueError(
                f'{name}: expected ground control points that fit an affine transform, '
                f'found distances up to {file.residual:.1f} pixels in {file.path}; warp '
                'the file in advance, for example with gdalwarp -tps'
            )


def check_overlap(name: str, leaf: RasterDataset) -> None:
    """Check that no two files cover the same area and time.

    Args:
        name: modality name for error messages.
        leaf: raster dataset of the files.

    Raises:
        ValueError: if the overlap of two files exceeds 90 % of the area of the larger one.

    Warns:
        UserWarning: if the overlap of two files exceeds half of the area of the smaller
            one.
    """
    partial = []
    for _, rows in leaf.index.groupby(leaf.index.index.left):
        boxes, paths = rows.geometry.to_numpy(), rows.filepath.to_numpy()
        for first in range(0, len(boxes), 512):
            a, b = rows.sindex.query(boxes[first : first + 512], predicate='intersects')
            a = a + first
            a, b = a[a < b], b[a < b]
            both = shapely.area(shapely.intersection(boxes[a], boxes[b]))
            areas = shapely.area(boxes[a]), shapely.area(boxes[b])
            same = both > 0.9 * np.maximum(*areas)
            if same.any():
                one, other = paths[a[same][0]], paths[b[same][0]]
                raise ValueError(
                    f'{name}: expected one file per location, found {one} and {other} '
                    'at the same location. If each band has a separate file, set the option '
                    'filename_regex with a group (?P<band>...). If the files differ in '
                    'date, use a group (?P<date>...). Exclude duplicates with the option '
                    'glob, and merge files that fill gaps in each other'
                )
            half = both > 0.5 * np.minimum(*areas)
            partial += [*zip(paths[a[half]], paths[b[half]], strict=True)]
    if partial:
        one, other = partial[0]
        warnings.warn(
            f'{name}: files overlap by more than half of their area, such as {one} and '
            f'{other} (number of pairs: {len(partial)}); the overlap is read from the file '
            'that comes first by name',
            stacklevel=2,
        )


def _below(path: str) -> list[str]:
    """List all files in a folder and its subfolders, or the file itself."""
    if not os.path.isdir(path):
        # TorchGeo can list folders in archives and remote storage.
        files = find_files(path) if path.startswith('/vsi') else [path]
        return [f for f in files if not os.path.basename(f).startswith('.')]
    found, seen = [], set()
    for folder, inner, names in os.walk(path, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(i for i in inner if not i.startswith('.'))
        found += [os.path.join(folder, n) for n in names if not n.startswith('.')]
    return found


def _look(path: str, src: Any) -> RasterFile:
    if any('complex' in dtype for dtype in src.dtypes):
        raise ValueError(
            f'rasters must contain real numbers, got {src.dtypes[0]} in {path}; convert '
            'complex values to backscatter in dB'
        )
    # Read the last block of the last band, which is missing from a truncated file.
    height, width = src.block_shapes[-1]
    row, column = (src.height - 1) // height * height, (src.width - 1) // width * width
    window = Window(column, row, src.width - column, src.height - row)
    src.read(src.count, window=window)
    types = [np.dtype(t) for t in src.dtypes]
    floating = any(np.issubdtype(t, np.floating) for t in types)
    ranges = [np.finfo(t) if t.kind == 'f' else np.iinfo(t) for t in types]
    crs, transform, residual = _georeference(src)
    flags = src.mask_flag_enums
    return RasterFile(
        path=path,
        size=(src.width, src.height),
        nodata=src.nodatavals,
        alpha=tuple(
            band
            for band, meaning in enumerate(src.colorinterp, 1)
            if meaning == ColorInterp.alpha
        ),
        masked=any(
            MaskFlags.per_dataset in band and MaskFlags.alpha not in band
            for band in flags
        ),
        floating=floating,
        limits=(min(float(r.min) for r in ranges), max(float(r.max) for r in ranges)),
        descriptions=src.descriptions,
        scales=tuple(zip(src.scales, src.offsets, strict=True)),
        crs=crs,
        transform=transform,
        residual=residual,
    )


def _georeference(src: Any) -> tuple[CRS | None, Affine | None, float | None]:
    if not src.transform.is_identity:
        return src.crs, src.transform, None
    points, crs = src.gcps
    if not points or crs is None:
        return src.crs, None, None
    transform = from_gcps(points)
    a, b, c, d, e, f, *_ = ~transform
    distances = [
        np.hypot(a * p.x + b * p.y + c - p.col, d * p.x + e * p.y + f - p.row)
        for p in points
    ]
    return crs, transform, float(max(distances))
