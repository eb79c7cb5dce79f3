"""Callbacks: a probe and figures during pretraining, and the export of encoders."""

from .export import ExportEncoders, export_checkpoint
from .log_figures import LogFigures
from .online_probe import OnlineProbe

__all__ = ['ExportEncoders', 'LogFigures', 'OnlineProbe', 'export_checkpoint']
