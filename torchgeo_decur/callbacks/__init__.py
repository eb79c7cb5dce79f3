"""Probe features, draw figures, export encoders and write predictions."""

from .compare_baseline import CompareBaseline
from .export import ExportEncoders, export_checkpoint
from .log_figures import LogFigures
from .online_probe import OnlineProbe
from .write_predictions import WritePredictions

__all__ = [
    'CompareBaseline',
    'ExportEncoders',
    'LogFigures',
    'OnlineProbe',
    'WritePredictions',
    'export_checkpoint',
]
