"""Analyses of pretrained encoders, with one function per analysis.

An analysis takes :class:`Embeddings` (see :func:`collect`), or a task and images. It
returns an :class:`AnalysisResult` with text, tables and figures.
"""

from typing import TYPE_CHECKING

from ..deprecation import renamed_names
from .alignment import alignment_histogram, alignment_loss
from .band_composites import composite
from .correlation import CorrelationStream, Reservoir
from .curves import training_curves
from .dimension_dropping import dropped_dimensions
from .dimension_maps import dimension_map
from .embeddings import Embeddings, collect
from .encoder_maps import feature_maps
from .matplotlib_style import figure_style
from .modality_value import modality_values
from .model_interface import Pretrained
from .probes import probe_parts
from .result import AnalysisResult, NotApplicable
from .retrieval import cross_modal_retrieval, effective_ranks
from .saliency import spatial_saliency, spectral_saliency
from .shared_directions import (
    SharedDirections,
    compare_features,
    count_shared_directions,
    shared_directions_of,
)
from .split_probes import probe_splits

__all__ = (
    'AnalysisResult',
    'CorrelationStream',
    'Embeddings',
    'NotApplicable',
    'Pretrained',
    'Reservoir',
    'SharedDirections',
    'alignment_histogram',
    'alignment_loss',
    'collect',
    'compare_features',
    'composite',
    'count_shared_directions',
    'cross_modal_retrieval',
    'dimension_map',
    'dropped_dimensions',
    'effective_ranks',
    'feature_maps',
    'figure_style',
    'modality_values',
    'probe_parts',
    'probe_splits',
    'shared_directions_of',
    'spatial_saliency',
    'spectral_saliency',
    'training_curves',
)

if not TYPE_CHECKING:
    __getattr__ = renamed_names(
        __name__, Finding='AnalysisResult', LeftOut='NotApplicable'
    )
