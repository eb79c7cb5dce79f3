"""Check rasters with unusual marks of missing pixels."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.transform import from_origin

from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.datamodules.band_statistics import Moments
from torchgeo_decur.modalities import Modality

LOWEST = float(np.finfo(np.float32).min)


def write(path: Path, image: NDArray[Any], res: float, nodata: float | None) -> str:
    _, height, width = image.shape
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        height=height,
        width=width,
        count=1,
        dtype=image.dtype,
        crs='EPSG:32632',
        transform=from_origin(500_000, 5_000_000, res, res),
        nodata=nodata,
    ) as file:
        file.write(image)
    return str(path)


def rasters(
    folder: Path,
    mark: float,
    *,
    declared: bool = True,
    res: float = 10.0,
    holes: bool = False,
    dtype: str = 'float32',
) -> dict[str, Any]:
    """Write optics and heights of 300 x 200 pixels, with 20 missing columns."""
    draw = np.random.default_rng(0)
    optics = draw.normal(100, 10, (1, 200, 300)).astype(np.float32)
    heights = draw.normal(1000, 50, (1, 200, 300)).astype(dtype)
    heights[:, :, :20] = mark
    if holes:
        heights[:, 180:, 100:120] = np.nan
        heights[:, 180:, 120:130] = np.inf
    dem: dict[str, Any] = {'bands': ['z'], 'mean': [1000.0], 'std': [50.0]}
    dem['paths'] = write(folder / 'dem.tif', heights, res, mark if declared else None)
    if not declared:
        dem['nodata'] = mark
    path = write(folder / 'optics.tif', optics, 10.0, None)
    return {
        'optics': {'paths': path, 'bands': ['x'], 'mean': [100.0], 'std': [10.0]},
        'dem': dem,
    }


def windows(entries: dict[str, Any], **options: Any) -> RasterPairDataModule:
    dm = RasterPairDataModule(
        entries, patch_size=32, length=60, batch_size=4, max_nodata=0.9, **options
    )
    dm.setup('fit')
    return dm


def check(dm: RasterPairDataModule) -> None:
    """Check that exactly the expected pixels are missing in all windows."""
    missing = 0
    for i in range(60):
        x = dm.train_dataset[i]['image_dem']
        nodata = dm.modalities['dem'].nodata
        assert nodata is not None
        invalid = x.isnan() if math.isnan(nodata) else x == nodata
        missing += int(invalid.sum())
        assert x[~invalid].min() > 500 and x[~invalid].max() < 1500
        assert dm.aug({'image_dem': x[None]})['image_dem'].isfinite().all()
    assert missing > 0


@pytest.mark.parametrize('mark', [LOWEST, -LOWEST, -9999.0])
@pytest.mark.parametrize('declared', [True, False])
@pytest.mark.parametrize('res', [10.0, 20.0])
@pytest.mark.filterwarnings('ignore:Converting RasterFolder res')
def test_excludes_the_value_of_the_files(
    tmp_path: Path, mark: float, declared: bool, res: float
) -> None:
    check(windows(rasters(tmp_path, mark, declared=declared, res=res)))


def test_excludes_the_value_in_the_first_raster(tmp_path: Path) -> None:
    entries = rasters(tmp_path, LOWEST)
    check(windows(dict(reversed(entries.items()))))


def test_estimates_statistics_without_nodata(tmp_path: Path) -> None:
    entries = rasters(tmp_path, LOWEST)
    del entries['dem']['mean'], entries['dem']['std']
    mean = windows(entries).modalities['dem'].mean
    assert mean is not None and mean[0] == pytest.approx(1000, abs=5)


@pytest.mark.parametrize('mark', [-9999.0, LOWEST])
def test_excludes_holes_beside_the_declared_value(tmp_path: Path, mark: float) -> None:
    check(windows(rasters(tmp_path, mark, holes=True)))


def test_refuses_nan_in_place_of_the_declared_value(tmp_path: Path) -> None:
    entries = rasters(tmp_path, -9999.0)
    entries['dem']['nodata'] = math.nan
    with pytest.raises(ValueError, match=r'dem: nodata must not be NaN.*-9999'):
        windows(entries)


@pytest.mark.parametrize(
    ('nodata', 'cure'), [(None, r'nodata: \.nan'), (-9999.0, r'modality, -9999\.0$')]
)
def test_nodata_hint_keeps_the_declared_value(nodata: float | None, cure: str) -> None:
    modality = Modality.of(
        {'bands': ['z'], 'kind': 'rgb', 'unit': 'm', 'nodata': nodata}
    )
    image = torch.tensor([[[1.0, 2.0, torch.nan, -9999.0]]])
    with pytest.raises(ValueError, match=f'^dem: expected finite values.*{cure}'):
        Moments(modality).add('dem', image)


def test_tiles_that_are_warped(tmp_path: Path) -> None:
    entries = rasters(tmp_path, -9999.0)
    draw = np.random.default_rng(0)
    (tmp_path / 'tiles').mkdir()
    for number, (west, north) in enumerate(((9.0, 45.16), (9.02, 45.16))):
        with rasterio.open(
            tmp_path / 'tiles' / f'{number}.tif',
            'w',
            driver='GTiff',
            height=300,
            width=200,
            count=1,
            dtype='int16',
            crs='EPSG:4326',
            transform=from_origin(west, north, 1e-4, 1e-4),
        ) as file:
            file.write(draw.integers(500, 1500, (1, 300, 200), dtype=np.int16))
    tiles = {'paths': str(tmp_path / 'tiles'), 'bands': ['t']}
    entries['tiles'] = {**tiles, 'mean': [1000.0], 'std': [300.0]}
    for nodata in (None, -32768):
        entries['tiles']['nodata'] = nodata
        dm = windows(entries)
        images = [dm.train_dataset[i]['image_tiles'] for i in range(20)]
        found = torch.cat([image.flatten() for image in images])
        missing = found.isnan() if nodata is None else found == nodata
        assert found[~missing].min() >= 500


def tile(path: Path, crs: str, transform: Affine) -> None:
    """Write integers from 500 to 1500, without a declared nodata value."""
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        height=300,
        width=300,
        count=1,
        dtype='uint16',
        crs=crs,
        transform=transform,
    ) as file:
        draw = np.random.default_rng(0)
        file.write(draw.integers(500, 1500, (1, 300, 300), dtype=np.uint16))


# Where two zones of UTM meet, in the two; the third tile lies on the second.
ZONES = {
    'a': ('EPSG:32632', from_origin(734_000, 4_988_000, 10, 10)),
    'b': ('EPSG:32633', from_origin(263_600, 4_987_330, 10, 10)),
    'c': ('EPSG:32633', from_origin(265_700, 4_987_330, 10, 10)),
}
TURN = Affine.rotation(-8) @ Affine.scale(10, -10)
TURNED = {
    'a': ('EPSG:32632', Affine.translation(734_000, 4_988_000) @ TURN),
    'b': ('EPSG:32632', Affine.translation(736_600, 4_988_000) @ TURN),
}
UPRIGHT = {
    'a': ('EPSG:32632', from_origin(734_000, 4_988_000, 10, 10)),
    'b': ('EPSG:32632', from_origin(736_600, 4_988_000, 10, 10)),
}
OBLONG = {
    'a': ('EPSG:32632', from_origin(734_000, 4_988_000, 10, 20)),
    'b': ('EPSG:32632', from_origin(736_600, 4_988_000, 10, 20)),
}


def tiled(folder: Path, tiles: dict[str, tuple[str, Affine]]) -> dict[str, Any]:
    folder.mkdir()
    for name, place in tiles.items():
        tile(folder / f'{name}.tif', *place)
    entry: dict[str, Any] = {'paths': str(folder), 'bands': ['t']}
    return {**entry, 'mean': [1000.0], 'std': [300.0]}


@pytest.mark.parametrize('tiles', [ZONES, TURNED, {'a': TURNED['a']}])
@pytest.mark.parametrize('use', ['first', 'second'])
@pytest.mark.filterwarnings('ignore:Converting RasterFolder res')
def test_padding_of_rotated_tiles_is_missing(
    tmp_path: Path, tiles: dict[str, tuple[str, Affine]], use: str
) -> None:
    entry = tiled(tmp_path / 'tiles', tiles)
    (tmp_path / 'other').mkdir()
    tile(tmp_path / 'other' / 'a.tif', *UPRIGHT['a'])
    both = {'o': {**entry, 'paths': str(tmp_path / 'other')}, 'tiles': entry}
    for nodata in (None, 0):
        entry['nodata'] = nodata
        dm = windows(dict(reversed(both.items())) if use == 'first' else both)
        images = [dm.train_dataset[i]['image_tiles'] for i in range(60)]
        found = torch.cat([image.flatten() for image in images])
        missing = found.isnan() if nodata is None else found == nodata
        assert found[~missing].min() >= 500
        assert missing.any() or tiles is ZONES


@pytest.mark.parametrize(
    ('tiles', 'named'), [(ZONES, 'b'), (TURNED, 'a'), ({'a': TURNED['a']}, 'a')]
)
def test_rotated_labels_need_a_nodata_value(
    tmp_path: Path, tiles: dict[str, tuple[str, Affine]], named: str
) -> None:
    entry = tiled(tmp_path / 'tiles', tiles)
    (tmp_path / 'other').mkdir()
    tile(tmp_path / 'other' / 'a.tif', *UPRIGHT['a'])
    other = {**entry, 'paths': str(tmp_path / 'other')}
    mask: dict[str, Any] = {'paths': entry['paths']}
    message = rf'mask: nodata must be set, because .*{named}\.tif'
    with pytest.raises(ValueError, match=message):
        windows({'o': other, 'p': other}, mask=mask)
    mask['nodata'] = 0
    dm = windows({'o': other, 'p': other}, mask=mask)
    found = torch.cat([dm.train_dataset[i]['mask'].flatten() for i in range(60)])
    assert found[found != 0].min() >= 500


@pytest.mark.parametrize('tiles', [UPRIGHT, OBLONG])
@pytest.mark.filterwarnings('ignore:Converting RasterFolder res')
def test_upright_tiles_need_none(
    tmp_path: Path, tiles: dict[str, tuple[str, Affine]]
) -> None:
    entry = tiled(tmp_path / 'tiles', tiles)
    dm = windows({'tiles': entry, 'again': entry})
    assert min(dm.train_dataset[i]['image_tiles'].min() for i in range(60)) >= 500


def test_prediction_covers_unlabelled_areas(tmp_path: Path) -> None:
    entries = rasters(tmp_path, -9999.0)
    labels = np.zeros((1, 100, 250), np.uint8)
    mask = {'paths': write(tmp_path / 'labels.tif', labels, 10.0, None)}
    dm = windows(entries, mask={**mask, 'num_classes': 2})
    assert 'mask' in dm.train_dataset[0]
    dm.setup('predict')
    west, south, east, north = dm.predict_dataset.rasters.footprint.bounds
    assert ((east - west) / 10, (north - south) / 10) == (300, 200)
    assert 'mask' not in dm.predict_dataset[0]
    dm.setup('validate')
    assert 'mask' in dm.val_dataset[0]
    assert len(dm.predict_dataset) == 70
