"""Losses on embeddings: ``forward(z: Mapping[str, Tensor]) -> dict[str, Tensor]``."""

from .base import EmbeddingLoss
from .clip import CLIPLoss
from .comm import CoMMLoss
from .coral import COrALLoss
from .crossmodal import CrossModalLoss
from .decur import DeCURLoss
from .functional import cross_correlation_terms, info_nce, standardize
from .naming import display_names

__all__ = [
    'CLIPLoss',
    'COrALLoss',
    'CoMMLoss',
    'CrossModalLoss',
    'DeCURLoss',
    'EmbeddingLoss',
    'cross_correlation_terms',
    'display_names',
    'info_nce',
    'standardize',
]
