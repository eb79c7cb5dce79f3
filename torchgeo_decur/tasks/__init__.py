"""Tasks: what ``torchgeo fit`` trains."""

from .decur import DeCUR
from .pretraining import MultimodalPretraining

__all__ = ['DeCUR', 'MultimodalPretraining']
