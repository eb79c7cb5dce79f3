"""Run the command ``torchgeo-decur``."""

from .parser import main

__all__ = ['main']
