import re
import shutil
from pathlib import Path

import pytest
import rasterio
import torch
from torch.utils.data import DataLoader
from torchgeo.datasets import SSL4EOS12, DatasetNotFoundError

from tests.helpers.fake_data import fake
from torchgeo_decur.datamodules import SSL4EOS12PairDataModule
from torchgeo_decur.datasets.base import UnreadableFileError
from torchgeo_decur.datasets.ssl4eo_s12 import SSL4EOS12Pair

FAKE = fake('ssl4eo_s12')
make, value, product, write = (FAKE.make, FAKE.value, FAKE.product, FAKE.write)
S1, S2 = FAKE.S1, FAKE.S2


@pytest.fixture(scope='module')
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write data that no test changes."""
    return make(tmp_path_factory.mktemp('ssl4eo'), splits=('s1', 's2c', 's2a'))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write two places with two dates to damage."""
    return make(tmp_path, places=(0, 1), dates=(0, 1))


def corners(sample: dict[str, torch.Tensor], m: str) -> list[list[float]]:
    return sample[f'image_{m}'][..., 0, 0].tolist()


def date_of(sample: dict[str, torch.Tensor], m: str) -> list[int]:
    """Read the numbers of the dates from the pixels of the first band."""
    place = int(sample['index'])
    first = [row[0] for row in corners(sample, m)]
    if m == 's1':
        return [round((-8 - place - v) / 0.25) for v in first]
    return [round((v - 100 * place) / 1000) - 2 for v in first]


@pytest.mark.parametrize(('level', 'split'), [('l1c', 's2c'), ('l2a', 's2a')])
def test_all_dates_are_paired_by_pixels(shared: Path, level: str, split: str) -> None:
    dataset = SSL4EOS12Pair(shared, level=level)
    assert len(dataset) == 3
    assert dataset.modalities['s2'].bands == S2[split]
    for sample, place in zip((dataset[i] for i in range(3)), (0, 1, 3), strict=True):
        assert sample['index'] == place
        assert sample['image_s1'].shape == (4, 2, 12, 12)
        assert sample['image_s2'].shape == (4, len(S2[split]), 12, 12)
        for m, bands in (('s1', S1), ('s2', S2[split])):
            assert sample[f'image_{m}'].dtype == torch.float32
            expected = [[value(place, d, b, split) for b in bands] for d in range(4)]
            assert corners(sample, m) == expected
        assert sample['date_s1'].dtype == torch.int64
        assert sample['date_s1'][0] == 1578636000  # 2020-01-10 06:00 UTC
        later = sample['date_s2'] - sample['date_s1']
        assert later.tolist() == [2 * 86400 + 4.5 * 3600] * 4


def test_bands_of_lower_resolution_come_on_the_ten_metre_grid(shared: Path) -> None:
    image = SSL4EOS12Pair(shared)[0]['image_s2'][0]
    # Its two columns are 4 apart, six pixels wide each, centres at 2.5 and 8.5.
    column = torch.arange(12)
    expected = 2000 + 4 * ((column - 2.5) / 6).clamp(0, 1)
    torch.testing.assert_close(image[0], expected.expand(12, 12))


def test_same_takes_the_nearest_date(shared: Path) -> None:
    dataset = SSL4EOS12Pair(shared, date_sampling='same', num_dates=2)
    seen = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        sample = dataset[2]
        assert sample['image_s1'].shape[0] == sample['image_s2'].shape[0] == 2
        assert date_of(sample, 's1') == date_of(sample, 's2')
        assert len(set(date_of(sample, 's1'))) == 2
        seen.update(date_of(sample, 's1'))
    assert seen == {0, 1, 2, 3}


def test_same_repeats_the_nearest_date_of_sentinel2(root: Path) -> None:
    shutil.rmtree(root / 's2c/0000000' / product('s2c', 0))
    sample = SSL4EOS12Pair(root, date_sampling='same', num_dates=2)[0]
    assert sorted(date_of(sample, 's1')) == [0, 1]
    assert date_of(sample, 's2') == [1, 1]


def test_independent_draws_each_modality_on_its_own(shared: Path) -> None:
    dataset = SSL4EOS12Pair(shared, date_sampling='independent')
    pairs = set()
    for epoch in range(24):
        dataset.set_epoch(epoch)
        sample = dataset[1]
        pairs.add((*date_of(sample, 's1'), *date_of(sample, 's2')))
    assert len(pairs) > 6
    drawn = SSL4EOS12Pair(shared, date_sampling='independent', num_dates=3)[1]
    assert len(set(date_of(drawn, 's1'))) == len(set(date_of(drawn, 's2'))) == 3


def test_dates_depend_only_on_seed_epoch_and_place(shared: Path) -> None:
    def draw(seed: int, epoch: int) -> list[int]:
        dataset = SSL4EOS12Pair(
            shared, date_sampling='independent', num_dates=4, seed=seed
        )
        dataset.set_epoch(epoch)
        sample = dataset[2]
        return date_of(sample, 's1') + date_of(sample, 's2')

    assert draw(0, 0) == draw(0, 0)
    assert draw(0, 0) != draw(1, 0) != draw(0, 1) != draw(0, 0)


@pytest.mark.filterwarnings('ignore:This process')
def test_persistent_workers_see_the_epoch(shared: Path) -> None:
    dataset = SSL4EOS12Pair(shared, date_sampling='independent', num_dates=4).subset(
        [0, 1]
    )
    loader = DataLoader(dataset, batch_size=2, num_workers=1, persistent_workers=True)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        (batch,) = loader
        expected = torch.stack([dataset[i]['date_s2'] for i in range(2)])
        assert torch.equal(batch['date_s2'], expected)


def test_subset_has_an_epoch_of_its_own(shared: Path) -> None:
    dataset = SSL4EOS12Pair(shared, date_sampling='independent', num_dates=4)
    before = date_of(dataset[0], 's1')
    dataset.subset([0, 1]).set_epoch(5)
    assert date_of(dataset[0], 's1') == before


def test_only_files_of_the_dates_asked_for_are_opened(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    true_open = rasterio.open

    def record(path: Path, *args: object, **options: object) -> object:
        opened.append(Path(path).parent.name)
        # The place of another file that is open at the same time does not get lost.
        with true_open(path) as other:
            assert not other.transform.is_identity
        return true_open(path, *args, **options)

    monkeypatch.setattr(rasterio, 'open', record)
    SSL4EOS12Pair(shared, date_sampling='same')[0]
    assert len(opened) == 15
    assert len(set(opened)) == 2


def test_transforms_samples_and_forms_batches(shared: Path) -> None:
    def flip(sample: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**sample, 'image_s1': sample['image_s1'].flip(-1)}

    plain, flipped = SSL4EOS12Pair(shared), SSL4EOS12Pair(shared, transforms=flip)
    assert torch.equal(flipped[1]['image_s1'].flip(-1), plain[1]['image_s1'])
    (batch,) = DataLoader(plain, batch_size=3)
    assert batch['image_s2'].shape == (3, 4, 13, 12, 12)
    assert batch['index'].tolist() == [0, 1, 3]


def test_place_of_one_modality_is_left_out(root: Path) -> None:
    make(root, places=(5, 6), dates=(0,), splits=('s1',))
    with pytest.warns(
        UserWarning, match='skipped 2 of .* locations .* one modality is missing'
    ):
        dataset = SSL4EOS12Pair(root)
    assert dataset.samples == ['0000000', '0000001']


def test_place_of_one_modality_is_kept(root: Path) -> None:
    shutil.rmtree(root / 's1/0000001')
    with pytest.raises(ValueError, match=r"found 1 with only one .* \['0000001'\]"):
        SSL4EOS12Pair(root, skip_incomplete=False)
    dataset = SSL4EOS12Pair(root, skip_incomplete='keep')
    has = {m: x.tolist() for m, x in dataset.availability.items()}
    assert has == {'s1': [True, False], 's2': [True, True]}
    both, one = dataset
    for key, x in both.items():
        assert one[key].shape == x.shape and one[key].dtype == x.dtype
    assert not one['image_s1'].any() and one['date_s1'].tolist() == [0, 0]
    assert date_of(one, 's2') == [0, 1]
    assert [bool(s['available_s1']) for s in (both, one)] == [True, False]
    # A conversion of the files leaves absent images at zero.
    moved = SSL4EOS12Pair(
        root, skip_incomplete='keep', conversion={'s1': {'offset': -1}}
    )
    assert not moved[1]['image_s1'].any()
    same = SSL4EOS12Pair(root, 'same', num_dates=2, skip_incomplete='keep')
    assert sorted(date_of(same[1], 's2')) == [0, 1]
    datamodule = SSL4EOS12PairDataModule(
        str(root), val_fraction=0.5, skip_incomplete='keep'
    )
    datamodule.setup('fit')
    there = (datamodule.train_dataset, datamodule.val_dataset)
    assert sorted(bool(d.availability['s1'][0]) for d in there) == [False, True]


def test_place_without_dates_lacks_a_modality(root: Path) -> None:
    for path in (root / 's1/0000000').iterdir():
        shutil.rmtree(path)
    dataset = SSL4EOS12Pair(root, skip_incomplete='keep')
    assert dataset.availability['s1'].tolist() == [False, True]
    assert dataset.num_dates == 2


def test_all_takes_the_common_number_of_dates(root: Path) -> None:
    shutil.rmtree(root / 's2c/0000001' / product('s2c', 0))
    with pytest.warns(
        UserWarning, match=r'1 of up to 2 dates .* missing from 1 of 2 .* 0000001'
    ):
        dataset = SSL4EOS12Pair(root)
    assert dataset.num_dates == 1
    assert date_of(dataset[0], 's1') == date_of(dataset[0], 's2') == [0]
    assert date_of(dataset[1], 's1') == [0]
    assert date_of(dataset[1], 's2') == [1]


def test_place_without_dates_is_left_out(root: Path) -> None:
    for folder in (root / 's2c/0000001').iterdir():
        shutil.rmtree(folder)
    with pytest.warns(UserWarning, match='skipped 1 of .* locations .* have no date'):
        assert len(SSL4EOS12Pair(root)) == 1
    dataset = SSL4EOS12Pair(root, date_sampling='same')
    with pytest.raises(
        UnreadableFileError, match=r'0000001 is missing or has no dates'
    ):
        dataset[1]
    shutil.rmtree(root / 's2c/0000000')
    (root / 's2c/0000000').mkdir()
    with pytest.raises(DatasetNotFoundError, match=r'Expected files such as .*VV\.tif'):
        SSL4EOS12Pair(root)


def test_refuses_places_with_too_few_dates(root: Path) -> None:
    with pytest.raises(ValueError, match='at least num_dates=3 dates, found 2; reduce'):
        SSL4EOS12Pair(root, date_sampling='independent', num_dates=3)[0]


@pytest.mark.parametrize('empty', ['', 's1', 's2c'])
def test_explains_what_the_root_must_contain(tmp_path: Path, empty: str) -> None:
    root = tmp_path / 'missing'
    if empty:
        make(root, places=(0,), dates=(0,))
        shutil.rmtree(root / empty)
        (root / empty).mkdir()
    band = 'B1' if empty == 's2c' else 'VV'
    with pytest.raises(DatasetNotFoundError, match=rf'Expected files .*{band}\.tif'):
        SSL4EOS12Pair(root)


def test_version_1_1_is_named(tmp_path: Path) -> None:
    for folder in ('S1GRD', 'S2L1C'):
        inside = tmp_path / 'train' / folder
        inside.mkdir(parents=True)
        (inside / 'ssl4eos12_train_seasonal_data_000001.zarr.zip').touch()
    with pytest.raises(
        ValueError, match=r'expected SSL4EO-S12 v1\.0 .*, found .*v1\.1'
    ):
        SSL4EOS12Pair(tmp_path)


def test_needs_a_common_place(tmp_path: Path) -> None:
    make(tmp_path, places=(0,), dates=(0,), splits=('s1',))
    make(tmp_path, places=(1,), dates=(0,), splits=('s2c',))
    with pytest.raises(DatasetNotFoundError, match='in both folders, found none'):
        SSL4EOS12Pair(tmp_path)


def test_download_uses_torchgeo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def download(self: SSL4EOS12) -> None:
        fetched.append((self.split, self.checksum))

    def extract(self: SSL4EOS12) -> None:
        make(Path(self.root), places=(0,), dates=(0,), splits=(self.split,))

    monkeypatch.setattr(SSL4EOS12, '_download', download)
    monkeypatch.setattr(SSL4EOS12, '_extract', extract)
    dataset = SSL4EOS12Pair(tmp_path, level='l2a', download=True, checksum=False)
    assert fetched == [('s1', False), ('s2a', False)]
    assert dataset[0]['image_s2'].shape == (1, 12, 12, 12)


@pytest.mark.parametrize('damage', ['truncated', 'missing', 'text'])
def test_names_or_skips_an_unreadable_file(root: Path, damage: str) -> None:
    path = root / 's2c/0000000' / product('s2c', 1) / 'B8A.tif'
    content = path.read_bytes()
    path.unlink()
    said = 'missing; restore' if damage == 'missing' else 'truncated or not a raster'
    if damage != 'missing':
        path.write_bytes(content[:40] if damage == 'truncated' else b'not a raster')
    with pytest.raises(UnreadableFileError, match=re.escape(f'{path} is {said}')):
        SSL4EOS12Pair(root)[0]
    dataset = SSL4EOS12Pair(root, skip_unreadable=True)
    with pytest.warns(UserWarning, match='skipped 1 of 2 samples .*B8A.tif is '):
        assert dataset[0]['index'] == 1
    assert dataset[0]['index'] == 1  # said once
    assert dataset.unreadable == {'0000000'}


def test_refuses_files_of_another_size_or_number_of_bands(root: Path) -> None:
    folder = root / 's2c/0000000' / product('s2c', 0)
    write(folder / 'B8A.tif', 7, 0, 'uint16')
    with pytest.raises(
        ValueError, match='expected 6 x 6 or 12 x 12 pixels, found 7 x 7'
    ):
        SSL4EOS12Pair(root, skip_unreadable=True)[0]
    write(folder / 'B8A.tif', 6, 0, 'uint16', bands=2)
    with pytest.raises(ValueError, match=r'B8A.tif: expected 1 band\(s\), found 2'):
        SSL4EOS12Pair(root)[0]


def test_sizes_must_agree(tmp_path: Path) -> None:
    make(tmp_path, places=(0,), dates=(0,), splits=('s1',), size=24)
    make(tmp_path, places=(0,), dates=(0,), splits=('s2c',))
    with pytest.raises(
        ValueError, match=r"location 0000000: .* found {'s1': 24, 's2': 12}"
    ):
        SSL4EOS12Pair(tmp_path)[0]
    make(tmp_path, places=(0,), dates=(1,), splits=('s1', 's2c'))
    with pytest.raises(
        ValueError, match='location 0000000: expected images of the same size'
    ):
        SSL4EOS12Pair(tmp_path)[0]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'date_sampling': 'any'},
            "date_sampling must be one of .*'independent'.*, got 'any'",
        ),
        ({'level': 'l3'}, "level must be one of .*, got 'l3'"),
        ({'num_dates': 0}, 'num_dates must be positive, got 0'),
    ],
)
def test_rejects_invalid_options(
    shared: Path, options: dict[str, str | int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        SSL4EOS12Pair(shared, **options)


def test_draws_a_sample(shared: Path) -> None:
    dataset = SSL4EOS12Pair(shared)
    figure = dataset.plot(dataset[0], suptitle='place')
    assert len(figure.axes) == 8
    assert figure.axes[0].get_title() == 's1 (VV, dB), date 1'
    assert figure.axes[1].get_title() == 's2 (B4 B3 B2), date 1'


def test_old_name_of_date_sampling_warns(shared: Path) -> None:
    with pytest.warns(FutureWarning, match='dates is deprecated .*; use date_sampling'):
        assert SSL4EOS12Pair(shared, dates='same').date_sampling == 'same'
    with pytest.warns(FutureWarning, match='dates is deprecated .*; use date_sampling'):
        datamodule = SSL4EOS12PairDataModule(str(shared), dates='same')
    datamodule.setup('fit')
    assert datamodule.predict_dataset.date_sampling == 'same'
