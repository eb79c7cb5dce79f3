"""Read SSL4EO-S12 v1.1 in both published layouts."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchgeo.datasets import DatasetNotFoundError

from tests.helpers.fake_data import fake
from tests.helpers.zarr_files import write_zarr_zip
from torchgeo_decur.datasets import SSL4EOS12V11
from torchgeo_decur.datasets.archives.zarr_zip import ZarrZip
from torchgeo_decur.datasets.base import UnreadableFileError
from torchgeo_decur.datasets.ssl4eo_s12 import SSL4EOS12Pair as Pair

FAKE = fake('ssl4eo_s12_v1_1')
FOLDERS = {'s1': 'S1GRD', 's2': 'S2L1C', 'l2a': 'S2L2A', 'rgb': 'S2RGB'}


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write files of many places, which no test changes."""
    root: Path = FAKE.make(tmp_path_factory.mktemp('files'), folders=FOLDERS.values())
    return root


@pytest.fixture(scope='module')
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write tar shards, which no test changes."""
    folders = (*FOLDERS.values(), 'DEM')
    root: Path = FAKE.make_shards(tmp_path_factory.mktemp('shards'), folders=folders)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write two files to damage."""
    made: Path = FAKE.make(tmp_path, {'train': 4}, per_file=2)
    return made


def file(root: Path, folder: str = 'S1GRD', number: int = 1) -> Path:
    name = f'ssl4eos12_train_seasonal_data_{number:06}.zarr.zip'
    return root / 'train' / folder / name


@pytest.mark.parametrize('layout', ['files', 'shards'])
def test_places_are_paired_by_pixels(
    layout: str, request: pytest.FixtureRequest
) -> None:
    dataset = SSL4EOS12V11(request.getfixturevalue(layout), modalities=FOLDERS)
    assert len(dataset) == 6
    for place in range(6):
        sample = dataset[place]
        assert not [k for k in sample if k.startswith('available')]
        for m, folder in FOLDERS.items():
            image = sample[f'image_{m}']
            count = len(FAKE.BANDS[folder])
            assert image.shape == (4, count, 12, 12) and image.dtype == torch.float32
            # The offset of 1000 of the files is subtracted.
            expected = [
                [FAKE.value(place, d, b, folder) for b in range(count)]
                for d in range(4)
            ]
            assert image[..., 0, 0].tolist() == expected
            assert torch.equal(image[..., 1:, :], image[..., :-1, :])
        later = sample['date_s2'] - sample['date_s1']
        assert later.tolist() == [4 * 86400] * 4
        assert sample['date_s1'][0] == 1578614400  # 2020-01-10
    assert int(SSL4EOS12V11(request.getfixturevalue(layout))[2]['index']) == (
        2 if layout == 'shards' else 17
    )


def test_elevation_has_a_single_date(shards: Path) -> None:
    folders = {'s1': 'S1GRD', 'dem': 'DEM'}
    dataset = SSL4EOS12V11(
        shards, modalities=folders, date_sampling='independent', num_dates=2
    )
    sample = dataset[3]
    assert sample['image_s1'].shape[0] == 2
    assert sample['image_dem'].shape == (1, 1, 12, 12)
    assert sample['image_dem'][0, 0, 0, 0] == 103


def test_dates_depend_only_on_seed_epoch_and_place(files: Path) -> None:
    def draw(seed: int, epoch: int, sampling: str = 'independent') -> list[int]:
        dataset = SSL4EOS12V11(
            files, date_sampling=sampling, num_dates=4, seed=seed
        ).subset([3, 1])
        dataset.set_epoch(epoch)
        sample = dataset[0]
        assert sample['index'] == 24
        return sample['date_s1'].tolist() + sample['date_s2'].tolist()

    assert draw(0, 0) == draw(0, 0)
    assert draw(0, 0) != draw(1, 0) != draw(0, 1) != draw(0, 0)
    same = draw(0, 0, 'same')
    assert [b - a for a, b in zip(same[:4], same[4:], strict=True)] == [4 * 86400] * 4


def test_only_chunks_of_the_dates_asked_for_are_read(
    files: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    true_decode = ZarrZip.decode

    def decode(self: ZarrZip, array: str, name: str) -> Any:
        read.append(name)
        return true_decode(self, array, name)

    monkeypatch.setattr(ZarrZip, 'decode', decode)
    for root in (files, shards):
        read.clear()
        SSL4EOS12V11(root, date_sampling='same')[4]
        assert len([n for n in read if n.startswith('bands/')]) == 2


def test_a_chunk_of_many_places_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = FAKE.make(tmp_path, {'train': 4}, ['S2RGB'], chunk=4)
    dataset = SSL4EOS12V11(root, modalities={'rgb': 'S2RGB'})
    read: list[str] = []
    true_decode = ZarrZip.decode

    def decode(self: ZarrZip, array: str, name: str) -> Any:
        read.append(name)
        return true_decode(self, array, name)

    monkeypatch.setattr(ZarrZip, 'decode', decode)
    corners = [dataset[i]['image_rgb'][2, 1, 0, 0].item() for i in range(4)]
    assert corners == [FAKE.value(i, 2, 1, 'S2RGB') for i in range(4)]
    assert len([n for n in read if n.startswith('bands/')]) == 4


def test_user_takes_over_the_offset(files: Path) -> None:
    kept = SSL4EOS12V11(files, conversion={'s2': {'offset': 0}})[1]['image_s2']
    assert torch.equal(kept - 1000, SSL4EOS12V11(files)[1]['image_s2'])


def test_missing_pixels_are_nan(tmp_path: Path) -> None:
    for folder in ('S1GRD', 'S2L1C'):
        arrays = FAKE.places(folder, [0, 1])
        arrays['bands'][0][0, 0, :, 0, 0] = float('nan') if folder == 'S1GRD' else 0
        write_zarr_zip(file(tmp_path, folder), arrays)
    dataset = SSL4EOS12V11(tmp_path)
    sample = dataset[0]
    for m in ('s1', 's2'):
        missing = sample[f'image_{m}'].isnan()
        assert missing[0, :, 0, 0].all() and missing.sum() == missing.shape[1]
        nodata = dataset.modalities[m].nodata
        assert nodata is not None and nodata != nodata


def test_dates_are_in_order_of_time(tmp_path: Path) -> None:
    # Radar of the files of 2025 is not sorted.
    for folder, dates in (('S1GRD', (2, 0, 1, 3)), ('S2L1C', (0, 1, 2, 3))):
        write_zarr_zip(file(tmp_path, folder), FAKE.places(folder, [0], dates))
    sample = SSL4EOS12V11(tmp_path)[0]
    assert (sample['date_s1'].diff() > 0).all()
    expected = [FAKE.value(0, d, 0, 'S1GRD') for d in range(4)]
    assert sample['image_s1'][:, 0, 0, 0].tolist() == expected


def test_absent_modality_is_zero_and_said(root: Path) -> None:
    file(root, 'S1GRD', 2).unlink()
    dataset = SSL4EOS12V11(root)
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch['available_s1'].tolist() == [True, True, False, False]
    assert batch['available_s2'].all()
    assert batch['image_s1'].shape == (4, 4, 2, 12, 12)
    assert not batch['image_s1'][2:].any() and batch['image_s1'][:2].all()
    assert dataset.subset([1, 3]).availability['s1'].tolist() == [True, False]
    assert dict(dataset.lacking) == {2: {'s1'}, 3: {'s1'}}
    kept = SSL4EOS12V11(root, skip_incomplete=True)
    assert len(kept) == 2 and 'available_s1' not in kept[0]
    with pytest.raises(ValueError, match=r"2 of 4 lack one, with .*'s1': 2"):
        SSL4EOS12V11(root, skip_incomplete=False)
    with pytest.raises(ValueError, match=r"skip_incomplete must .* got 'drop'"):
        SSL4EOS12V11(root, skip_incomplete='drop')
    for number in (1, 2):
        file(root, 'S2L1C', number).unlink()
    with pytest.raises(ValueError, match=r"2 of 2 lack one, with .*'s2': 0"):
        SSL4EOS12V11(root, skip_incomplete=True)


@pytest.mark.parametrize('layout', ['files', 'shards'])
def test_returns_the_position_of_each_place(
    layout: str, request: pytest.FixtureRequest
) -> None:
    places = (
        SSL4EOS12V11(request.getfixturevalue(layout))
        .subset([2, 5])
        .places()
        .to_crs('EPSG:32632')
    )
    west, south, east, north = places.total_bounds
    assert (west, east) == pytest.approx((420_000, 450_120), abs=0.1)
    assert (south, north) == pytest.approx((5_799_880, 5_800_000), abs=0.1)
    assert [str(d.date()) for d in places['date']] == ['2020-01-10'] * 2


def test_truncated_file_is_named(root: Path) -> None:
    content = file(root).read_bytes()
    # The list of contents at the end is cut off.
    file(root).write_bytes(content[:-100])
    with pytest.raises(UnreadableFileError, match=r'S1GRD.*000001.*is truncated'):
        SSL4EOS12V11(root)


def test_damaged_chunk_is_skipped(root: Path) -> None:
    content = bytearray(file(root, 'S2L1C', 2).read_bytes())
    at = content.index(b'bands/0.1.0.0.0')
    content[at + 40 : at + 48] = b'\xff' * 8
    file(root, 'S2L1C', 2).write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r'S2L1C.*000002.*is truncated'):
        SSL4EOS12V11(root)[2]
    with pytest.warns(UserWarning, match='skipped 1 of 4 samples'):
        sample = SSL4EOS12V11(root, skip_unreadable=True)[2]
    assert sample['index'] == 24


def test_wrong_version_says_what_to_use(tmp_path: Path, root: Path) -> None:
    old = fake('ssl4eo_s12').make(tmp_path / 'old', places=(0,), dates=(0,))
    with pytest.raises(
        ValueError, match=r'expected SSL4EO-S12 v1\.1.*found SSL4EO-S12 v1\.0'
    ):
        SSL4EOS12V11(old)
    with pytest.raises(ValueError, match=r'found SSL4EO-S12 v1\.1 .*V11DataModule'):
        Pair(root)
    bands = {'bands': FAKE.places('S1GRD', [0, 1])['bands']}
    write_zarr_zip(file(root), bands, zarr_format=3)
    with pytest.raises(ValueError, match='expected arrays of zarr format 2, found'):
        SSL4EOS12V11(root)


def test_errors_name_the_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetNotFoundError, match=r'Expected files such as .*S2L2A'):
        SSL4EOS12V11(root, modalities={'s2': 'S2L2A'})
    with pytest.raises(ValueError, match=r"s2: folders in modalities must .*'S2'"):
        SSL4EOS12V11(root, modalities={'s2': 'S2'})
    arrays = FAKE.places('S1GRD', [0, 1])
    bands, *more = arrays['band']
    write_zarr_zip(file(root), {**arrays, 'band': (bands[::-1].copy(), *more)})
    with pytest.raises(ValueError, match=r"000001.*expected bands \['VV', 'VH'\]"):
        SSL4EOS12V11(root)[0]
    write_zarr_zip(file(root), FAKE.places('S2RGB', [0, 1]))
    with pytest.raises(ValueError, match=r'000001.*expected 2 bands .* found 3'):
        SSL4EOS12V11(root)[0]
    write_zarr_zip(file(root), FAKE.places('S1GRD', [1, 0]))
    with pytest.raises(ValueError, match='expected the same location in row 0'):
        SSL4EOS12V11(root)[0]
    write_zarr_zip(file(root), {k: v for k, v in arrays.items() if k != 'bands'})
    with pytest.raises(
        ValueError, match=r"expected an array bands, found arrays \['band'"
    ):
        SSL4EOS12V11(root)
    write_zarr_zip(file(root), arrays)
    monkeypatch.setitem(sys.modules, 'numcodecs', None)
    with pytest.raises(ImportError, match=r'pip install "torchgeo-decur\[zarr\]"'):
        SSL4EOS12V11(root)


def test_workers_read_files_of_their_own(files: Path) -> None:
    dataset = SSL4EOS12V11(files)
    expected = dataset[0]['image_s2']
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'This process')
        loader = DataLoader(dataset, batch_size=2, num_workers=2)
        batches = list(loader)
    assert torch.equal(batches[0]['image_s2'][0], expected)
    assert [int(i) for b in batches for i in b['index']] == [3, 10, 17, 24, 31, 38]
    assert dataset.plot(dataset[1]) is not None
