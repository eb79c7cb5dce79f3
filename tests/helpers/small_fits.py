"""Trainers and built-in scenes for fits of seconds."""

from typing import Any

import torch
from lightning.pytorch import Trainer

from torchgeo_decur.datamodules import SyntheticEODataModule

#: Channels of the modalities of the scenes.
MODALITIES = {'s1': 2, 's2': 13}


def trainer(**options: Any) -> Trainer:
    """Return a silent trainer of one epoch on the CPU, with options."""
    quiet: dict[str, Any] = {
        'accelerator': 'cpu',
        'logger': False,
        'enable_checkpointing': False,
        'enable_progress_bar': False,
        'enable_model_summary': False,
        'num_sanity_val_steps': 0,
        'log_every_n_steps': 1,
        'max_epochs': 1,
    }
    return Trainer(**{**quiet, **options})


def datamodule(**options: Any) -> SyntheticEODataModule:
    """Return 16 scenes of 32 pixels, in batches of 8, and 12 for validation, with options."""
    small: dict[str, Any] = {
        'length': 16,
        'val_length': 12,
        'batch_size': 8,
        'size': 32,
    }
    return SyntheticEODataModule(**{**small, **options})


def scaled(datamodule: Any, split: str) -> dict[str, Any]:
    """Return the first batch of a split, checked and scaled."""
    batch = next(iter(getattr(datamodule, f'{split}_dataloader')()))
    datamodule.trainer = torch.nn.Module()
    for name in ('training', 'validating', 'sanity_checking', 'testing', 'predicting'):
        setattr(datamodule.trainer, name, name.startswith(split))
    out: dict[str, Any] = datamodule.on_after_batch_transfer(batch, 0)
    datamodule.trainer = None
    return out
