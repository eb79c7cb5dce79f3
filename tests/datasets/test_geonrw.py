import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchgeo.datasets import DatasetNotFoundError, GeoNRW

from tests.helpers.fake_data import fake
from torchgeo_decur.datasets.base import UnreadableFileError
from torchgeo_decur.datasets.geonrw import GeoNRWPatches

FAKE = fake('geonrw')
make, tile, write = (FAKE.make, FAKE.tile, FAKE.write)


@pytest.fixture(scope='module')
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three training tiles and one test tile of 64 pixels, which no test changes."""
    return make(tmp_path_factory.mktemp('geonrw'))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write two tiles to damage."""
    return make(tmp_path, {'aachen': 2})


def test_patches_are_aligned_by_pixels(shared: Path) -> None:
    dataset = GeoNRWPatches(shared, size=16)
    assert len(dataset) == 3 * 16
    assert (
        dataset[0]['image_rgb'].dtype == dataset[0]['image_dem'].dtype == torch.float32
    )
    assert dataset[0]['mask'].dtype == torch.int64
    tiles = [[torch.from_numpy(x) for x in tile(number, 64)] for number in range(3)]
    for index in (0, 1, 4, 15, 16, 47):
        number, rest = divmod(index, 16)
        row, column = (16 * i for i in divmod(rest, 4))
        sample = dataset[index]
        rgb, dem, mask = (
            x[:, row : row + 16, column : column + 16] for x in tiles[number]
        )
        assert torch.equal(sample['image_rgb'], rgb.float())
        assert torch.equal(sample['image_dem'], dem)
        assert torch.equal(sample['mask'], mask[0].long())


def test_rim_is_left_out(shared: Path) -> None:
    dataset = GeoNRWPatches(shared, 'test', size=24)
    assert [(p.row, p.column) for p in dataset.samples] == [
        (0, 0),
        (0, 24),
        (24, 0),
        (24, 24),
    ]
    assert dataset[3]['image_rgb'].shape == (3, 24, 24)
    assert dataset[3]['image_rgb'][:, 0, 0].tolist() == [150, 24, 24]


def test_transforms_get_all_keys(shared: Path) -> None:
    def flip(sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert sorted(sample) == ['image_dem', 'image_rgb', 'mask']
        return {k: x.flip(-1) for k, x in sample.items()}

    plain = GeoNRWPatches(shared, size=16)[5]
    flipped = GeoNRWPatches(shared, size=16, transforms=flip)[5]
    for key, x in flipped.items():
        assert torch.equal(x.flip(-1), plain[key])
    # Row and column of each pixel, as red-green-blue and as elevation tell them.
    height = flipped['image_rgb'][1] + flipped['image_rgb'][2] / 128
    assert torch.equal(flipped['image_dem'][0], height)


def test_subset_selects_samples_in_order(shared: Path) -> None:
    dataset = GeoNRWPatches(shared, size=16)
    subset = dataset.subset([47, 0])
    assert len(subset) == 2
    assert torch.equal(subset[0]['image_rgb'], dataset[47]['image_rgb'])
    assert len(dataset) == 48
    for index in (2, -1):
        with pytest.raises(
            IndexError, match=rf'index must be in \[0, 1\], got {index}'
        ):
            subset[index]


@pytest.mark.parametrize('empty', [False, True])
def test_explains_what_the_root_must_contain(tmp_path: Path, empty: bool) -> None:
    if empty:
        for city in GeoNRW.train_list:
            (tmp_path / city).mkdir()
    with pytest.raises(
        DatasetNotFoundError, match=r'Expected folders of the train cities \(aachen'
    ):
        GeoNRWPatches(tmp_path)


def test_download_uses_torchgeo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GeoNRW, '_download', lambda self: make(Path(self.root)))
    assert len(GeoNRWPatches(tmp_path, size=64, download=True)) == 3


@pytest.mark.parametrize('damage', ['truncated', 'missing', 'text'])
@pytest.mark.parametrize('suffix', ['rgb.jp2', 'dem.tif', 'seg.tif'])
def test_names_or_skips_an_unreadable_file(
    root: Path, damage: str, suffix: str
) -> None:
    path = root / 'aachen' / f'300_5700_{suffix}'
    content = path.read_bytes()
    path.unlink()
    if damage != 'missing':
        part = content[: -len(content) // 3]
        path.write_bytes(part if damage == 'truncated' else b'nothing')
    if damage == 'missing' and suffix == 'rgb.jp2':
        assert len(GeoNRWPatches(root, size=32)) == 4  # there is no such tile
        return
    said = 'missing;' if damage == 'missing' else 'truncated or not a raster'
    with pytest.raises(UnreadableFileError, match=re.escape(f'{path} is {said}')):
        GeoNRWPatches(root, size=32)[3]
    dataset = GeoNRWPatches(root, size=32, skip_unreadable=True)
    with pytest.warns(UserWarning, match='skipped 1 of 8 samples'):
        assert dataset[3]['image_rgb'][0, 0, 0] == 50
    alone = dataset.subset([3])
    with (
        pytest.raises(UnreadableFileError, match='one readable sample, found none'),
        pytest.warns(UserWarning, match='skipped 1 of 1 samples'),
    ):
        alone[0]


def test_needs_a_readable_tile(root: Path) -> None:
    for path in root.glob('*/*.jp2'):
        path.write_bytes(b'nothing')
    with pytest.raises(UnreadableFileError, match=r'300_5700_rgb\.jp2 is truncated'):
        GeoNRWPatches(root)
    with pytest.raises(UnreadableFileError, match=r'one readable tile .* none among 2'):
        GeoNRWPatches(root, skip_unreadable=True)


@pytest.mark.parametrize('value', [11, 255])
def test_unknown_class_is_refused(root: Path, value: int) -> None:
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[0, 40, 40] = value
    write(root / 'aachen/300_5700_seg.tif', mask, driver='GTiff')
    dataset = GeoNRWPatches(root, size=32)
    assert dataset[0]['mask'].max() == 0
    with pytest.raises(
        ValueError,
        match=f'300_5700_seg.tif: expected classes from 0 to 10, found {value}',
    ):
        dataset[3]


def test_refuses_files_of_another_size_or_number_of_bands(root: Path) -> None:
    path = root / 'aachen/300_5700_dem.tif'
    write(path, np.zeros((1, 32, 32), np.float32), driver='GTiff')
    with pytest.raises(
        ValueError, match=r'dem\.tif: expected 64 x 64 pixels, found 32'
    ):
        GeoNRWPatches(root, size=16)[0]
    write(path, np.zeros((2, 64, 64), np.float32), driver='GTiff')
    with pytest.raises(ValueError, match=r'dem.tif: expected 1 band\(s\), found 2'):
        GeoNRWPatches(root, size=16)[0]


def test_rejects_invalid_options(shared: Path) -> None:
    with pytest.raises(ValueError, match=r"split must be one of .*, got 'val'"):
        GeoNRWPatches(shared, 'val')
    for size in (0, 65):
        with pytest.raises(
            ValueError, match=rf'size must be in \[1, 64\], .* got {size}'
        ):
            GeoNRWPatches(shared, size=size)


def test_cities_may_be_missing(root: Path) -> None:
    shutil.copytree(root / 'aachen', root / 'no_city')
    assert len(GeoNRWPatches(root, size=64)) == 2


def test_draws_a_sample(shared: Path) -> None:
    dataset = GeoNRWPatches(shared, size=32)
    sample = dataset[0]
    figure = dataset.plot({**sample, 'prediction': sample['mask']})
    assert [ax.get_title() for ax in figure.axes] == [
        'rgb (R G B)',
        'dem (elevation, m)',
        'mask',
        'prediction',
    ]
    legend = figure.axes[2].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == len(sample['mask'].unique())
