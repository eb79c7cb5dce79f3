"""Datamodules: one a dataset, each owns the scale of its modalities."""

from .base import MultimodalDataModule, ResumableSampler

__all__ = ['MultimodalDataModule', 'ResumableSampler']
