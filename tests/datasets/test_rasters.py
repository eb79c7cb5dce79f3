"""Rasters are read as they were meant: dates, missing pixels, types, one file a band."""

from pathlib import Path
from typing import Any

import numpy as np
from fake_data import Dated, write_bands
from numpy.typing import NDArray
from rasterio.transform import from_origin

from torchgeo_decur.datamodules import RasterPairDataModule

SIZE = 64
UTM = 'EPSG:32632'
PLACE = from_origin(500_000, 5_000_000, 10, 10)


class Yearly(Dated):
    """Labels whose file names hold the year."""

    filename_regex = r'(?P<date>\d{4})'
    date_format = '%Y'
    all_bands = ()
    is_image = False


def scene(path: Path, values: NDArray[Any] | float, **options: Any) -> str:
    """Write a raster of 64 x 64 pixels of 10 m, by default of one band that varies."""
    if isinstance(values, int | float):
        values = values + np.arange(SIZE * SIZE).reshape(1, SIZE, SIZE) % 2
        values = values.astype(np.uint16)
    write_bands(path, values, **{'crs': UTM, 'transform': PLACE, **options})
    return str(path)


def entry(paths: str | Path, *bands: str, **more: Any) -> dict[str, Any]:
    count = len(bands or ('x',))
    statistics = {'mean': [100.0] * count, 'std': [50.0] * count}
    return {'paths': str(paths), 'bands': list(bands or ('x',)), **statistics, **more}


def module(
    rasters: dict[str, Any], stage: str = 'predict', **options: Any
) -> RasterPairDataModule:
    defaults: dict[str, Any] = {
        'patch_size': 16,
        'length': 4,
        'max_nodata': 0.9,
        'val_fraction': 0.4,
    }
    dm = RasterPairDataModule(rasters, **defaults | options)
    dm.setup(stage)
    return dm


def test_labels_are_of_the_date_of_the_images(tmp_path: Path) -> None:
    both = np.arange(2 * SIZE * SIZE, dtype=np.uint16).reshape(2, SIZE, SIZE)
    scene(tmp_path / 'a' / '20200615.tif', both)
    scene(tmp_path / 'b' / 'b.tif', 20)
    for year in (2018, 2019, 2020):
        labels = np.full((1, SIZE, SIZE), year - 2018, np.uint8)
        scene(tmp_path / 'labels' / f'{year}.tif', labels)
    dated = {'dataset': 'fake_data.Dated', 'bands': ['first']}
    dm = module(
        {'a': entry(tmp_path / 'a') | dated, 'b': entry(tmp_path / 'b')},
        'fit',
        mask={'paths': str(tmp_path / 'labels'), 'dataset': f'{__name__}.Yearly'},
    )
    assert {int(x) for s in dm.train_dataset for x in s['mask'].unique()} == {2}
    start = dm.train_dataset[0]['bounds'][6].item()
    assert start == np.datetime64('2020-06-15').astype('datetime64[s]').astype(int)
