"""Transforms: the scale of the input contract, and augmentations per modality."""

from .multimodal import PadBands, PerModality, ScaleToUnit, SelectBands, ToModalities
from .presets import (
    PRESETS,
    DepthAugmentation,
    ElevationAugmentation,
    OpticalAugmentation,
    RandomBandMean,
    RGBAugmentation,
    SARAugmentation,
    default_augmentations,
)

__all__ = [
    'PRESETS',
    'DepthAugmentation',
    'ElevationAugmentation',
    'OpticalAugmentation',
    'PadBands',
    'PerModality',
    'RGBAugmentation',
    'RandomBandMean',
    'SARAugmentation',
    'ScaleToUnit',
    'SelectBands',
    'ToModalities',
    'default_augmentations',
]
