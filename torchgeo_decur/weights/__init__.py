"""Published weights and encoder files with metadata."""

from .encoder_files import save_encoder
from .enums import (
    MiTB2_Weights,
    MiTB5_Weights,
    ResNet50_Weights,
    ResNet50RDA_Weights,
    ViTSmall16_Weights,
    get_weight,
    list_weights,
)
from .hub import HubFolder
from .load import LoadReport, load_weights

__all__ = [
    'HubFolder',
    'LoadReport',
    'MiTB2_Weights',
    'MiTB5_Weights',
    'ResNet50RDA_Weights',
    'ResNet50_Weights',
    'ViTSmall16_Weights',
    'get_weight',
    'list_weights',
    'load_weights',
    'save_encoder',
]
