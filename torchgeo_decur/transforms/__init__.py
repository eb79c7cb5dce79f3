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
    UprightRGBAugmentation,
    default_augmentations,
)
from .shared import SharedCrop

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
    'SharedCrop',
    'ToModalities',
    'UprightRGBAugmentation',
    'default_augmentations',
]
