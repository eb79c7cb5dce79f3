"""Models: an encoder per modality, heads, and weights."""

from .checkpoints import save_encoder
from .encoder import MultimodalEncoder, create_encoder
from .heads import build_projector
from .loading import LoadReport, load_weights
from .register import register
from .weights import (
    MiTB2_Weights,
    MiTB5_Weights,
    ResNet50_Weights,
    ResNet50RDA_Weights,
    ViTSmall16_Weights,
    get_weight,
    list_weights,
)

__all__ = [
    'LoadReport',
    'MiTB2_Weights',
    'MiTB5_Weights',
    'MultimodalEncoder',
    'ResNet50RDA_Weights',
    'ResNet50_Weights',
    'ViTSmall16_Weights',
    'build_projector',
    'create_encoder',
    'get_weight',
    'list_weights',
    'load_weights',
    'save_encoder',
]

# Last, when every backbone of this package is a name that timm knows.
register()
