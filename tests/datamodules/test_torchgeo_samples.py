"""Adapt TorchGeo's own datasets, on fake files in their layouts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.fake_data import fake
from tests.helpers.small_fits import scaled
from torchgeo_decur.datamodules import TorchGeoDataModule
from torchgeo_decur.datasets import TorchGeoSamples
from torchgeo_decur.datasets.base import UnreadableFileError

FAKE = fake('torchgeo_samples')
SEN12MS = {
    's1': {'key': 'image[0:2]', 'modality': 'sentinel1_grd'},
    's2': {'key': 'image[2:15]', 'modality': 'sentinel2_l1c'},
}


@pytest.fixture(scope='module')
def sen12ms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = FAKE.make_sen12ms(tmp_path_factory.mktemp('sen12ms'))
    arguments = {'root': str(root), 'checksum': False}
    return {'class_path': 'torchgeo.datasets.SEN12MS', 'init_args': arguments}


def corner(dataset: Any, m: str) -> list[float]:
    return [dataset[i][f'image_{m}'][0, 0, 0].item() for i in range(len(dataset))]


def test_channels_of_one_image_become_modalities(sen12ms: dict[str, Any]) -> None:
    data = TorchGeoDataModule(
        sen12ms, SEN12MS, train='train', test='test', val_fraction=0.25, batch_size=2
    )
    data.setup('fit')
    data.setup('test')
    data.setup('predict')
    kept, held_out = corner(data.train_dataset, 's1'), corner(data.val_dataset, 's1')
    assert sorted(kept + held_out) == [-12.0 - i for i in reversed(range(8))]
    assert len(held_out) == 2
    assert corner(data.test_dataset, 's2') == [40 + 100.0 * i for i in range(8, 12)]
    assert len(data.predict_dataset) == 4
    sample = data.test_dataset[1]
    assert sample['image_s2'].shape == (13, 16, 16)
    assert sample['image_s2'].dtype == torch.float32
    rows = torch.arange(16)
    assert torch.equal(sample['mask'], (rows[:, None] + rows + 9) % 11)
    batch = scaled(data, 'val')
    assert set(batch) == {'image_s1', 'image_s2', 'mask'}
    assert all(0 <= batch[f'image_{m}'].min() <= 1 for m in SEN12MS)


def test_reads_images_of_several_sizes_and_labels(tmp_path: Path) -> None:
    root = str(FAKE.make_treesatai(tmp_path))
    dataset = {'class_path': 'torchgeo.datasets.TreeSatAI', 'init_args': {'root': root}}
    entries = {
        'rgb': {
            'key': 'image_aerial[3, 1, 2]',
            'bands': ['R', 'G', 'B'],
            'kind': 'rgb',
            'unit': 'uint8',
        },
        's1': {
            'key': 'image_s1[:2]',
            'bands': ['VV', 'VH'],
            'kind': 'sar',
            'unit': 'dB',
        },
    }
    data = TorchGeoDataModule(dataset, entries, train='train', test='test')
    data.setup('fit')
    sample = data.train_dataset[0]
    assert sample['image_rgb'].shape == (3, 24, 24)
    assert sample['image_s1'].shape == (2, 6, 6)
    assert sample['label'].shape == (15,) and sample['label'].dtype == torch.int64
    assert data.train_dataset.classes[1] == 'Acer'
    # Without positions, embeddings have the numbers of the samples.
    assert not hasattr(data.train_dataset, 'places')
    # Statistics of radar are estimated; bytes need none.
    assert list(data.statistics) == ['s1']
    assert data.statistics['s1']['mean'][0] == pytest.approx(-9.5, abs=1.5)


def test_samples_without_splits_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip('h5py')
    root = str(FAKE.make_mmearth(tmp_path))
    dataset = {
        'class_path': 'torchgeo.datasets.MMEarth',
        'init_args': {
            'root': root,
            'subset': 'MMEarth100k',
            'modalities': ['sentinel1_asc', 'sentinel2', 'aster', 'esa_worldcover'],
        },
    }
    standard = {'kind': 'multispectral', 'unit': 'z'}
    entries = {
        's1': {'key': 'image_sentinel1_asc[0:2]', 'bands': ['VV', 'VH'], **standard},
        'dem': {
            'key': 'image_aster[0]',
            'bands': ['elevation'],
            'kind': 'elevation',
            'unit': 'z',
        },
    }
    targets = {'mask': 'mask_esa_worldcover'}
    data = TorchGeoDataModule(
        dataset, entries, targets=targets, val_fraction=0.25, test_fraction=0.25
    )
    data.setup('fit')
    data.setup('test')
    sizes = [len(getattr(data, f'{s}_dataset')) for s in ('train', 'val', 'test')]
    assert sizes == [4, 2, 2]
    sample = data.train_dataset[0]
    assert sample['mask'].shape == (16, 16) and set(sample) == {
        'image_s1',
        'image_dem',
        'mask',
    }
    assert set(sample['mask'].unique().tolist()) <= {0, 1, 2, 255}
    with pytest.raises(ValueError, match=r"\['train'\] must not be set.*MMEarth has"):
        TorchGeoDataModule(dataset, entries, train='train')


S1 = {'s1': SEN12MS['s1']}


@pytest.mark.parametrize(
    ('entries', 'message'),
    [
        ({'s1': {**S1['s1'], 'key': 'radar'}}, r"expected key 'radar'.*'image': \(15,"),
        (
            {'s1': {**S1['s1'], 'key': 'image[0:3]'}},
            r'expected 2 channels .*\[0, 1, 2\]',
        ),
        (
            {'s1': {**S1['s1'], 'key': 'image[0, 15]'}},
            r'found selected channels \[0, 15\] of 15 in image',
        ),
        ({'s1': {**S1['s1'], 'key': 'image[VV]'}}, r"key must be .* got 'image\[VV\]'"),
        ({'s1': {**S1['s1'], 'key': 'image[0:2:1]'}}, 'channels must have the form'),
        ({'s1': {**S1['s1'], 'key': 'image[0,]'}}, 'channels must have the form'),
        ({'s1': {**S1['s1'], 'band': ['VV']}}, r"keys must be among .* got \['band'\]"),
        ({'s1': {'modality': 'sentinel1_grd'}}, 'key must be .* got None'),
        ({'s1': {'key': 'image'}}, 'must have the option modality or bands'),
        (
            {'a': {'key': 'mask[1]', 'bands': ['x']}},
            r'a: expected 1 channels .* found selected channels .* of 1 in mask',
        ),
    ],
)
def test_refuses_wrong_entries(
    sen12ms: dict[str, Any], entries: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TorchGeoDataModule(sen12ms, entries).setup('fit')


def test_refuses_wrong_datasets(sen12ms: dict[str, Any]) -> None:
    def make(**changes: Any) -> TorchGeoDataModule:
        return TorchGeoDataModule({**sen12ms, **changes}, S1)

    path = 'torchgeo.datasets.'
    for name, message in (
        (
            'Landsat8',
            'Landsat8 requires a sampler of windows; use RasterPairDataModule',
        ),
        ('CopernicusPretrain', 'CopernicusPretrain is an iterable dataset'),
        ('Unknown', 'class_path must be the import path of a class'),
        ('utils.lazy_import', 'class_path must be a class'),
    ):
        with pytest.raises(ValueError, match=message):
            make(class_path=path + name)
    with pytest.raises(
        ValueError, match=r"init_args of .* must be among .*'bands'.*'band'"
    ):
        make(init_args={'band': []})
    with pytest.raises(ValueError, match=r"other than class_path .* \['args'\]"):
        make(args={})
    with pytest.raises(ValueError, match=r"targets must have .* got \['labels'\]"):
        TorchGeoDataModule(sen12ms, S1, targets={'labels': 'label'})
    with pytest.raises(ValueError, match=r'sum must be less than 1, got 0\.5 and 0\.5'):
        TorchGeoDataModule(sen12ms, S1, val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ValueError, match=r"label: expected key 'label'"):
        TorchGeoDataModule(sen12ms, S1, targets={'label': 'label'}).setup('fit')


def test_unreadable_samples_are_named_or_skipped(tmp_path: Path) -> None:
    from torchgeo.datasets import SEN12MS as Source

    root = FAKE.make_sen12ms(tmp_path, 3, 1)
    next(root.rglob('*_s1_1_p1.tif')).write_bytes(b'')
    source = Source(str(root), checksum=False)
    with pytest.raises(UnreadableFileError, match='sample 1 of SEN12MS cannot be read'):
        TorchGeoSamples(source, S1)[1]
    with pytest.warns(UserWarning, match='skipped 1 of 3 samples'):
        sample = TorchGeoSamples(source, S1, skip_unreadable=True)[1]
    assert sample['image_s1'][0, 0, 0] == -14
