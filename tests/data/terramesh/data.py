"""Fake TerraMesh: tiny places in the true layout, whose values say what they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.helpers.zarr_files import Array, growing, write_shard

S2 = 'B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12'.split()
BANDS = {
    'S1GRD': ['vv', 'vh'],
    'S1RTC': ['vv', 'vh'],
    'S2L1C': S2,
    'S2L2A': [b for b in S2 if b != 'B10'],
    'S2RGB': ['B04', 'B03', 'B02'],
    'NDVI': ['ndvi'],
    'DEM': ['dem'],
    'LULC': ['lulc'],
}
DTYPE = {'S1GRD': 'float16', 'S1RTC': 'float16', 'NDVI': 'float16'}
DTYPE |= {'S2RGB': 'uint8', 'LULC': 'uint8'}


def date(number: int) -> str:
    """Day of a place: every other one is after processing baseline 04.00 began."""
    return '2023-06-10' if number % 2 else '2020-01-11'


def value(number: int, band: int, folder: str) -> float:
    """Value of the upper left pixel in the unit, which tells place and band."""
    if folder in ('S1GRD', 'S1RTC'):
        return -8.0 - number % 4 - 7 * band - (0.5 if folder == 'S1RTC' else 0)
    if folder == 'S2RGB':
        return 10.0 + number % 64 + band
    if folder == 'NDVI':
        return -0.5
    if folder == 'DEM':
        return 100.0 + number
    if folder == 'LULC':
        return 0.0
    # Cirrus is dark.
    return 20.0 if BANDS[folder][band] == 'B10' else 600.0 + 100 * (number % 8) + band


def place(folder: str, number: int, size: int = 12) -> dict[str, Array]:
    """Arrays of one place; those of every other one carry the offset."""
    dtype = DTYPE.get(folder, 'int16')
    offset = 1000 if folder in ('S2L1C', 'S2L2A') and not number % 2 else 0
    image = [
        growing(value(number, b, folder) + offset, size, dtype)
        for b in range(len(BANDS[folder]))
    ]
    if folder == 'LULC':
        image = [(np.indices((size, size)).sum(0) + number).astype('uint8') % 10]
    time = 0 if folder == 'DEM' else np.datetime64(date(number), 'ns').astype(int)
    x = 400_005.0 + 10_000 * number + 10 * np.arange(size)
    y = 5_799_995.0 - 10 * np.arange(size)
    bands = np.stack(image)[None]
    return {
        'band': (np.array(BANDS[folder]), ('band',), None, {}),
        'bands': (bands, ('time', 'band', 'y', 'x'), bands.shape, {}),
        'center_lat': (np.array(52.3), (), None, {}),
        'center_lon': (np.array(7.5), (), None, {}),
        'crs': (np.array(32632), (), None, {}),
        'sample': (np.array(f'{number:07}_0'), (), None, {}),
        'time': (
            np.array([time]),
            ('time',),
            None,
            {'units': 'nanoseconds since 1970-01-01'},
        ),
        'x': (x, ('x',), None, {}),
        'y': (y, ('y',), None, {}),
    }


def make(
    root: Path,
    splits: Mapping[str, Sequence[int]] = {'train': (6, 2), 'val': (4, 0)},
    folders: Sequence[str] = ('S1GRD', 'S1RTC', 'S2L1C'),
    size: int = 12,
    per_shard: int = 4,
) -> Path:
    """Write shards of places of Major TOM and of SSL4EO-S12; returns the root."""
    for split, counts in splits.items():
        shard = 0
        sources = (('majortom', 'S1GRD'), ('ssl4eos12', 'S1RTC'))
        for (source, lacks), count in zip(sources, counts, strict=True):
            for first in range(0, count, per_shard):
                shard += 1
                some = range(first, min(first + per_shard, count))
                for folder in folders:
                    if folder == lacks:
                        continue
                    members = {
                        f'{source}_{split}_{n:07}': place(folder, n, size) for n in some
                    }
                    name = f'{source}_shard_{shard:06}.tar'
                    write_shard(root / split / folder / name, members)
    return root
