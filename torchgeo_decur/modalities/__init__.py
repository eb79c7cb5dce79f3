"""What a modality is, and the only code that knows batch keys and physical units.

A *modality* is one sensor's image of a place: its bands by name, the unit of its
values and the statistics that map them to the unit interval. In a batch it lives
under the key ``image_<modality>``, shape ``(B, C, H, W)``, or ``(B, T, C, H, W)``
when the dataset delivers T dates.

Notation: B batch, T dates, C channels, H height, W width.
"""

from .band_names import contradiction, normalize_band
from .batch import check_grid, per_modality, pick_date, split
from .conversion import Conversion, conversions, converted
from .modality import MODALITIES, Kind, Modality
from .modality_names import check_names
from .rendering import hillshade, picture, stretch
from .validation import (
    FirstBatches,
    check,
    check_unit_interval,
    cure_of_holes,
    invalid_pixels,
)

__all__ = [
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
    'cure_of_holes',
    'hillshade',
    'invalid_pixels',
    'normalize_band',
    'per_modality',
    'pick_date',
    'picture',
    'split',
    'stretch',
]
