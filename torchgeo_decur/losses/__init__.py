"""Losses on embeddings: ``forward(z: Mapping[str, Tensor]) -> dict[str, Tensor]``."""

from .decur import DeCURLoss
from .functional import cross_correlation_terms, standardize

__all__ = ['DeCURLoss', 'cross_correlation_terms', 'standardize']
