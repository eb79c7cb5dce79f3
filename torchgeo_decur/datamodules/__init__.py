"""Datamodules: one a dataset, each owns the scale of its modalities."""

from .base import MultimodalDataModule, ResumableSampler
from .bigearthnet import BigEarthNetMMDataModule
from .geonrw import GeoNRWPatchDataModule
from .packed import PackedDataModule
from .paired_folders import PairedFoldersDataModule
from .rasters import RasterPairDataModule
from .rgbd import NYUDepthV2DataModule, RGBDDataModule, SUNRGBDDataModule
from .ssl4eo_s12 import SSL4EOS12PairDataModule
from .statistics import StatisticsDataModule
from .synthetic import SyntheticEODataModule
from .trifeatures import TrifeaturesDataModule

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
