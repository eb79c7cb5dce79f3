"""Check windows that only some modalities cover."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rasterio.transform import from_origin
from torch.utils.data import DataLoader

from tests.datamodules.test_chips import COUNT, SIDE, chip, entries, write_chips
from tests.helpers.fake_data import write_bands
from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.datasets.rasters.windows import RandomWindows

CRS = 'EPSG:32632'


def lacks_radar(number: int) -> bool:
    return number % 5 < 2


@pytest.fixture(scope='module')
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write chips, and delete 40 % of the radar files and the first optical one."""
    root = tmp_path_factory.mktemp('chips')
    write_chips(root, CRS)
    for number in range(COUNT):
        if lacks_radar(number):
            (root / f's1/{number}.tif').unlink()
    (root / 's2/2.tif').unlink()
    return root


def number_of(sample: dict[str, Any]) -> int:
    """Return the number of the chip, from an image that the sample has."""
    if not sample['available_s2']:
        return int(sample['image_s1'].floor().unique())
    return int(((sample['image_s2'] - 1) / 100).floor().unique())


@pytest.mark.parametrize('nodata', [None, 0])
def test_keeps_chips_without_radar(
    chips: Path, nodata: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {} if nodata is None else {'nodata': nodata}
    dm = RasterPairDataModule(
        entries(chips, **more),
        {'paths': str(chips / 'mask')},
        patch_size=SIDE,
        length=40,
        batch_size=4,
        footprint='union',
    )
    for stage in ('fit', 'predict'):
        dm.setup(stage)
    assert len(dm.predict_dataset) == COUNT
    assert len(dm.val_dataset) == round(COUNT * 0.2)
    found: dict[str, set[int]] = {'train': set(), 'val': set()}
    for name in found:
        dataset = getattr(dm, f'{name}_dataset')
        has = dataset.availability
        for i in range(len(dataset)):
            sample = dataset[i]
            number = number_of(sample)
            found[name].add(number)
            expected = {'s1': not lacks_radar(number), 's2': number != 2}
            for m, there in expected.items():
                assert bool(sample[f'available_{m}']) == has[m][i] == there
                assert there or not sample[f'image_{m}'].any()
            assert sample['mask'].shape == (SIDE, SIDE)
            assert all(expected.values()) is False or chip(sample) == number
    assert not found['train'] & found['val']
    assert not dm.predict_dataset.availability['s1'].all()
    assert int(dm.predict_dataset.availability['s2'].sum()) == COUNT - 1
    next(iter(DataLoader(dm.train_dataset, batch_size=4)))
    capsys.readouterr()
    dm.train_dataloader()
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ['modalities', 'train', 'val']
    assert sum(int(row[-2]) for row in table[1:]) == 40
    figure = dm.plot({**dm.val_dataset[0], 'available_s1': torch.tensor(False)})
    assert [ax.get_title()[:2] for ax in figure.axes if ax.get_title()] == ['s2', 'ma']


def write_scene(path: Path, first: int, value: int, **more: Any) -> None:
    """Write a raster of 60 columns from a column on, with 60 rows."""
    place = from_origin(400000 + 10 * first, 5500000, 10, 10)
    values = np.full((1, 60, 60), value, np.uint16)
    values += np.arange(60, dtype=np.uint16) % 7
    write_bands(path, values, crs=CRS, transform=place, **more)


def scene(root: Path, **more: Any) -> dict[str, dict[str, Any]]:
    return {m: {'paths': str(root / m), 'bands': ['x'], **more} for m in ('a', 'b')}


def test_marks_windows_at_the_border_of_a_modality(tmp_path: Path) -> None:
    write_scene(tmp_path / 'a/a.tif', 0, 10)
    write_scene(tmp_path / 'b/b.tif', 40, 50)
    dm = RasterPairDataModule(
        scene(tmp_path),
        patch_size=16,
        length=200,
        batch_size=4,
        footprint='union',
        val_fraction=0.2,
        seed=1,
    )
    dm.setup('fit')
    # Zeros would lower the mean, because half of the windows lack b.
    assert dm.modalities['a'].mean == pytest.approx([13], abs=0.2)
    assert dm.modalities['b'].mean == pytest.approx([53], abs=0.2)
    seen = set()
    for sample in (dm.train_dataset[i] for i in range(len(dm.train_dataset))):
        column = round((float(sample['bounds'][0]) - 400000) / 10)
        has = {'a': column + 16 <= 60, 'b': column >= 40}
        seen.add(tuple(has.values()))
        for m, low in (('a', 10), ('b', 50)):
            image = sample[f'image_{m}']
            assert bool(sample[f'available_{m}']) is has[m]
            assert image.min() >= low if has[m] else not image.any()
    assert seen == {(True, False), (True, True), (False, True)} or (
        seen == {(True, False), (True, True)}
    )
    dm.setup('predict')
    windows = dm.predict_dataset
    both = windows.availability['a'] & windows.availability['b']
    # Windows across a border keep both modalities in a map.
    assert 0 < both.sum() < len(windows) == 7 * 4
    assert (windows.availability['a'] | windows.availability['b']).all()


def test_marks_missing_pixels_of_a_modality(tmp_path: Path) -> None:
    write_scene(tmp_path / 'a/a.tif', 0, 10)
    values = np.full((1, 60, 60), 7, np.float32)
    values += np.random.default_rng(0).random((60, 60), np.float32)
    values[:, :, :30] = -9999
    place = from_origin(400000, 5500000, 10, 10)
    write_bands(tmp_path / 'b/b.tif', values, crs=CRS, transform=place, nodata=-9999)
    dm = RasterPairDataModule(
        scene(tmp_path, mean=[10.0], std=[3.0]),
        patch_size=10,
        length=100,
        batch_size=4,
        footprint='union',
        max_nodata=0.25,
        val_fraction=0.3,
    )
    dm.setup('fit')
    for sample in (dm.train_dataset[i] for i in range(100)):
        column = round((float(sample['bounds'][0]) - 400000) / 10)
        missing = min(max((30 - column) / 10, 0), 1)
        assert bool(sample['available_b']) is (missing <= 0.25)
        assert bool(sample['available_a'])
    dm.setup('predict')
    has = dm.predict_dataset.availability['b'].reshape(6, 6)
    assert (has == [[False] * 3 + [True] * 3] * 6).all()


def test_keeps_dates_of_one_modality(tmp_path: Path) -> None:
    for m, days in (('a', (1, 2)), ('b', (2, 3))):
        for day in days:
            write_scene(tmp_path / m / f'2020010{day}.tif', 0, 10 * day)
    write_scene(tmp_path / 'c/heights.tif', 0, 5)
    dated = scene(tmp_path, filename_regex=r'(?P<date>\d{8})', mean=[10.0], std=[3.0])
    still = {'paths': str(tmp_path / 'c'), 'bands': ['x'], 'kind': 'elevation'}
    dm = RasterPairDataModule(
        {**dated, 'c': {**still, 'unit': 'm'}},
        patch_size=20,
        length=30,
        batch_size=4,
        footprint='union',
        val_fraction=0.3,
    )
    dm.setup('predict')
    dataset = dm.predict_dataset
    has = {m: x.tolist() for m, x in dataset.availability.items()}
    days = dataset.places()['date'].dt.day.tolist()
    assert sorted(days) == [1] * 9 + [2] * 9 + [3] * 9
    assert has == {
        'a': [day < 3 for day in days],
        'b': [day > 1 for day in days],
        'c': [True] * 27,
    }
    for i in (0, 13, 26):
        sample = dataset[i]
        for m in ('a', 'b'):
            low = 10 * days[i] if has[m][i] else 0
            assert float(sample[f'image_{m}'].min()) == low


def test_epochs_are_drawn_again(chips: Path) -> None:
    dm = RasterPairDataModule(
        entries(chips), patch_size=SIDE, length=20, batch_size=4, footprint='union'
    )
    dm.setup('fit')
    windows = RandomWindows(dm.rasters, dm.areas['train'], 20, 3)
    first = windows.availability['s1'].tolist()
    windows.set_epoch(1)
    second = windows.availability['s1'].tolist()
    assert first != second
    there = [bool(windows[i]['available_s1']) for i in range(20)]
    assert there == second
    with pytest.raises(
        ValueError, match="must be 'intersection' or 'union', got 'all'"
    ):
        RasterPairDataModule(entries(chips), footprint='all')  # type: ignore[arg-type]
