"""Transforms: the scale of the input contract, and augmentations per modality."""

from .augmentation import Augmentation, ModuleAugmentation
from .multimodal import PadBands, PerModality, ScaleToUnit, SelectBands, ToModalities
from .presets import (
    PRESETS,
    DepthAugmentation,
    ElevationAugmentation,
    OpticalAugmentation,
    RGBAugmentation,
    SARAugmentation,
    UprightRGBAugmentation,
    default_augmentations,
)
from .shared import SharedCrop
from .steps import AugmentationChain, RandomBandMean, RandomColorJitter

__all__ = [
    'PRESETS',
    'Augmentation',
    'AugmentationChain',
    'DepthAugmentation',
    'ElevationAugmentation',
    'ModuleAugmentation',
    'OpticalAugmentation',
    'PadBands',
    'PerModality',
    'RGBAugmentation',
    'RandomBandMean',
    'RandomColorJitter',
    'SARAugmentation',
    'ScaleToUnit',
    'SelectBands',
    'SharedCrop',
    'ToModalities',
    'UprightRGBAugmentation',
    'default_augmentations',
]
