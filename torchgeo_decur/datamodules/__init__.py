"""Datamodules: one a dataset, each owns the scale of its modalities."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .band_statistics import StatisticsDataModule
from .base import MultimodalDataModule
from .bigearthnet import BigEarthNetMMDataModule
from .geonrw import GeoNRWPatchDataModule
from .loaders import ResumableSampler
from .paired_folders import PairedFoldersDataModule
from .rasters import RasterPairDataModule
from .rgbd import NYUDepthV2DataModule, RGBDDataModule, SUNRGBDDataModule
from .ssl4eo_s12 import SSL4EOS12PairDataModule
from .synthetic import SyntheticEODataModule
from .trifeatures import TrifeaturesDataModule

if TYPE_CHECKING:
    from ..packed import PackedDataModule

__all__ = [
    'BigEarthNetMMDataModule',
    'GeoNRWPatchDataModule',
    'MultimodalDataModule',
    'NYUDepthV2DataModule',
    'PackedDataModule',
    'PairedFoldersDataModule',
    'RGBDDataModule',
    'RasterPairDataModule',
    'ResumableSampler',
    'SSL4EOS12PairDataModule',
    'SUNRGBDDataModule',
    'StatisticsDataModule',
    'SyntheticEODataModule',
    'TrifeaturesDataModule',
]


def __getattr__(name: str) -> Any:
    """Import packed data at first use, as the package ``packed`` builds on this one."""
    if name == 'PackedDataModule':
        return getattr(import_module('..packed', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
