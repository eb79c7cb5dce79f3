"""Callbacks: a probe during pretraining, and the export of encoders at its end."""

from .export import ExportEncoders, export_checkpoint
from .online_probe import OnlineProbe

__all__ = ['ExportEncoders', 'OnlineProbe', 'export_checkpoint']
