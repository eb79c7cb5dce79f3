"""Probe features and draw figures during pretraining, and export encoders."""

from .export import ExportEncoders, export_checkpoint
from .log_figures import LogFigures
from .online_probe import OnlineProbe

__all__ = ['ExportEncoders', 'LogFigures', 'OnlineProbe', 'export_checkpoint']
