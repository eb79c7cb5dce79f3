"""What was learned: the analyses of the paper, each one call.

An analysis takes :class:`Embeddings` (see :func:`collect`) or a task and its images, and
returns a :class:`Finding`: words, numbers and pictures.
"""

from .alignment import alignment_histogram, alignment_loss
from .composites import composite
from .curves import training_curves
from .dimensions import dimension_map
from .dropping import dropped_dimensions
from .embeddings import Embeddings, collect
from .features import feature_maps
from .finding import Finding, LeftOut
from .probes import probe_parts
from .protocol import Pretrained
from .retrieval import cross_modal_retrieval, effective_ranks
from .saliency import spatial_saliency, spectral_saliency
from .split_probes import probe_splits
from .statistics import CorrelationStream, Reservoir
from .style import figure_style

__all__ = (
    'CorrelationStream',
    'Embeddings',
    'Finding',
    'LeftOut',
    'Pretrained',
    'Reservoir',
    'alignment_histogram',
    'alignment_loss',
    'collect',
    'composite',
    'cross_modal_retrieval',
    'dimension_map',
    'dropped_dimensions',
    'effective_ranks',
    'feature_maps',
    'figure_style',
    'probe_parts',
    'probe_splits',
    'spatial_saliency',
    'spectral_saliency',
    'training_curves',
)
