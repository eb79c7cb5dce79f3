"""Fake SSL4EO-S12: tiny files in the true layout, whose values say what they are."""

from collections.abc import Sequence
from pathlib import Path

from rasterio.transform import from_origin

from tests.helpers.fake_data import write_growing

S1 = ('VV', 'VH')
S2 = {
    's2c': tuple('B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12'.split()),
    's2a': tuple('B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12'.split()),
}
RATIO = {**dict.fromkeys('B5 B6 B7 B8A B11 B12'.split(), 2)}
RATIO |= dict.fromkeys('B1 B9 B10'.split(), 6)
MONTHS = ('01', '04', '07', '10')


def value(place: int, date: int, band: str, split: str = 's2c') -> float:
    """Value of the upper left pixel, which tells place, date and band."""
    if band in S1:
        return -8.0 - place - 0.25 * date - 7 * S1.index(band)
    # 1000 and a little in B10 would be the offset of newer products.
    return 1000.0 * (date + 2) + 100 * place + S2[split].index(band)


def product(split: str, date: int) -> str:
    """Name of the folder of one date: Sentinel-2 flies two days after Sentinel-1."""
    if split == 's1':
        day = f'2020{MONTHS[date]}10'
        return f'S1A_IW_GRDH_1SDV_{day}T060000_{day}T060025_033000_03D000_A1B2'
    day = f'2020{MONTHS[date]}12'
    return f'{day}T103000_{day}T103500_T32UME'


def write(path: Path, size: int, corner: float, dtype: str, bands: int = 1) -> None:
    """Write a square file that grows to the right from the value of its corner."""
    place = from_origin(400_000, 5_800_000, 10, 10)
    write_growing(path, size, corner, dtype, bands, crs='EPSG:32632', transform=place)


def make(
    root: Path,
    places: Sequence[int] = (0, 1, 3),
    dates: Sequence[int] = (0, 1, 2, 3),
    splits: Sequence[str] = ('s1', 's2c'),
    size: int = 12,
) -> Path:
    """Write places, a hole among their numbers included; returns the root."""
    for split in splits:
        for place in places:
            for date in dates:
                folder = root / split / f'{place:07}' / product(split, date)
                for band in S1 if split == 's1' else S2[split]:
                    write(
                        folder / f'{band}.tif',
                        size // RATIO.get(band, 1),
                        value(place, date, band, split),
                        'float32' if split == 's1' else 'uint16',
                    )
    return root
