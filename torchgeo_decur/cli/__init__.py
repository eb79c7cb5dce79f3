"""Command-line interface ``torchgeo-decur``."""

from .parser import main

__all__ = ['main']
