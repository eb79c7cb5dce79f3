"""Check datasets in spawned worker processes, the default of Python 3.14."""

import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader

from tests.helpers.fake_data import fake
from torchgeo_decur.datamodules import (
    BigEarthNetMMDataModule,
    GeoNRWPatchDataModule,
    MultimodalDataModule,
    NYUDepthV2DataModule,
    PackedDataModule,
    PairedFoldersDataModule,
    RasterPairDataModule,
    SSL4EOS12PairDataModule,
    SSL4EOS12V11DataModule,
    SUNRGBDDataModule,
    SyntheticEODataModule,
    TerraMeshDataModule,
    TorchGeoDataModule,
    TrifeaturesDataModule,
)
from torchgeo_decur.datamodules.unconverted_batches import collate_unconverted
from torchgeo_decur.packed.writer import _same


@pytest.fixture(scope='module')
def datamodules(
    packed: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, MultimodalDataModule]:
    """Set up every datamodule."""
    pytest.importorskip('h5py')

    def make(name: str, **options: Any) -> str:
        root = tmp_path_factory.mktemp(name)
        fake(name).make(root, **options)
        return str(root)

    folders, rasters = fake('paired_folders'), make('rasters')
    samples = fake('torchgeo_samples')
    root = samples.make_sen12ms(tmp_path_factory.mktemp('sen12ms'))
    sen12ms = {'root': str(root), 'checksum': False}
    optical = {'bands': ['column', 'row'], 'mean': [2000, 1000], 'std': [900, 500]}
    radar = {'bands': ['east', 'north'], 'mean': [16, 8], 'std': [9, 5]}
    made: dict[str, MultimodalDataModule] = {
        'bigearthnet': BigEarthNetMMDataModule(make('bigearthnet'), batch_size=2),
        'geonrw': GeoNRWPatchDataModule(
            make('geonrw', cities={'aachen': 3, 'bonn': 1}), size=32, batch_size=2
        ),
        'nyudepthv2': NYUDepthV2DataModule(make('nyudepthv2'), size=(8, 8)),
        'packed': PackedDataModule(str(packed)),
        'paired_folders': PairedFoldersDataModule(
            make('paired_folders'), folders.IMAGES, folders.MASK, train=['dataset1']
        ),
        'rasters': RasterPairDataModule(
            {
                'optical': {'paths': f'{rasters}/optical', **optical},
                'radar': {'paths': f'{rasters}/radar', **radar},
            },
            patch_size=32,
            length=8,
            batch_size=4,
        ),
        'ssl4eo_s12': SSL4EOS12PairDataModule(
            make('ssl4eo_s12', places=range(4), dates=(0, 1)),
            date_sampling='independent',
        ),
        'sunrgbd': SUNRGBDDataModule(make('sunrgbd'), size=(8, 8)),
        'ssl4eo_s12_v1_1': SSL4EOS12V11DataModule(make('ssl4eo_s12_v1_1')),
        'torchgeo': TorchGeoDataModule(
            {'class_path': 'torchgeo.datasets.SEN12MS', 'init_args': sen12ms},
            {'s1': {'key': 'image[0:2]', 'modality': 'sentinel1_grd'}},
        ),
        'terramesh': TerraMeshDataModule(
            make('terramesh'), {'s1': 'S1GRD', 's2': 'S2L1C'}
        ),
        'synthetic': SyntheticEODataModule(length=4, val_length=4, size=16),
        'trifeatures': TrifeaturesDataModule(length=8, val_length=4, size=16),
    }
    for datamodule in made.values():
        datamodule.setup('fit')
    return made


@pytest.fixture(scope='module')
def datasets(datamodules: dict[str, MultimodalDataModule]) -> dict[str, Any]:
    """Return the training split of every datamodule."""
    return {name: module.train_dataset for name, module in datamodules.items()}


def test_all_that_a_worker_gets_is_pickled(
    datamodules: dict[str, MultimodalDataModule],
) -> None:
    for name, datamodule in datamodules.items():
        datamodule.batch_size = 2
        loader = datamodule.train_dataloader()
        parts = (loader.dataset, loader.collate_fn, loader.worker_init_fn)
        dataset, collate, start = pickle.loads(ForkingPickler.dumps(parts))
        assert start is None, name
        batch = collate([dataset[0], dataset[0]])
        expected = loader.collate_fn([loader.dataset[0], loader.dataset[0]])
        assert batch.keys() == expected.keys(), name
        assert all(same(batch[k], expected[k]) for k in expected), name


@pytest.mark.parametrize('collate', [collate_unconverted, _same])
def test_other_collate_functions_are_pickled(collate: Any) -> None:
    assert pickle.loads(ForkingPickler.dumps(collate)) is collate


def test_datamodule_is_pickled(datamodules: dict[str, MultimodalDataModule]) -> None:
    for name, datamodule in datamodules.items():
        found = pickle.loads(ForkingPickler.dumps(datamodule))
        assert len(found.train_dataset) == len(datamodule.train_dataset), name


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
    return bool(a == b)


@pytest.mark.parametrize(
    'method', ['forkserver', pytest.param('spawn', marks=pytest.mark.slow)]
)
def test_worker_reads_every_dataset(datasets: dict[str, Any], method: str) -> None:
    joined = ConcatDataset(datasets.values())
    # One process for all: it takes seconds to start.
    loader = DataLoader(
        joined,
        batch_size=None,
        sampler=[0, *joined.cumulative_sizes[:-1]],
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=method,
    )
    windows = []
    for epoch in range(2):
        for dataset in datasets.values():
            if hasattr(dataset, 'set_epoch'):
                dataset.set_epoch(epoch)
        for (name, dataset), sample in zip(datasets.items(), loader, strict=True):
            expected = dataset[0]
            assert sample.keys() == expected.keys(), name
            assert all(same(sample[k], expected[k]) for k in expected), name
            if name == 'rasters':
                windows.append(sample['bounds'])
    # The worker has heard of the second epoch.
    assert not torch.equal(*windows)
