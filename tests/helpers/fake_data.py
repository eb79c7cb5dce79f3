"""Write fake files, as in tests/data."""

import runpy
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from torchgeo.datasets import RasterDataset

_DRIVERS = {'.png': 'PNG', '.jpg': 'JPEG', '.tif': 'GTiff'}


def fake(name: str) -> Any:
    """Return the namespace of tests/data/<name>/data.py."""
    path = Path(__file__).parents[1] / 'data' / name / 'data.py'
    return SimpleNamespace(**runpy.run_path(str(path)))


def write_bands(path: Path, bands: np.ndarray, **options: Any) -> None:
    """Write an image of shape (C, H, W), in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = bands.shape
    driver = _DRIVERS[path.suffix]
    options |= {'count': count, 'height': height, 'width': width, 'dtype': bands.dtype}
    options |= {'QUALITY': 100} if driver == 'JPEG' else {}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with rasterio.open(path, 'w', driver=driver, **options) as file:
            file.write(bands)


def write_growing(
    path: Path, size: int, corner: float, dtype: str, bands: int, **options: Any
) -> None:
    """Write a square file with values that increase to the right from a start value."""
    step = 0.125 if dtype == 'float32' else 4
    values = np.full((bands, size, size), corner) + step * np.arange(size)
    write_bands(path, values.astype(dtype), **options)


class Dated(RasterDataset):
    """Dataset of files with the date in their names."""

    filename_glob = '*.tif'
    filename_regex = r'(?P<date>\d{8})'
    all_bands = ('first', 'second')
