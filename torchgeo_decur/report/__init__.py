"""What a checkpoint has learned, on one page."""

from .command import report_checkpoint
from .run import ANALYSES, write_report

__all__ = ['ANALYSES', 'report_checkpoint', 'write_report']
