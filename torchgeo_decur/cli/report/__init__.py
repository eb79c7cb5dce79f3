"""Write an analysis report for a checkpoint."""

from .report_command import report_checkpoint
from .writer import ANALYSES, write_report

__all__ = ['ANALYSES', 'report_checkpoint', 'write_report']
