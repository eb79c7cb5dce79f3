"""Read raster files and raise errors that name the file."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window
from torch import Tensor
from torchgeo.datasets import DatasetNotFoundError, NonGeoDataset

from ..files import UnreadableFileError as UnreadableFileError

GDAL_OPTIONS = {
    # Prevent GDAL from listing the folder of every file to find sidecar files.
    'GDAL_DISABLE_READDIR_ON_OPEN': 'EMPTY_DIR',
    # Tiles are small, and the data loader workers already use all cores.
    'GDAL_NUM_THREADS': '1',
}


_RESTORE = 'restore the original file'


# Pixel size of the coarser Sentinel-2 bands, in multiples of 10 m.
SENTINEL2_RATIO = dict.fromkeys(('B5', 'B6', 'B7', 'B8A', 'B11', 'B12'), 2) | (
    dict.fromkeys(('B1', 'B9', 'B10'), 6)
)


def read(
    path: str | Path,
    bands: int = 1,
    sizes: Sequence[int] | None = None,
    window: Window | None = None,
) -> Tensor:
    """Read a square raster file.

    Args:
        path: path of the file.
        bands: expected number of bands.
        sizes: allowed side lengths in pixels, or None for any length.
        window: window to read, or None for the whole image.

    Returns:
        The values, float32, shape (C, H, W).

    Raises:
        UnreadableFileError: if the file is missing, truncated or not a raster.
        ValueError: if the file has an unexpected size or number of bands, or is not
            square.
    """
    with _opened(path) as file:
        _check_count(path, file, bands)
        wrong = sizes is not None and file.width not in sizes
        if file.width != file.height or wrong:
            expected = ' or '.join(f'{s} x {s}' for s in sizes or 'N')
            raise ValueError(
                f'{path}: expected {expected} pixels, found '
                f'{file.height} x {file.width}; restore the original file'
            )
        return torch.from_numpy(file.read(window=window).astype(np.float32))


def read_image(
    path: str | Path,
    bands: int = 1,
    size: Sequence[int] | None = None,
    cure: str = _RESTORE,
) -> Tensor:
    """Read a raster or photograph of any shape.

    Args:
        path: path of an 8-bit or 16-bit PNG, JPEG, TIFF or other file that GDAL reads.
        bands: expected number of bands.
        size: expected height and width, or None for any size.
        cure: advice in the error message for a wrong number of bands.

    Returns:
        The values, float32, shape (C, H, W).

    Raises:
        UnreadableFileError: if the file is missing, truncated or not a raster.
        ValueError: if the file has an unexpected size or number of bands.
    """
    with rasterio.Env(**GDAL_OPTIONS), _opened(path) as file:
        _check_count(path, file, bands, cure)
        if size is not None and (file.height, file.width) != tuple(size):
            raise ValueError(
                f'{path}: expected {size[0]} x {size[1]} pixels as in the other files of '
                f'the frame, found {file.height} x {file.width}; restore the original '
                'file or set the option size'
            )
        image = torch.from_numpy(file.read().astype(np.float32))
        # GDAL silently pads a truncated PNG with zeros.
        if file.driver == 'PNG' and b'IEND' not in Path(path).read_bytes()[-16:]:
            raise UnreadableFileError(
                f'{path} is truncated or not a raster (PNG without end marker); '
                'restore it, or set skip_unreadable=True'
            )
        return image


def read_size(path: str | Path) -> int:
    """Return the length of the shorter side of a raster file in pixels.

    Raises:
        UnreadableFileError: if the file is missing, truncated or not a raster.
    """
    with _opened(path) as file:
        return int(min(file.width, file.height))


def not_found(dataset: NonGeoDataset, expected: str) -> DatasetNotFoundError:
    """Create TorchGeo's error for a missing dataset and add the expected files to it."""
    error = DatasetNotFoundError(dataset)
    error.args = (f'{error.args[0]} Expected {expected}.',)
    return error


def _check_count(path: str | Path, file: Any, bands: int, cure: str = _RESTORE) -> None:
    if file.count != bands:
        raise ValueError(
            f'{path}: expected {bands} band(s), found {file.count}; {cure}'
        )


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """Open a raster file and raise errors that name the file and a fix."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', NotGeoreferencedWarning)
            # Do not read the georeference: it is not used, and looking up a CRS is slow. An
            # open option, unlike a GDAL config option, does not affect other files.
            tile = Path(path).suffix.lower() in ('.tif', '.tiff')
            options = {'GEOREF_SOURCES': 'NONE'} if tile else {}
            with rasterio.open(path, **options) as file:
                yield file
    except RasterioIOError as error:
        if not Path(path).exists():
            raise UnreadableFileError(
                f'{path} is missing; restore it, or set skip_unreadable=True'
            ) from error
        raise UnreadableFileError(
            f'{path} is truncated or not a raster '
            f'({error.__cause__ or error}); restore it, or set skip_unreadable=True'
        ) from error
