"""Modalities, their batch keys and their physical units.

A *modality* is the image of one sensor. Its metadata contain the names, unit and
statistics of its bands. In a batch, its key is ``image_<modality>``, with shape ``(B, C, H, W)``, or
``(B, T, C, H, W)`` for datasets with T dates.

Notation: B batch, T dates, C channels, H height, W width.
"""

from typing import TYPE_CHECKING

from ..deprecation import renamed_names
from .band_names import contradiction, normalize_band
from .batch import (
    check_grid,
    drop_absent,
    get_available,
    mark_available,
    per_modality,
    select_date,
    split,
)
from .conversion import Conversion, conversions, converted
from .modality import EMBEDDING_WIDTH, MODALITIES, Kind, Modality
from .modality_names import check_names
from .rendering import hillshade, render, stretch
from .validation import (
    FirstBatches,
    check,
    check_unit_interval,
    invalid_pixels,
    nodata_hint,
)

__all__ = [
    'EMBEDDING_WIDTH',
    'MODALITIES',
    'Conversion',
    'FirstBatches',
    'Kind',
    'Modality',
    'check',
    'check_grid',
    'check_names',
    'check_unit_interval',
    'contradiction',
    'conversions',
    'converted',
    'drop_absent',
    'get_available',
    'hillshade',
    'invalid_pixels',
    'mark_available',
    'nodata_hint',
    'normalize_band',
    'per_modality',
    'render',
    'select_date',
    'split',
    'stretch',
]

if not TYPE_CHECKING:
    __getattr__ = renamed_names(
        __name__, pick_date='select_date', picture='render', cure_of_holes='nodata_hint'
    )
