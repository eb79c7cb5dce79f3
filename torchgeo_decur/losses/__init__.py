"""Losses between embeddings of several modalities or of several views."""

from .barlow_twins import BarlowTwinsLoss
from .base import CrossModalLoss, EmbeddingLoss, display_names
from .comm import CoMMLoss
from .coral import COrALLoss
from .decur import DeCURLoss
from .factorcl import FactorCLLoss
from .functional import cross_correlation_terms, standardize
from .infmasking import InfMaskingLoss
from .info_nce import CLIPLoss, SimCLRLoss, info_nce
from .vicreg import VICRegLoss

__all__ = [
    'BarlowTwinsLoss',
    'CLIPLoss',
    'COrALLoss',
    'CoMMLoss',
    'CrossModalLoss',
    'DeCURLoss',
    'EmbeddingLoss',
    'FactorCLLoss',
    'InfMaskingLoss',
    'SimCLRLoss',
    'VICRegLoss',
    'cross_correlation_terms',
    'display_names',
    'info_nce',
    'standardize',
]
