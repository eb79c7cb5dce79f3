"""Tasks: what ``torchgeo fit`` trains."""

from .classification import LateFusionClassification
from .decur import DeCUR
from .pretraining import MultimodalPretraining
from .segmentation import LateFusionSegmentation

__all__ = [
    'DeCUR',
    'LateFusionClassification',
    'LateFusionSegmentation',
    'MultimodalPretraining',
]
