"""Check the reading of rasters: dates, missing pixels, data types, one file per band."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin
from torch import Tensor
from torchgeo.datasets import RasterDataset

from tests.helpers.fake_data import Dated, write_bands
from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.datasets.rasters.files import inspect as inspect_files
from torchgeo_decur.datasets.rasters.folder import RasterFolder
from torchgeo_decur.datasets.rasters.windows import GridWindows

SIZE = 64
UTM = 'EPSG:32632'
PLACE = from_origin(500_000, 5_000_000, 10, 10)


class Yearly(Dated):
    """Labels with the year in the file name."""

    filename_regex = r'(?P<date>\d{4})'
    date_format = '%Y'
    all_bands = ()
    is_image = False


def scene(path: Path, values: NDArray[Any] | float, **options: Any) -> str:
    """Write a raster of 64 x 64 pixels of 10 m, by default with one varying band."""
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


def image(folder: Path, *bands: str, **more: Any) -> tuple[Tensor, float | None]:
    """Read all rasters of a folder, joined with others at the same location."""
    scene(folder.parent / 'beside' / 'b.tif', 20)
    rasters = {
        'x': entry(folder, *bands, **more),
        'b': entry(folder.parent / 'beside', nodata=0),
    }
    dm = module(rasters, patch_size=SIZE)
    return dm.predict_dataset[0]['image_x'], dm.modalities['x'].nodata


def refuse(message: str, folder: Path, *bands: str, **more: Any) -> None:
    with pytest.raises(ValueError, match=message):
        image(folder, *bands, **more)


def labels(folder: Path, **more: Any) -> Tensor:
    """Read labels, joined with images at the same location."""
    scene(folder.parent / 'beside' / 'b.tif', 20)
    both = {name: entry(folder.parent / 'beside') for name in ('a', 'b')}
    mask = {'paths': str(folder), **more}
    dm = module(both, 'fit', mask=mask, patch_size=SIZE // 4)
    found: Tensor = torch.stack([s['mask'] for s in dm.val_dataset])
    return found


def test_labels_are_of_the_date_of_the_images(tmp_path: Path) -> None:
    both = np.arange(2 * SIZE * SIZE, dtype=np.uint16).reshape(2, SIZE, SIZE)
    scene(tmp_path / 'a' / '20200615.tif', both)
    scene(tmp_path / 'b' / 'b.tif', 20)
    for year in (2018, 2019, 2020):
        labels = np.full((1, SIZE, SIZE), year - 2018, np.uint8)
        scene(tmp_path / 'labels' / f'{year}.tif', labels)
    dated = {'dataset': 'tests.helpers.fake_data.Dated', 'bands': ['first']}
    dm = module(
        {'a': entry(tmp_path / 'a') | dated, 'b': entry(tmp_path / 'b')},
        'fit',
        mask={'paths': str(tmp_path / 'labels'), 'dataset': f'{__name__}.Yearly'},
    )
    assert {int(x) for s in dm.train_dataset for x in s['mask'].unique()} == {2}
    start = dm.train_dataset[0]['bounds'][6].item()
    assert start == np.datetime64('2020-06-15').astype('datetime64[s]').astype(int)


def world(path: Path, crs: str) -> str:
    """Write a raster of the world whose values are longitude + 1000 * latitude."""
    lon, lat = np.arange(-179.5, 180), np.arange(89.5, -90, -1)
    place = from_origin(-180, 90, 1, 1)
    if crs == 'EPSG:3857':
        edge = np.pi * 6378137
        place = from_origin(-edge, edge, edge / 180, edge / 180)
        y = np.radians(np.arange(179.5, -180, -1))
        lat = np.degrees(np.arctan(np.sinh(y)))
    values = (lon + 1000 * lat[:, None])[None].astype(np.float32)
    return scene(path, values, crs=crs, transform=place)


@pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:3857'])
@pytest.mark.parametrize('zone', ['EPSG:32632', 'EPSG:32701'])
@pytest.mark.filterwarnings('ignore:areas .* have pixels')
def test_reads_rasters_of_the_world_at_the_place(
    tmp_path: Path, crs: str, zone: str
) -> None:
    # A scene of 64 km that holds the edges of pixels of the world; or 180 degrees.
    west = 470_000 if zone == UTM else 232_000
    place = from_origin(west, 5_000_000, 1000, 1000)
    scene(tmp_path / 'a' / 'a.tif', 20, crs=zone, transform=place)
    world(tmp_path / 'near' / 'w.tif', crs)
    world(tmp_path / 'between' / 'w.tif', crs)
    rasters = {
        'a': entry(tmp_path / 'a'),
        'near': entry(tmp_path / 'near', resampling='nearest'),
        'between': entry(tmp_path / 'between'),
    }
    dm = module(rasters, 'fit')
    assert len(dm.val_dataset) > 0
    to_world = Transformer.from_crs(zone, crs, always_xy=True)
    with rasterio.open(tmp_path / 'near' / 'w.tif') as file:
        for sample in [*dm.train_dataset, *dm.val_dataset]:
            left, _, _, _, top, *_ = sample['bounds'].tolist()
            x, y = np.meshgrid(np.arange(16) + 0.5, np.arange(16) + 0.5)
            points = to_world.transform(left + 1000 * x, top - 1000 * y)
            rows, columns = rasterio.transform.rowcol(
                file.transform, *(p.ravel() for p in points)
            )
            expected = file.read(1)[rows, columns].reshape(16, 16)
            found = sample['image_near'][0].numpy()
            # GDAL warps to an eighth of a pixel.
            assert (found == expected).mean() > 0.97
            assert np.isfinite(sample['image_between'].numpy()).all()
            away = abs(sample['image_between'][0].numpy() - expected)
            assert (away < 1000 * 1.5 + 360).all()


@pytest.mark.filterwarnings('ignore:areas .* have pixels')
def test_refuses_a_raster_elsewhere(tmp_path: Path) -> None:
    scene(tmp_path / 'a' / 'a.tif', 20)
    place = from_origin(100, 50, 0.1, 0.1)
    scene(tmp_path / 'b' / 'b.tif', 5, crs='EPSG:4326', transform=place)
    rasters = {'a': entry(tmp_path / 'a'), 'b': entry(tmp_path / 'b')}
    message = r'a covers longitude 9\.0.* and b covers longitude 100\.0000 to 106\.4'
    with pytest.raises(ValueError, match=message):
        module(rasters)


def test_rasters_of_the_world_that_cannot_be_projected(tmp_path: Path) -> None:
    # The corners of a view of the globe show no place of it.
    view = {
        'crs': '+proj=ortho +lat_0=0 +lon_0=0 +datum=WGS84',
        'transform': from_origin(-6.4e6, 6.4e6, 2e5, 2e5),
    }
    scene(tmp_path / 'a' / 'a.tif', 20, **view)
    world(tmp_path / 'b' / 'w.tif', 'EPSG:4326')
    rasters = {'a': entry(tmp_path / 'a'), 'b': entry(tmp_path / 'b')}
    message = "b: cannot be projected from its CRS 'WGS 84' to the CRS 'unknown' of a"
    with pytest.raises(ValueError, match=message):
        module(rasters)


def test_warns_of_pixels_larger_than_an_area(tmp_path: Path) -> None:
    scene(tmp_path / 'a' / 'a.tif', 20)
    place = from_origin(490_000, 5_010_000, 1000, 1000)
    scene(tmp_path / 'b' / 'b.tif', 5, transform=place)
    rasters = {'a': entry(tmp_path / 'a'), 'b': entry(tmp_path / 'b')}
    with pytest.warns(
        UserWarning,
        match=r"areas .* have pixels of \['b'\] in common, because a gap of three",
    ):
        dm = module(rasters, 'fit')
    assert len(dm.train_dataset) > 0 and len(dm.val_dataset) > 0


HOLE = np.arange(SIZE) < 20


def with_hole(value: float, *, bands: int = 2, dtype: Any = np.uint16) -> NDArray[Any]:
    """Return values 1000 and 1001, with others in the first 20 columns."""
    values = np.arange(bands * SIZE * SIZE).reshape(bands, SIZE, SIZE) % 2 + 1000
    return np.where(HOLE, value, values).astype(dtype)


@pytest.mark.parametrize('kind', ['inside', 'beside'])
@pytest.mark.parametrize('nodata', [None, 7])
def test_reads_masks_of_files_as_nodata(
    tmp_path: Path, kind: str, nodata: int | None
) -> None:
    path = tmp_path / 'x' / 'x.tif'
    values = with_hole(60_000)
    values[0, 40:] = 7
    scene(path, values)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == 'inside'):
        with rasterio.open(path, 'r+') as file:
            file.write_mask(
                np.where(HOLE, 0, 255).astype(np.uint8) * np.ones((SIZE, 1))
            )
    found, mark = image(path.parent, 'p', 'q', nodata=nodata)
    assert mark == nodata or (nodata is None and np.isnan(mark))
    missing = found.isnan() if nodata is None else found == nodata
    expected = torch.from_numpy(HOLE).expand(2, SIZE, SIZE).clone()
    expected[0, 40:] |= nodata == 7
    assert torch.equal(missing, expected)
    assert set(found[~missing].unique().tolist()) <= {7, 1000, 1001}


def test_reads_transparency_as_nodata(tmp_path: Path) -> None:
    values = with_hole(9, bands=4, dtype=np.uint8)
    values[3] = np.where(HOLE, 0, 255)
    scene(tmp_path / 'x' / 'x.tif', values)
    found, mark = image(tmp_path / 'x', 'r', 'g', 'b')
    assert mark is not None and np.isnan(mark) and found.shape[0] == 3
    assert (found.isnan() == torch.from_numpy(HOLE)).all()
    # GDAL takes near infrared for transparency: all bands are named.
    found, mark = image(tmp_path / 'x', 'r', 'g', 'b', 'nir')
    assert mark is None
    assert torch.equal(found, torch.from_numpy(values).float())


@pytest.mark.parametrize('crs', [UTM, 'EPSG:32633'])
@pytest.mark.filterwarnings('ignore:Converting RasterFolder')
def test_reads_the_nodata_value_of_each_band(tmp_path: Path, crs: str) -> None:
    first = scene(tmp_path / 'one' / '1.tif', with_hole(11, bands=1), nodata=11)
    second = with_hole(22, bands=1)
    second[:, 50:, 20:] = 11
    scene(tmp_path / 'one' / '2.tif', second, nodata=22)
    (tmp_path / 'x').mkdir()
    wide = '<VRTDataset rasterXSize="64" rasterYSize="64"><SRS>{}</SRS>{}</VRTDataset>'
    place = ','.join(map(str, PLACE.to_gdal()))
    bands = ''.join(
        f'<VRTRasterBand dataType="UInt16" band="{band}"><NoDataValue>{value}'
        f'</NoDataValue><SimpleSource><SourceFilename>{first[:-5]}{band}.tif'
        '</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>'
        for band, value in ((1, 11), (2, 22))
    )
    text = wide.format(UTM, f'<GeoTransform>{place}</GeoTransform>{bands}')
    (tmp_path / 'x' / 'x.vrt').write_text(text)
    if crs == UTM:
        found, _ = image(tmp_path / 'x', 'p', 'q')
        assert (found.isnan() == torch.from_numpy(HOLE)).all()
    else:
        # Beside a raster of another CRS, which is the first.
        scene(tmp_path / 'y' / 'y.tif', 5, crs=crs, transform=Affine.translation(0, 0))
        with rasterio.open(tmp_path / 'x' / 'x.vrt') as file:
            bounds = rasterio.warp.transform_bounds(UTM, crs, *file.bounds)
        place = from_origin(bounds[0], bounds[3], 10, 10)
        scene(tmp_path / 'y' / 'y.tif', 5, crs=crs, transform=place)
        rasters = {'y': entry(tmp_path / 'y'), 'x': entry(tmp_path / 'x', 'p', 'q')}
        found = module(rasters, patch_size=SIZE).predict_dataset[0]['image_x']
        assert (found[0].isnan() == found[1].isnan()).float().mean() > 0.99
    # A value of the one band is a measurement in the other.
    for band, lowest in zip(found, (1000, 11), strict=True):
        values = band[~band.isnan()]
        assert lowest <= values.min() < lowest + 1 and values.max() <= 1001


def test_asks_for_scale_and_offset_of_the_files(tmp_path: Path) -> None:
    path = scene(tmp_path / 'x' / 'x.tif', with_hole(1000))
    with rasterio.open(path, 'r+') as file:
        file.scales, file.offsets = (0.0001, 0.0001), (-0.1, -0.1)
    message = r'x: .*x\.tif declares scale 0\.0001 and offset -0\.1.*scale: 1. to read'
    refuse(message, tmp_path / 'x', 'p', 'q')
    found, _ = image(tmp_path / 'x', 'p', 'q', scale=1)
    assert found.min() == 1000
    found, _ = image(tmp_path / 'x', 'p', 'q', scale=0.0001, offset=-0.1)
    assert found.min() == pytest.approx(0, abs=1e-6)
    with rasterio.open(path, 'r+') as file:
        file.scales = (0.0001, 0.0002)
    message = r'declares scale \[0\.0001, 0\.0002\] and offset -0\.1'
    refuse(message, tmp_path / 'x', 'p', 'q')


def test_reads_files_of_several_types(tmp_path: Path) -> None:
    half = SIZE // 2
    for name, dtype, value, first in (
        ('a', np.uint8, 200, 0),
        ('b', np.int16, -2260, half),
    ):
        values = np.full((1, SIZE, half), value, dtype)
        place = PLACE @ Affine.translation(first, 0)
        scene(tmp_path / 'x' / f'{name}.tif', values, transform=place)
    found, _ = image(tmp_path / 'x')
    assert (found[0, :, :half] == 200).all() and (found[0, :, half:] == -2260).all()


def test_one_rotated_file_is_warped(tmp_path: Path) -> None:
    turned = PLACE @ Affine.rotation(20)
    scene(tmp_path / 'x' / 'x.tif', with_hole(1000, bands=1), transform=turned)
    scene(tmp_path / 'y' / 'y.tif', 5)
    rasters = {'y': entry(tmp_path / 'y'), 'x': entry(tmp_path / 'x')}
    dm = module(rasters, patch_size=32)
    values = torch.stack([sample['image_x'] for sample in dm.predict_dataset])
    assert values.isnan().any() and values[~values.isnan()].min() == 1000


@pytest.mark.parametrize('mark', [None, np.nan])
def test_missing_labels_are_no_number(tmp_path: Path, mark: float | None) -> None:
    values = with_hole(np.nan, bands=1, dtype=np.float32) - 999
    values[:, :, 60:] = np.nan
    scene(tmp_path / 'x' / 'x.tif', values, nodata=mark)
    with pytest.raises(ValueError, match=r'mask: .*(NaN|nan).*such as 255'):
        labels(tmp_path / 'x')
    found = labels(tmp_path / 'x', nodata=255, num_classes=3)
    assert set(found.unique().tolist()) == {1, 2, 255}


def test_labels_are_integers(tmp_path: Path) -> None:
    scene(tmp_path / 'x' / 'x.tif', np.full((1, SIZE, SIZE), 1.5, np.float32))
    with pytest.raises(
        ValueError, match=r'expected integer labels.* found 1\.5 in .*x'
    ):
        labels(tmp_path / 'x')
    scene(tmp_path / 'y' / 'y.tif', np.full((1, SIZE, SIZE), 2.0, np.float32))
    assert (labels(tmp_path / 'y') == 2).all()
    with pytest.raises(ValueError, match=r'mask: nodata must be an integer, got 0.5'):
        labels(tmp_path / 'y', nodata=0.5)


def test_labels_with_a_mask_need_a_value(tmp_path: Path) -> None:
    path = scene(tmp_path / 'x' / 'x.tif', with_hole(1000, bands=1))
    with rasterio.open(path, 'r+') as file:
        file.write_mask(np.where(HOLE, 0, 255).astype(np.uint8) * np.ones((SIZE, 1)))
    with pytest.raises(ValueError, match=r'mask: nodata must be set.*has a mask'):
        labels(tmp_path / 'x')


def points(bend: float) -> list[GroundControlPoint]:
    """Return the corners and the centre of the scene, with the centre moved by some pixels."""
    corners = [(r, c) for r in (0, SIZE) for c in (0, SIZE)]
    places = [(*PLACE @ (c, r), r, c) for r, c in corners]
    x, y = PLACE @ (SIZE / 2 + bend, SIZE / 2)
    places.append((x, y, SIZE / 2, SIZE / 2))
    return [GroundControlPoint(r, c, x, y) for x, y, r, c in places]


def test_reads_ground_control_points_that_fit(tmp_path: Path) -> None:
    values = with_hole(1000, bands=1)
    scene(tmp_path / 'x' / 'x.tif', values, gcps=points(0), transform=None)
    found, _ = image(tmp_path / 'x')
    assert torch.equal(found, torch.from_numpy(values).float())
    scene(tmp_path / 'y' / 'y.tif', values, gcps=points(5), transform=None)
    refuse(r'x: .* up to 4\.0 pixels in .*y\.tif; warp', tmp_path / 'y')


def test_index_equals_torchgeo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: dict[str, dict[str, Any]] = {
        'a': {},
        'b': {'transform': from_origin(502_000, 5_000_000, 10, 10)},
        'c': {'transform': from_origin(504_000, 5_000_000, 10, 20)},
        'd': {'transform': Affine(8, 6, 506_000, 6, -8, 5_000_000)},
        'e': {'crs': 'EPSG:32633', 'transform': PLACE},
    }
    paths = [scene(tmp_path / f'{n}.tif', 1, **p) for n, p in places.items()]
    files, _ = inspect_files(paths)
    opened = []
    load = RasterFolder._load_warp_file
    monkeypatch.setattr(
        RasterFolder,
        '_load_warp_file',
        lambda self, filepath, crs=None: (
            opened.append(filepath) or load(self, filepath, crs)
        ),
    )
    found = RasterFolder(files, ['x'])
    assert opened == paths[:1]
    expected = RasterDataset(paths)
    assert found.index.equals(expected.index) and found.crs == expected.crs
    assert found.res == expected.res and found.files == expected.files
    x, y, t = expected.bounds
    west, south, _, north = found.index.geometry.iloc[1].bounds
    for window in (
        (slice(west, west + 160), slice(south, north), t),
        (slice(west - 2000, west + 160), slice(south, north)),
        slice(west, west + 160),
    ):
        sample, wanted = found[window], expected[window]
        assert sample.keys() == wanted.keys()
        # TorchGeo reads 0 where no file is.
        sample['image'] = sample['image'].nan_to_num()
        assert all(torch.equal(sample[key], wanted[key]) for key in wanted)
    with pytest.raises(IndexError, match='not found in dataset with bounds'):
        found[x.stop + 10 : x.stop + 20, y, t]


def test_validation_looks_only_into_rasters_with_nodata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene(tmp_path / 'a' / 'a.tif', 20)
    scene(tmp_path / 'b' / 'b.tif', 20, nodata=0)
    rasters = {'a': entry(tmp_path / 'a'), 'b': entry(tmp_path / 'b')}
    dm = module(rasters, 'fit')
    assert dm.rasters is not None
    assert len(shapely.get_coordinates(dm.rasters.footprint)) == 5
    looked = []
    read = RasterFolder.__getitem__
    monkeypatch.setattr(
        RasterFolder,
        '__getitem__',
        lambda self, index: looked.append(self) or read(self, index),
    )
    windows = GridWindows(dm.rasters, dm.areas['val'])
    assert {*looked} == {dm.rasters.leaves['b']}
    assert windows[0].keys() >= {'image_a', 'image_b'}


def test_refuses_several_files_of_one_place(tmp_path: Path) -> None:
    for name in ('B2', 'B3'):
        scene(tmp_path / 'x' / f'{name}.tif', 10)
    refuse(
        r'x: .* found .*B2\.tif and .*B3\.tif at the same location',
        tmp_path / 'x',
        'B2',
    )
    refuse(r'expected 2 bands .* found 1 .*\(\?P<band>', tmp_path / 'x', 'B2', 'B3')


def test_warns_of_files_that_share_much(tmp_path: Path) -> None:
    for name, shift in (('a', 0), ('b', 25)):
        place = PLACE @ Affine.translation(shift, 0)
        scene(tmp_path / 'x' / f'{name}.tif', 10, transform=place)
    with pytest.warns(UserWarning, match=r'x: files overlap .*a\.tif and .*b'):
        image(tmp_path / 'x')


def test_each_band_is_a_file(tmp_path: Path) -> None:
    for place, shift in (('T1', 0), ('T2', SIZE)):
        for number, band in enumerate(('B2', 'B3', 'B4')):
            scene(
                tmp_path / 'x' / f'{place}_{band}.tif',
                100 * number + 10,
                transform=PLACE @ Affine.translation(shift, 0),
            )
    pattern = r'.+_(?P<band>B\d)\.tif'
    found, _ = image(tmp_path / 'x', 'B4', 'B2', filename_regex=pattern)
    assert found.shape == (2, SIZE, SIZE)
    assert set(found[0].unique().tolist()) == {210, 211}
    assert set(found[1].unique().tolist()) == {10, 11}
    (tmp_path / 'x' / 'T2_B2.tif').unlink()
    refuse(
        r'x: expected one file for each band of .* no readable .*T2_B2\.tif',
        tmp_path / 'x',
        *('B4', 'B2'),
        filename_regex=pattern,
    )


def test_reads_dates_from_file_names(tmp_path: Path) -> None:
    for day in (1, 2):
        scene(tmp_path / 'x' / f'S2_2020-01-0{day}.tif', 10 * day)
        scene(tmp_path / 'y' / f'200{day}.tif', 50 * day)
    scene(tmp_path / 'z' / '2020-01-02.tif', 90)
    dates = {'filename_regex': r'(S2_)?(?P<date>[\d-]+)', 'date_format': '%Y-%m-%d'}
    rasters = {name: entry(tmp_path / name, **dates) for name in ('x', 'z')}
    sample = module(rasters, patch_size=SIZE).predict_dataset[0]
    assert set(sample['image_x'].unique().tolist()) == {20, 21}
    cases = {
        r'\.tif does not match .*S2_2020-01-01': {
            'filename_regex': r'(?P<date>.+)\.tif!'
        },
        'must have a group': {'filename_regex': '.*'},
        'must be a regular expression': {'filename_regex': '(?P<date>'},
        'x: time data': {'filename_regex': r'(?P<date>\w+)'},
    }
    for message, more in cases.items():
        refuse(message.replace(r'\.tif does', 'does'), tmp_path / 'x', **more)


def test_finds_files_by_glob_and_suffix(tmp_path: Path) -> None:
    folder = tmp_path / 'place [1]'
    path = scene(folder / 'inner' / 'x.tif', 10)
    (folder / 'loop').symlink_to(folder)
    (folder / 'again.tif').symlink_to(path)
    (folder / '._x.tif').write_bytes(b'not a raster')
    scene(folder / '.ipynb_checkpoints' / 'x.tif', 10)
    found, _ = image(folder)
    assert set(found.unique().tolist()) == {10, 11}
    image(folder, glob='inner/*.tif')
    odd = scene(tmp_path / 'odd' / 'x.tif', 10)
    Path(odd).rename(tmp_path / 'odd' / 'x.data')
    image(tmp_path / 'odd' / 'x.data')


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'mean': 1.0}, r'x: mean must be a list with one number .* got 1\.0'),
        ({'std': ['a']}, 'x: std must be a list with one number'),
        ({'nodata': 'none'}, "x: nodata must be a number .* got 'none'"),
        ({'nodata': True}, 'x: nodata must be a number'),
        ({'nodata': [0, 1]}, 'x: nodata must be a single number'),
        ({'bands': 'B2'}, 'x: bands must be a list of band names'),
        ({'bands': [1, 2]}, 'x: bands must be a list of band names'),
        ({'glob': ['*.tif']}, 'x: glob must be a string'),
        ({'paths': 3}, 'x: paths must be a folder'),
        ({'resampling': 'max'}, r"must be one of \['nearest', .*'rms'\], got 'max'"),
    ],
)
def test_checks_the_types_of_an_entry(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    scene(tmp_path / 'x' / 'x.tif', 10)
    with pytest.raises(ValueError, match=message):
        module({'x': entry(tmp_path / 'x') | values, 'b': entry(tmp_path / 'x')})


def test_numbers_that_yaml_takes_for_text(tmp_path: Path) -> None:
    scene(tmp_path / 'x' / 'x.tif', with_hole(np.nan, bands=1, dtype=np.float32))
    found, mark = image(tmp_path / 'x', nodata='nan', mean=['1e3'])
    assert mark is not None and np.isnan(mark) and found.isnan().any()
    with pytest.raises(
        ValueError, match='mask: num_classes must be a positive integer'
    ):
        labels(tmp_path / 'x', num_classes=2.5)


def test_refuses_classes_that_would_ignore_a_mask(tmp_path: Path) -> None:
    path = scene(tmp_path / 'x' / '20200101.tif', with_hole(1000))
    with rasterio.open(path, 'r+') as file:
        file.write_mask(np.where(HOLE, 0, 255).astype(np.uint8) * np.ones((SIZE, 1)))
    refuse(
        'x: .*has a mask, which Dated ignores; set the options paths',
        tmp_path / 'x',
        *('first', 'second'),
        dataset='tests.helpers.fake_data.Dated',
    )


def test_refuses_brackets_in_the_paths_of_a_class(tmp_path: Path) -> None:
    scene(tmp_path / 'place [1]' / '20200101.tif', with_hole(1000))
    refuse(
        r'x: .* found none .*; rename .*place \[1\], because \[',
        tmp_path / 'place [1]',
        *('first', 'second'),
        dataset='tests.helpers.fake_data.Dated',
    )
