"""Check the datamodules of SUN RGB-D and NYU Depth v2."""

from pathlib import Path

import pytest
from jsonargparse import ArgumentParser
from torchgeo.datasets import DatasetNotFoundError

from tests.helpers.fake_data import fake
from tests.helpers.small_fits import scaled
from torchgeo_decur.datamodules import NYUDepthV2DataModule, SUNRGBDDataModule
from torchgeo_decur.tasks import DeCUR
from torchgeo_decur.transforms import DepthAugmentation, UprightRGBAugmentation

pytest.importorskip('h5py')
pytest.importorskip('scipy')

MAKE = {name: fake(name).make for name in ('sunrgbd', 'nyudepthv2')}
CLASSES = {'sunrgbd': SUNRGBDDataModule, 'nyudepthv2': NYUDepthV2DataModule}


@pytest.fixture(scope='module')
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write data that no test changes, by dataset."""
    return {
        name: str(make(tmp_path_factory.mktemp(name))) for name, make in MAKE.items()
    }


@pytest.mark.parametrize('name', CLASSES)
@pytest.mark.parametrize('depth', ['hha', 'raw'])
def test_reads_batches_of_every_split(
    roots: dict[str, str], name: str, depth: str
) -> None:
    datamodule = CLASSES[name](
        roots[name], depth=depth, size=(16, 24), val_fraction=0.3, batch_size=2
    )
    for stage in ('fit', 'validate', 'test', 'predict'):
        datamodule.setup(stage)
    counts = {
        split: len(getattr(datamodule, f'{split}_dataset'))
        for split in ('train', 'val', 'test', 'predict')
    }
    if name == 'nyudepthv2':
        assert counts['test'] == counts['predict'] == 1
        assert counts['train'] + counts['val'] == 4
    else:
        assert counts['test'] == counts['predict'] == 2
        assert counts['train'] + counts['val'] == 5
    train, val = (
        {dataset.group(item) for item in dataset.samples}
        for dataset in (datamodule.train_dataset, datamodule.val_dataset)
    )
    assert train and val and not train & val
    for split in counts:
        batch = scaled(datamodule, split)
        bands = {'hha': 3} if depth == 'hha' else {'depth': 1}
        for modality, count in {'rgb': 3, **bands}.items():
            image = batch[f'image_{modality}']
            assert image.shape[1:] == (count, 16, 24)
            assert 0 <= image.min() and image.max() <= 1
        assert batch['mask'].shape[1:] == (16, 24)


def test_frames_of_a_video_stay_together(roots: dict[str, str]) -> None:
    for seed in range(4):
        datamodule = SUNRGBDDataModule(
            roots['sunrgbd'], size=(8, 8), val_fraction=0.5, seed=seed
        )
        datamodule.setup('fit')
        assert datamodule.val_dataset is not None
        sides = [
            ['sun3ddata' in frame.scene for frame in dataset.samples]
            for dataset in (datamodule.train_dataset, datamodule.val_dataset)
        ]
        assert sorted(map(sum, sides)) == [0, 2]


def test_label_fraction_works_without_validation(roots: dict[str, str]) -> None:
    few = SUNRGBDDataModule(roots['sunrgbd'], val_fraction=0, label_fraction=0.4)
    few.setup('fit')
    assert len(few.train_dataset) == 2
    assert few.val_dataset is None


def test_pretraining_gets_the_augmentation_of_rooms(roots: dict[str, str]) -> None:
    datamodule = NYUDepthV2DataModule(roots['nyudepthv2'], size=(16, 24), batch_size=2)
    channels = {m: modality.channels for m, modality in datamodule.modalities.items()}
    task = DeCUR(channels, 'resnet18', projector=[8], size=16)
    assert type(task.augmentations['rgb']) is UprightRGBAugmentation
    assert type(task.augmentations['hha']) is DepthAugmentation


@pytest.mark.parametrize('name', CLASSES)
def test_rejects_invalid_arguments(tmp_path: Path, name: str) -> None:
    for options, message in (
        ({'val_fraction': 1}, r'val_fraction must be in \[0, 1\), got 1'),
        ({'depth': 'jet'}, "depth must be one of .* got 'jet'"),
        ({'size': [480]}, r'size must be a positive height and width, .*got \[480\]'),
        ({'batch_size': 0}, 'batch_size must be positive, got 0'),
    ):
        with pytest.raises(ValueError, match=message):
            CLASSES[name](str(tmp_path), **options)
    datamodule = CLASSES[name](str(tmp_path))
    datamodule.prepare_data()
    with pytest.raises(DatasetNotFoundError, match='Expected'):
        datamodule.setup('fit')


@pytest.mark.parametrize('name', CLASSES)
def test_takes_options_of_a_yaml_file(roots: dict[str, str], name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CLASSES[name], 'data')
    options = parser.parse_object(
        {'data': {'root': roots[name], 'depth': 'raw', 'size': [8, 12]}}
    )
    datamodule = CLASSES[name](**vars(options.data))
    datamodule.setup('test')
    assert datamodule.test_dataset[0]['image_depth'].shape == (1, 8, 12)
