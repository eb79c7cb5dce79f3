"""Models: an encoder per modality, heads, late fusion, and weights."""

from .decoders import SMPDecoder, build_decoder
from .encoder import MultimodalEncoder, create_encoder
from .fcn import FCNDecoder
from .fusion import LateFusion
from .heads import build_projector
from .late_fusion import LateFusionClassifier, LateFusionSegmenter
from .pyramid import MultimodalPyramid
from .weights import load_weights, save_encoder

__all__ = [
    'FCNDecoder',
    'LateFusion',
    'LateFusionClassifier',
    'LateFusionSegmenter',
    'MultimodalEncoder',
    'MultimodalPyramid',
    'SMPDecoder',
    'build_decoder',
    'build_projector',
    'create_encoder',
    'load_weights',
    'save_encoder',
]
