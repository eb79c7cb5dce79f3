"""Check folders of georeferenced chips that lie far apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
import yaml
from rasterio.transform import from_origin

from tests.helpers.fake_data import Dated, write_bands
from torchgeo_decur.cli import main
from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.datasets.rasters.windows import RandomWindows

SIDE, COUNT = 64, 30
# Resolution, south-western corner and side of the square where chips lie.
PLACES = {
    'EPSG:32632': (10.0, (400000.0, 5500000.0), 20000.0),
    'EPSG:4326': (1e-4, (-60.0, -55.0), 110.0),
}
MODALITIES = {'s1': 1, 's2': 2}


class DatedRadar(Dated):
    all_bands = ('VV',)


def corners(crs: str, count: int = COUNT) -> np.ndarray:
    """Return south-western corners of chips on different grids."""
    res, origin, extent = PLACES[crs]
    cells = int(np.ceil(np.sqrt(2 * count)))
    generator = np.random.default_rng(0)
    cell = generator.permutation(cells * cells)[:count]
    steps = np.stack(np.divmod(cell, cells), 1) * extent / cells
    free = extent / cells - (SIDE + 8) * res
    found: np.ndarray = np.array(origin) + steps + generator.random((count, 2)) * free
    return found


def write_chips(root: Path, crs: str, dated: bool = False, **more: Any) -> None:
    """Write chips of two modalities and labels; each value is the number of its chip."""
    res = PLACES[crs][0]
    for number, (west, south) in enumerate(corners(crs)):
        place = from_origin(west, south + SIDE * res, res, res)
        name = f'202001{number + 1:02d}.tif' if dated else f'{number}.tif'
        noise = np.random.default_rng(number).random((2, SIDE, SIDE)) / 2
        values = {
            's1': (noise[:1] + number).astype(np.float32),
            's2': (100 * (noise + number) + 1).astype(np.uint16),
            'mask': (noise[0, None] * 4).astype(np.uint8),
        }
        for m, bands in values.items():
            write_bands(root / m / name, bands, crs=crs, transform=place, **more)


def entries(root: Path, **more: Any) -> dict[str, dict[str, Any]]:
    s1 = {'paths': str(root / 's1'), 'bands': ['VV'], 'mean': [15.0], 'std': [8.0]}
    s2 = {'bands': ['B4', 'B3'], 'mean': [1500.0] * 2, 'std': [800.0] * 2}
    return {'s1': {**s1, **more}, 's2': {**s2, 'paths': str(root / 's2'), **more}}


def module(root: Path, patch: int = SIDE, **options: Any) -> RasterPairDataModule:
    options = {'rasters': entries(root), 'patch_size': patch, **options}
    return RasterPairDataModule(length=20, batch_size=4, **options)


def chip(sample: dict[str, Any]) -> int:
    """Return the number of the chip of all pixels of a window."""
    numbers = sample['image_s1'].floor().unique()
    assert len(numbers) == 1
    assert ((sample['image_s2'] - 1) / 100).floor().unique() == numbers
    return int(numbers)


@pytest.fixture(scope='module', params=list(PLACES))
def chips(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp('chips')
    write_chips(root, request.param)
    return root, request.param


@pytest.mark.parametrize('patch', [64, 32])
def test_splits_scattered_chips_by_chip(
    chips: tuple[Path, str], patch: int, caplog: pytest.LogCaptureFixture
) -> None:
    root, crs = chips
    dm = module(root, patch)
    with caplog.at_level('INFO'):
        dm.setup('fit')
        dm.setup('predict')
    assert (
        'Of 30 separate polygons of the common footprint: 24 for train, 6 for val'
        in caplog.text
    )
    windows = (SIDE // patch) ** 2
    train = {chip(sample) for sample in dm.train_dataset}
    val = [chip(sample) for sample in dm.val_dataset]
    assert len(val) == 6 * windows and len(set(val)) == 6 and not train & set(val)
    # prediction covers all chips, once
    assert len(dm.predict_dataset) == COUNT * windows
    boxes = dm.predict_dataset.places().geometry.to_numpy()
    covered = dm.rasters.footprint.area
    assert shapely.area(boxes).sum() == pytest.approx(covered)
    assert shapely.union_all(boxes).area == pytest.approx(covered)
    # all positions of all chips of the training area, the outermost too
    many = RandomWindows(dm.rasters, dm.areas['train'], 20000).windows()
    res, low = PLACES[crs][0], corners(crs)
    found = np.array([(x.start, y.start) for x, y in many])
    owner = np.abs(found[:, None] - low - (SIDE - patch) / 2 * res).max(2).argmin(1)
    steps = (found - low[owner]) / res
    assert np.abs(steps - steps.round()).max() < 1e-3
    assert steps.round().min() == 0 and steps.round().max() == SIDE - patch
    counts = np.bincount(owner, minlength=COUNT)
    assert (counts > 0).sum() == 24 and counts[counts > 0].min() > 20000 / 24 * 0.8


def test_dated_chips_are_read_at_their_own_date(tmp_path: Path) -> None:
    write_chips(tmp_path, 'EPSG:32632', dated=True)
    dated = entries(
        tmp_path, dataset='tests.helpers.fake_data.Dated', bands=['first', 'second']
    )
    dated['s1'] |= {'dataset': f'{__name__}.DatedRadar', 'bands': ['VV']}
    dm = module(tmp_path, 32, rasters=dated, test_fraction=0.2)
    for stage in ('fit', 'test', 'predict'):
        dm.setup(stage)
    splits = dm.train_dataset, dm.val_dataset, dm.test_dataset
    train, val, test = ({chip(sample) for sample in split} for split in splits)
    assert len(val) == len(test) == 6 and not val & test and not train & (val | test)
    assert len(dm.predict_dataset) == 4 * COUNT
    places = dm.predict_dataset.places()
    assert places['date'].dt.day.value_counts().tolist() == [4] * COUNT


def test_near_chips_stay_together(tmp_path: Path) -> None:
    # pairs of chips with a pixel between them: what is interpolated shares no pixel
    for number in range(20):
        pair, second = divmod(number, 2)
        west = 400000 + (pair * 7 + second) * (SIDE + 1) * 10.0
        place = from_origin(west, 5500000, 10, 10)
        for m, bands in MODALITIES.items():
            values = np.full((bands, SIDE, SIDE), number + 1, np.uint16)
            values[:, 0] = number + 2
            path = tmp_path / m / f'{number}.tif'
            write_bands(path, values, crs='EPSG:32632', transform=place)
    dm = module(tmp_path)
    dm.setup('fit')
    train, val = dm.areas['train'], dm.areas['val']
    assert [len(area.geoms) for area in (train, val)] == [16, 4]
    assert shapely.distance(train, val) >= 20


def test_few_chips_are_not_cut(tmp_path: Path) -> None:
    for number in range(3):
        place = from_origin(400000 + number * 5000, 5500000, 10, 10)
        for m, bands in MODALITIES.items():
            values = np.full((bands, SIDE, SIDE), number + 1, np.uint16)
            values[:, 0] = number + 2
            path = tmp_path / m / f'{number}.tif'
            write_bands(path, values, crs='EPSG:32632', transform=place)
    dm = module(tmp_path)
    dm.setup('fit')
    assert len(dm.areas['train'].geoms) == 2 and len(dm.val_dataset) == 1


def test_refuses_chips_smaller_than_a_window(
    chips: tuple[Path, str], tmp_path: Path
) -> None:
    dm = module(chips[0], 80)
    message = (
        r'the largest of 30 polygons of the common footprint, 64 x 64 pixels .* got 80'
    )
    with pytest.raises(ValueError, match=message):
        dm.setup('fit')
    dm.setup('predict')
    assert len(dm.predict_dataset) == COUNT
    write_chips(tmp_path, 'EPSG:32632')
    values = np.ones((2, 16, 16), np.uint16)
    for m, bands in MODALITIES.items():
        place = from_origin(300000, 5500000, 10, 10)
        path = tmp_path / m / 'small.tif'
        kind = np.float32 if m == 's1' else np.uint16
        write_bands(
            path, values[:bands].astype(kind), crs='EPSG:32632', transform=place
        )
    with pytest.warns(UserWarning, match='1 of 31 separate polygons .* does not fit'):
        module(tmp_path).setup('fit')


def test_reads_chips_without_a_rim_in_the_other_raster(tmp_path: Path) -> None:
    # Projected or cut a little smaller: the rim is nodata, the chip is one window.
    write_chips(tmp_path, 'EPSG:32632', nodata=0)
    for number, (west, south) in enumerate(corners('EPSG:32632')):
        place = from_origin(west + 10, south + SIDE * 10, 10, 10)
        values = np.full((1, SIDE, SIDE - 2), number + 0.25, np.float32)
        path = tmp_path / 's1' / f'{number}.tif'
        write_bands(path, values, crs='EPSG:32632', transform=place, nodata=0)
    s1, s2 = entries(tmp_path).values()
    dm = module(tmp_path, rasters={'s2': s2, 's1': s1})
    dm.setup('fit')
    assert len(dm.val_dataset) == 6
    for sample in [*dm.val_dataset, *dm.train_dataset]:
        assert (sample['image_s2'] != 0).all()
        assert ((sample['image_s1'] == 0).sum(2) == 2).all()
    with pytest.raises(ValueError, match='62 x 64 pixels'):
        module(tmp_path, rasters={'s2': s2, 's1': s1}, max_nodata=0.01).setup('fit')


@pytest.mark.parametrize('patch', [64, 32])
def test_commands_run_on_chips(
    chips: tuple[Path, str], patch: int, torchgeo: Callable[..., None], tmp_path: Path
) -> None:
    root, _ = chips

    def conf(name: str, **model: Any) -> Path:
        text = (Path(__file__).parents[1] / 'conf' / f'{name}.yaml').read_text()
        loaded = yaml.safe_load(text.replace('OUTPUT', str(tmp_path / name)))
        loaded['trainer'] |= {'callbacks': [], 'max_epochs': 1}
        loaded['trainer'] |= {} if name == 'decur' else {'logger': False}
        limits = ('train', 'val', 'test', 'predict')
        loaded['trainer'] |= {f'limit_{split}_batches': 1 for split in limits}
        loaded['model']['init_args'] |= {'modalities': MODALITIES, **model}
        mask = {'paths': str(root / 'mask'), 'num_classes': 3}
        data = {'rasters': entries(root), 'mask': mask, 'patch_size': patch}
        loaded['data'] = {
            'class_path': 'torchgeo_decur.datamodules.RasterPairDataModule',
            'init_args': {**data, 'length': 4, 'batch_size': 4},
        }
        path = tmp_path / f'{name}.conf.yaml'
        path.write_text(yaml.safe_dump(loaded))
        return path

    torchgeo('fit', '--config', conf('decur', warmup_epochs=0))
    run = tmp_path / 'decur' / 'run'
    out = tmp_path / 'chips.parquet'
    main(['embed', str(run / 'config.yaml'), f'--out={out}', '--device=cpu'])
    assert len(gpd.read_parquet(out)) == COUNT * (SIDE // patch) ** 2
    path = conf('late_fusion_segmentation', num_classes=3)
    for command in ('fit', 'test', 'predict'):
        torchgeo(command, '--config', path)


def test_nodata_is_looked_for_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    for m, bands in MODALITIES.items():
        values = generator.integers(1, 99, (bands, 160, 320)).astype(np.uint16)
        values[:, :64, 250:300] = 0
        values[:, 100, 310] = 0
        place = from_origin(400000, 5500000, 10, 10)
        path = tmp_path / m / 'scene.tif'
        write_bands(path, values, crs='EPSG:32632', transform=place, nodata=0)
    dm = module(tmp_path, 16, val_fraction=0.4)
    dm.setup('fit')
    found = [dm.rasters.usable(sample) for sample in dm.val_dataset]
    # 7 columns and 10 rows of windows, of which 4 rows and 3 columns have a hole
    assert all(found) and len(found) + dm.val_dataset.skipped == 70
    assert dm.val_dataset.skipped == 16
    reads = []
    read = type(dm.rasters).read
    monkeypatch.setattr(
        type(dm.rasters),
        'read',
        lambda self, w, names=None: reads.append(w) or read(self, w, names),
    )
    dm.setup('validate')
    assert len(dm.val_dataset) == 54 and len(reads) < 20
