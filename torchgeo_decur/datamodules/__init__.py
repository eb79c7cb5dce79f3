"""Datamodules: one a dataset, each owns the scale of its modalities."""

from .base import MultimodalDataModule, ResumableSampler
from .bigearthnet import BigEarthNetMMDataModule
from .geonrw import GeoNRWPatchDataModule
from .rasters import RasterPairDataModule
from .ssl4eo_s12 import SSL4EOS12PairDataModule
from .synthetic import SyntheticEODataModule
from .trifeatures import TrifeaturesDataModule

__all__ = [
    'BigEarthNetMMDataModule',
    'GeoNRWPatchDataModule',
    'MultimodalDataModule',
    'RasterPairDataModule',
    'ResumableSampler',
    'SSL4EOS12PairDataModule',
    'SyntheticEODataModule',
    'TrifeaturesDataModule',
]
