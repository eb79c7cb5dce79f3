"""Callbacks that probe features, draw figures, export encoders and monitor training."""

from .compare_baseline import CompareBaseline
from .export import ExportEncoders, export_checkpoint
from .log_figures import LogFigures
from .online_probe import OnlineProbe
from .stop_on_collapse import StopOnCollapse
from .write_predictions import WritePredictions

__all__ = [
    'CompareBaseline',
    'ExportEncoders',
    'LogFigures',
    'OnlineProbe',
    'StopOnCollapse',
    'WritePredictions',
    'export_checkpoint',
]
