"""Fake GeoNRW: small tiles in the true layout, whose pixels say where they are."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

CITIES = {'aachen': 2, 'bonn': 1, 'herne': 1}


def write(path: Path, values: np.ndarray, **options: object) -> None:
    """Write a georeferenced file of shape (C, H, W)."""
    with rasterio.open(
        path,
        'w',
        width=values.shape[2],
        height=values.shape[1],
        count=values.shape[0],
        dtype=values.dtype,
        crs='EPSG:25832',
        transform=from_origin(300_000, 5_700_000, 1, 1),
        **options,
    ) as file:
        file.write(values)


def tile(number: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Photograph (tile and stripes, row, column), elevation (all in one number) and classes."""
    row, column = np.mgrid[:size, :size]
    rgb = np.stack([50 * number + (row + column) % 8, row, column]).astype(np.uint8)
    dem = (100.0 * number + row + column / 128)[None].astype(np.float32)
    mask = ((row // 4 + column // 4) % 11)[None].astype(np.uint8)
    return rgb, dem, mask


def make(root: Path, cities: Mapping[str, int] = CITIES, size: int = 64) -> Path:
    """Write so many tiles for each city, numbered on; returns the root."""
    number = 0
    for city, count in cities.items():
        (root / city).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            rgb, dem, mask = tile(number, size)
            stem = root / city / f'{300 + number}_5700'
            options = {'QUALITY': '100', 'REVERSIBLE': 'YES', 'YCBCR420': 'NO'}
            write(Path(f'{stem}_rgb.jp2'), rgb, driver='JP2OpenJPEG', **options)
            write(Path(f'{stem}_dem.tif'), dem, driver='GTiff')
            write(Path(f'{stem}_seg.tif'), mask, driver='GTiff')
            number += 1
    return root
