"""Transforms: the scale of the input contract, and augmentations per modality."""

from .multimodal import PadBands, PerModality, ScaleToUnit, SelectBands, ToModalities

__all__ = ['PadBands', 'PerModality', 'ScaleToUnit', 'SelectBands', 'ToModalities']
