"""Tasks: what ``torchgeo fit`` trains."""

from .classification import LateFusionClassification
from .decur import DeCUR
from .pretraining import MultimodalPretraining

__all__ = ['DeCUR', 'LateFusionClassification', 'MultimodalPretraining']
