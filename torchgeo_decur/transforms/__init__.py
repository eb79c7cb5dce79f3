"""Scaling to [0, 1], band selection, and augmentations for each kind of modality."""

import warnings
from typing import Any

from .augmentation_chain import (
    Augmentation,
    AugmentationChain,
    RandomBandMean,
    RandomColorJitter,
)
from .augmentations import (
    PRESETS,
    DeCURAugmentation,
    DepthAugmentation,
    ElevationAugmentation,
    ModuleAugmentation,
    OpticalAugmentation,
    RGBAugmentation,
    SARAugmentation,
    UprightRGBAugmentation,
    default_augmentations,
)
from .bands import PadBands, PerModality, SelectBands, ToModalities
from .embedding_augmentation import EmbeddingAugmentation
from .paired_crop import PairedCrop
from .scaling import ScaleToUnit

__all__ = [
    'PRESETS',
    'Augmentation',
    'AugmentationChain',
    'DeCURAugmentation',
    'DepthAugmentation',
    'ElevationAugmentation',
    'EmbeddingAugmentation',
    'ModuleAugmentation',
    'OpticalAugmentation',
    'PadBands',
    'PairedCrop',
    'PerModality',
    'RGBAugmentation',
    'RandomBandMean',
    'RandomColorJitter',
    'SARAugmentation',
    'ScaleToUnit',
    'SelectBands',
    'ToModalities',
    'UprightRGBAugmentation',
    'default_augmentations',
]


def __getattr__(name: str) -> Any:
    """Return a class by its deprecated name."""
    if name == 'SharedCrop':
        warnings.warn(
            'SharedCrop is deprecated and will be removed in the next release; use '
            'PairedCrop',
            FutureWarning,
            stacklevel=2,
        )
        return PairedCrop
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
