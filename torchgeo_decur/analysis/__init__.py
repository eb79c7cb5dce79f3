"""What was learned: the analyses of the paper, each one call."""

from .composites import composite
from .features import feature_maps
from .finding import Finding
from .protocol import Pretrained
from .saliency import spatial_saliency, spectral_saliency
from .style import figure_style

__all__ = (
    'Finding',
    'Pretrained',
    'composite',
    'feature_maps',
    'figure_style',
    'spatial_saliency',
    'spectral_saliency',
)
