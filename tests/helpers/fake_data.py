"""Fake files: those of tests/data, and what their writers share."""

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
    """What tests/data/<name>/data.py defines: `make` and more."""
    path = Path(__file__).parents[1] / 'data' / name / 'data.py'
    return SimpleNamespace(**runpy.run_path(str(path)))


def write_bands(path: Path, bands: np.ndarray, **options: Any) -> None:
    """Write an image of shape (C, H, W), in the format that its name tells."""
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
    """Write a square file that grows to the right from the value of its corner."""
    step = 0.125 if dtype == 'float32' else 4
    values = np.full((bands, size, size), corner) + step * np.arange(size)
    write_bands(path, values.astype(dtype), **options)


class Dated(RasterDataset):
    """Files whose names hold the date."""

    filename_glob = '*.tif'
    filename_regex = r'(?P<date>\d{8})'
    all_bands = ('first', 'second')
