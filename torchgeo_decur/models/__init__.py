"""Models: an encoder per modality, heads, and weights."""

from .encoder import MultimodalEncoder, create_encoder
from .heads import build_projector
from .weights import load_weights, save_encoder

__all__ = [
    'MultimodalEncoder',
    'build_projector',
    'create_encoder',
    'load_weights',
    'save_encoder',
]
