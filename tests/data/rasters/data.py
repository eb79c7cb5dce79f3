"""Fake rasters of one place: three modalities and labels whose values tell where they are.

All show the same 320 x 160 pixels of 10 m, in UTM zone 12 north:

- ``optical``: two files side by side, 2 bands uint16, column and row of the pixel
  (times 10, plus 100); nodata 65535 in the 24 columns in the west
- ``radar``: one file of 20 m, 2 bands float32, metres east and north of the south-western
  corner, divided by 100; no nodata value; 40 m more on every side
- ``dem``: one file in longitude and latitude, float32, metres east of the corner; -9999 in
  a hole; larger than the others
- ``labels``: one file, uint8, 0 to 3 by quarters of the place; nodata 255 in the north
"""

from pathlib import Path
from typing import Any

import numpy as np
from pyproj import Transformer
from rasterio.transform import Affine, from_origin, xy

from tests.helpers.fake_data import write_bands

UTM = 'EPSG:32612'
WEST, SOUTH = 300000.0, 4100000.0
COLUMNS, ROWS, RES = 320, 160, 10.0
NORTH = SOUTH + ROWS * RES
RIM = 24
HOLE = (120, 130, 20, 30)  # columns from, to; rows from, to


def write(
    path: Path,
    bands: np.ndarray,
    transform: Affine | None,
    crs: str | None,
    **more: Any,
) -> Path:
    """Write a GeoTIFF of bands (C, H, W)."""
    place = {'transform': transform, 'crs': crs} if crs else {}
    write_bands(path, bands, **place, **more)
    return path


def centres(
    transform: Affine, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the centres of all pixels, each of shape (height, width)."""
    rows, columns = np.mgrid[:height, :width]
    x, y = xy(transform, rows.ravel(), columns.ravel())
    return np.reshape(x, (height, width)), np.reshape(y, (height, width))


def make(root: Path) -> Path:
    """Write all rasters below a folder."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    optical = np.stack([columns, rows]).astype(np.uint16) * 10 + 100
    optical[:, :, :RIM] = 65535
    half = COLUMNS // 2
    for name, first in (('a_west', 0), ('b_east', half)):
        corner = from_origin(WEST + first * RES, NORTH, RES, RES)
        part = optical[:, :, first : first + half]
        write(root / 'optical' / f'{name}.tif', part, corner, UTM, nodata=65535)

    corner = from_origin(WEST - 40, NORTH + 40, 20, 20)
    x, y = centres(corner, ROWS // 2 + 4, COLUMNS // 2 + 4)
    radar = np.stack([(x - WEST) / 100, (y - SOUTH) / 100]).astype(np.float32)
    write(root / 'radar' / 'radar.tif', radar, corner, UTM)

    to_degrees = Transformer.from_crs(UTM, 'EPSG:4326', always_xy=True)
    to_metres = Transformer.from_crs('EPSG:4326', UTM, always_xy=True)
    x, y = to_degrees.transform(
        [
            WEST - 100,
            WEST - 100,
            WEST + COLUMNS * RES + 100,
            WEST + COLUMNS * RES + 100,
        ],
        [SOUTH - 100, NORTH + 100, SOUTH - 100, NORTH + 100],
    )
    step = 1e-4
    corner = from_origin(min(x), max(y), step, step)
    height, width = int((max(y) - min(y)) / step), int((max(x) - min(x)) / step)
    east, north = to_metres.transform(*centres(corner, height, width))
    column, row = (east - WEST) / RES, (NORTH - north) / RES
    a, b, c, d = HOLE
    hole = (column >= a) & (column < b) & (row >= c) & (row < d)
    dem = np.where(hole, -9999, east - WEST).astype(np.float32)[None]
    write(root / 'dem' / 'dem.tif', dem, corner, 'EPSG:4326', nodata=-9999)

    labels = (2 * (rows >= ROWS // 2) + (columns >= half)).astype(np.uint8)[None]
    labels[:, :8] = 255
    corner = from_origin(WEST, NORTH, RES, RES)
    write(root / 'labels' / 'labels.tif', labels, corner, UTM, nodata=255)
    return root
