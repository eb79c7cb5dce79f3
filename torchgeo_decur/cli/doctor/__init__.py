"""Check data before a fit."""

from .command import EXIT_CODES, doctor
from .diagnosis import Diagnosis, examine
from .findings import Finding, Level

__all__ = ['EXIT_CODES', 'Diagnosis', 'Finding', 'Level', 'doctor', 'examine']
