"""Models: an encoder per modality, heads, late fusion, and weights."""

from .decoders import build_decoder
from .encoder import MultimodalEncoder, create_encoder
from .fcn import FCNDecoder
from .heads import build_projector
from .late_fusion import LateFusionClassifier, LateFusionSegmenter
from .pyramid import MultimodalPyramid
from .weights import load_weights, save_encoder

__all__ = [
    'FCNDecoder',
    'LateFusionClassifier',
    'LateFusionSegmenter',
    'MultimodalEncoder',
    'MultimodalPyramid',
    'build_decoder',
    'build_projector',
    'create_encoder',
    'load_weights',
    'save_encoder',
]
