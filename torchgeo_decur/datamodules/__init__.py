"""Datamodules for multimodal datasets."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .archives import ArchiveDataModule
from .band_statistics import StatisticsDataModule
from .base import FileDataModule, MultimodalDataModule
from .bigearthnet import BigEarthNetMMDataModule
from .geonrw import GeoNRWPatchDataModule
from .loaders import ResumableSampler
from .paired_embeddings import PairedEmbeddingsDataModule
from .paired_folders import PairedFoldersDataModule
from .paired_sampler import PairedSampler
from .rasters import RasterPairDataModule
from .rgbd import NYUDepthV2DataModule, RGBDDataModule, SUNRGBDDataModule
from .ssl4eo_s12 import SSL4EOS12PairDataModule
from .ssl4eo_s12_v1_1 import SSL4EOS12V11DataModule
from .synthetic import (
    SyntheticDataModule,
    SyntheticEODataModule,
    SyntheticFactorsDataModule,
)
from .terramesh import TerraMeshDataModule
from .torchgeo_samples import TorchGeoDataModule
from .trifeatures import TrifeaturesDataModule

if TYPE_CHECKING:
    from ..packed import PackedDataModule

__all__ = [
    'ArchiveDataModule',
    'BigEarthNetMMDataModule',
    'FileDataModule',
    'GeoNRWPatchDataModule',
    'MultimodalDataModule',
    'NYUDepthV2DataModule',
    'PackedDataModule',
    'PairedEmbeddingsDataModule',
    'PairedFoldersDataModule',
    'PairedSampler',
    'RGBDDataModule',
    'RasterPairDataModule',
    'ResumableSampler',
    'SSL4EOS12PairDataModule',
    'SSL4EOS12V11DataModule',
    'SUNRGBDDataModule',
    'StatisticsDataModule',
    'SyntheticDataModule',
    'SyntheticEODataModule',
    'SyntheticFactorsDataModule',
    'TerraMeshDataModule',
    'TorchGeoDataModule',
    'TrifeaturesDataModule',
]


def __getattr__(name: str) -> Any:
    """Import ``PackedDataModule`` on first use, because ``packed`` imports this package."""
    if name == 'PackedDataModule':
        return getattr(import_module('..packed', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
