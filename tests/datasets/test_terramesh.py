"""Read TerraMesh: shards of places with some of eight products."""

import gzip
import tarfile
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from torchgeo.datasets import DatasetNotFoundError

from tests.helpers.fake_data import fake
from tests.helpers.zarr_files import write_shard
from torchgeo_decur.datasets import SSL4EOS12V11, TerraMesh
from torchgeo_decur.datasets.archives import stores
from torchgeo_decur.datasets.base import UnreadableFileError

FAKE = fake('terramesh')
ALL = {
    's1grd': 'S1GRD',
    's1rtc': 'S1RTC',
    's2': 'S2L1C',
    'l2a': 'S2L2A',
    'rgb': 'S2RGB',
    'ndvi': 'NDVI',
    'dem': 'DEM',
}


@pytest.fixture(scope='module')
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write all products, which no test changes."""
    made: Path = FAKE.make(tmp_path_factory.mktemp('terramesh'), folders=FAKE.BANDS)
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write two shards to damage."""
    made: Path = FAKE.make(
        tmp_path, {'train': (2, 2)}, ('S1GRD', 'S1RTC', 'S2L1C'), per_shard=2
    )
    return made


def shard(root: Path, folder: str = 'S2L1C') -> Path:
    return root / 'train' / folder / 'majortom_shard_000001.tar'


def test_reads_all_products_of_a_place(shared: Path) -> None:
    dataset = TerraMesh(shared, modalities=ALL, land_cover=True)
    assert len(dataset) == 8
    for item in range(8):
        number = item % 6
        source = 'majortom' if item < 6 else 'ssl4eos12'
        sample = dataset[item]
        assert dataset.store.key(item) == f'{source}_train_{number:07}'
        assert sample['index'] == number
        lacks = 's1grd' if source == 'majortom' else 's1rtc'
        for m, folder in ALL.items():
            bands = range(len(FAKE.BANDS[folder]))
            expected = [FAKE.value(number, b, folder) for b in bands]
            assert sample[f'image_{m}'].shape == (len(bands), 12, 12)
            assert sample[f'available_{m}'] == (m != lacks)
            if m != lacks:
                # The offset is subtracted where an image has it.
                assert sample[f'image_{m}'][:, 0, 0].tolist() == expected, (m, item)
        day = {0: 1578700800, 1: 1686355200}[number % 2]
        assert sample['date_s2'] == day and sample['date_dem'] == 0
        rows = torch.arange(12)
        assert torch.equal(sample['mask'], (rows[:, None] + rows + number) % 10)
        assert sample['mask'].dtype == torch.int64


def test_first_folder_that_has_the_place_counts(shared: Path) -> None:
    dataset = TerraMesh(shared)
    batch = next(iter(DataLoader(dataset, batch_size=8)))
    assert not [k for k in batch if k.startswith('available')]
    corners = batch['image_s1'][:, 0, 0, 0].tolist()
    rtc = [FAKE.value(n, 0, 'S1RTC') for n in range(6)]
    assert corners == rtc + [FAKE.value(n, 0, 'S1GRD') for n in range(2)]
    assert len(TerraMesh(shared, modalities=ALL | {}, skip_incomplete='keep')) == 8
    with pytest.raises(ValueError, match='8 of 8 lack one'):
        TerraMesh(shared, modalities=ALL, skip_incomplete=True)


def test_offset_is_decided_for_each_image(tmp_path: Path) -> None:
    # A product of 2020 without the offset, and one of 2023 with it, a hole in each.
    for number, offset in ((0, -1000), (1, 1000)):
        arrays = FAKE.place('S2L1C', number)
        arrays['bands'][0][...] += offset
        arrays['bands'][0][..., 0, 0] = 0
        write_shard(
            tmp_path / f'train/S2L1C/majortom_shard_{number:06}.tar',
            {f'majortom_train_{number:07}': arrays},
        )
    old, new = TerraMesh(tmp_path, modalities={'s2': 'S2L1C'})
    for number, sample in enumerate((old, new)):
        expected = FAKE.value(number, 3, 'S2L1C') + 4
        assert sample['image_s2'][3, 0, 1] == expected
    assert not old['image_s2'].isnan().any()
    assert (
        new['image_s2'][:, 0, 0].isnan().all() and new['image_s2'].isnan().sum() == 13
    )
    kept = TerraMesh(
        tmp_path, modalities={'s2': 'S2L1C'}, conversion={'s2': {'offset': 0}}
    )
    assert kept[1]['image_s2'][3, 0, 1] == FAKE.value(1, 3, 'S2L1C') + 1004


def test_positions_are_found_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = TerraMesh(root)
    found = sorted(p.relative_to(root / 'index') for p in root.rglob('*.npz'))
    assert len(found) == 4
    monkeypatch.setattr(stores, '_scan', None)
    second = TerraMesh(root)
    assert torch.equal(second[3]['image_s2'], first[3]['image_s2'])
    monkeypatch.undo()
    # A shard of another size is searched again.
    write_shard(shard(root), {'majortom_train_0000001': FAKE.place('S2L1C', 1)})
    changed = TerraMesh(root)
    assert len(changed) == 4 and changed.lacking[0] == {'s2'}


def test_returns_the_position_of_each_place(shared: Path) -> None:
    places = TerraMesh(shared).subset([2, 6]).places().to_crs('EPSG:32632')
    west, _, east, north = places.total_bounds
    assert (west, east, north) == pytest.approx((400_000, 420_120, 5_800_000), abs=0.1)
    assert [str(d.date()) for d in places['date']] == ['2020-01-11'] * 2


def test_damaged_shards_are_named(root: Path, tmp_path: Path) -> None:
    content = shard(root).read_bytes()
    shard(root).write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableFileError, match=r'S2L1C.*000001\.tar is truncated'):
        TerraMesh(root)
    shard(root).write_bytes(gzip.compress(content))
    with pytest.raises(
        ValueError, match='uncompressed tar file, found a compressed file'
    ):
        TerraMesh(root)
    with tarfile.open(shard(root), 'w') as tar:
        tar.add(__file__, 'a.txt')
    with pytest.raises(ValueError, match=r'expected members <key>\.zarr\.zip'):
        TerraMesh(root)
    shard(root).write_bytes(content)
    # Zeros within a member leave the tar file whole.
    start, size = TerraMesh(root).store._spans[0, 2]
    at = int(start + size) - 60
    shard(root).write_bytes(content[:at] + bytes(60) + content[at + 60 :])
    with pytest.raises(UnreadableFileError, match='member majortom_train_0000000'):
        TerraMesh(root)[0]
    with pytest.warns(UserWarning, match='skipped 1 of 4 samples'):
        assert TerraMesh(root, skip_unreadable=True)[0]['index'] == 1


def test_other_archives_are_refused(tmp_path: Path, root: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r'Expected files such as .*\.tar'):
        TerraMesh(tmp_path / 'nothing')
    made = fake('ssl4eo_s12_v1_1').make_shards(tmp_path / 'ssl4eo', {'train': 2})
    with pytest.raises(ValueError, match='expected one date as in TerraMesh, found 4'):
        TerraMesh(made, modalities={'s1': 'S1GRD'})[0]
    with pytest.raises(ValueError, match='found TerraMesh shards; use TerraMesh'):
        SSL4EOS12V11(root)
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match='index must be a writable folder'):
        TerraMesh(root, index=tmp_path / 'file')
    for wrong in ({'s1': []}, {'s1': ['S1RTC', 'S2L1C']}, {'mask': 'LULC'}):
        with pytest.raises(
            ValueError, match=r'folders in modalities must|must have the same'
        ):
            TerraMesh(root, modalities=wrong)
    with pytest.raises(UnreadableFileError, match='expected a member in LULC'):
        TerraMesh(root, land_cover=True)[0]
