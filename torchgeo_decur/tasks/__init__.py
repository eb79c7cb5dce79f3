"""Tasks: what ``torchgeo fit`` trains."""

from .classification import LateFusionClassification
from .decur import DeCUR
from .late_fusion import LateFusionTask
from .pretraining import MultimodalPretraining
from .segmentation import LateFusionSegmentation

__all__ = [
    'DeCUR',
    'LateFusionClassification',
    'LateFusionSegmentation',
    'LateFusionTask',
    'MultimodalPretraining',
]
