"""Fake SSL4EO-S12 v1.1: tiny places in both true layouts, whose values say what they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.helpers.zarr_files import Array, growing, write_shard, write_zarr_zip

S2 = 'B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12'.split()
BANDS = {
    'S1GRD': ['vv', 'vh'],
    'S2L1C': S2,
    'S2L2A': [b for b in S2 if b != 'B10'],
    'S2RGB': ['B04', 'B03', 'B02'],
    'DEM': ['dem'],
}
DTYPE = {'S1GRD': 'float16', 'S2RGB': 'uint8'}
#: Both modalities of a date are four days apart.
DATES = {
    's1': ['2020-01-10', '2020-04-10', '2020-07-10', '2020-10-10'],
    's2': ['2020-01-14', '2020-04-14', '2020-07-14', '2020-10-14'],
}


def value(place: int, date: int, band: int, folder: str = 'S2L1C') -> float:
    """Value of the upper left pixel in the unit, which tells place, date and band."""
    if folder == 'S1GRD':
        return -8.0 - place - 0.25 * date - 7 * band
    if folder == 'S2RGB':
        return 10.0 * (date + 1) + place + band
    if folder == 'DEM':
        return 100.0 + place
    # Cirrus is dark: without the offset, its numbers are some tens.
    if BANDS[folder][band] == 'B10':
        return 20.0 + date
    return 500.0 * (date + 1) + 50 * (place % 8) + band


def number(place: int) -> str:
    """Name of a place, as in version 1.0."""
    return f'{place * 7 + 3:07}'


def _image(place: int, folder: str, dates: Sequence[int], size: int) -> np.ndarray:
    dtype = DTYPE.get(folder, 'int16')
    offset = 1000 if folder in ('S2L1C', 'S2L2A') else 0
    bands = range(len(BANDS[folder]))
    return np.stack(
        [
            [growing(value(place, d, b, folder) + offset, size, dtype) for b in bands]
            for d in dates
        ]
    )


def _dates(folder: str) -> np.ndarray:
    return np.array(DATES['s1' if folder == 'S1GRD' else 's2'], 'datetime64[ns]')


def _centres(place: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    x = 400_005.0 + 10_000 * place + 10 * np.arange(size)
    return x, 5_799_995.0 - 10 * np.arange(size)


def _coordinates(folder: str, size: int) -> dict[str, Array]:
    pixels = np.arange(size)
    return {
        'band': (np.array(BANDS[folder]), ('band',), None, {}),
        'x': (pixels, ('x',), None, {}),
        'y': (pixels, ('y',), None, {}),
    }


def places(
    folder: str,
    numbers: Sequence[int],
    dates: Sequence[int] = (0, 1, 2, 3),
    size: int = 12,
    chunk: int = 1,
) -> dict[str, Array]:
    """Arrays of a file of many places."""
    images = np.stack([_image(p, folder, dates, size) for p in numbers])
    times = (_dates(folder)[list(dates)] - np.datetime64('2020-01-01')).astype(int)
    xy = [_centres(p, size) for p in numbers]
    n = len(numbers)
    return {
        **_coordinates(folder, size),
        'sample': (np.array([number(p) for p in numbers]), ('sample',), None, {}),
        'time': (np.arange(len(dates)), ('time',), None, {}),
        'bands': (
            images,
            ('sample', 'time', 'band', 'y', 'x'),
            (chunk, 1, *images.shape[2:]),
            {},
        ),
        'center_lat': (np.full(n, 52.3), ('sample',), None, {}),
        'center_lon': (np.full(n, 7.5), ('sample',), None, {}),
        'crs': (np.full(n, 32632), ('sample',), None, {}),
        # xarray writes dates from the first one.
        'time_': (
            np.tile(times // 1_000_000_000, (n, 1)),
            ('sample', 'time'),
            None,
            {
                'units': 'seconds since 2020-01-01 00:00:00',
                'calendar': 'proleptic_gregorian',
            },
        ),
        'x_': (np.stack([x for x, _ in xy]), ('sample', 'x'), None, {}),
        'y_': (np.stack([y for _, y in xy]), ('sample', 'y'), None, {}),
    }


def place(folder: str, place: int, size: int = 12) -> dict[str, Array]:
    """Arrays of a file of one place, as in a shard."""
    dates = (0,) if folder == 'DEM' else (0, 1, 2, 3)
    images = _image(place, folder, dates, size)
    x, y = _centres(place, size)
    times = np.zeros(1, int) if folder == 'DEM' else _dates(folder).astype(int)
    return {
        'band': (np.array(BANDS[folder]), ('band',), None, {}),
        'bands': (images, ('time', 'band', 'y', 'x'), (1, *images.shape[1:]), {}),
        'center_lat': (np.array(52.3), (), None, {}),
        'center_lon': (np.array(7.5), (), None, {}),
        'crs': (np.array(32632), (), None, {}),
        'sample': (np.array(number(place)), (), None, {}),
        'time': (times, ('time',), None, {'units': 'nanoseconds since 1970-01-01'}),
        'x': (x, ('x',), None, {}),
        'y': (y, ('y',), None, {}),
    }


def make(
    root: Path,
    splits: Mapping[str, int] = {'train': 6, 'val': 4},
    folders: Sequence[str] = ('S1GRD', 'S2L1C'),
    size: int = 12,
    per_file: int = 4,
    chunk: int = 1,
) -> Path:
    """Write files of many places; returns the root."""
    for split, count in splits.items():
        for first in range(0, count, per_file):
            some = range(first, min(first + per_file, count))
            name = (
                f'ssl4eos12_{split}_seasonal_data_{first // per_file + 1:06}.zarr.zip'
            )
            for folder in folders:
                arrays = places(folder, some, size=size, chunk=chunk)
                write_zarr_zip(root / split / folder / name, arrays)
    return root


def make_shards(
    root: Path,
    splits: Mapping[str, int] = {'train': 6},
    folders: Sequence[str] = ('S1GRD', 'S2L1C'),
    size: int = 12,
) -> Path:
    """Write tar shards of up to four places; returns the root."""
    for split, count in splits.items():
        for first in range(0, count, 4):
            for folder in folders:
                shard = f'ssl4eos12_shard_{first // 4 + 1:06}.tar'
                members = {
                    f'ssl4eos12_{split}_seasonal_data_{p:07}': place(folder, p, size)
                    for p in range(first, min(first + 4, count))
                }
                write_shard(root / split / folder / shard, members)
    return root
