"""Models: an encoder per modality, heads, late fusion, and weights."""

from .alexnet import AlexNet
from .checkpoints import save_encoder
from .cmx import CMXSegmenter, FeatureFusion, FeatureRectification
from .decoders import SMPDecoder, build_decoder
from .deformable_attention import DeformableAttention, ResidualDeformableAttention
from .encoder import MultimodalEncoder, create_encoder
from .fcn import FCNDecoder
from .fused import FusionHeadClassifier
from .fusion import LateFusion
from .fusion_heads import (
    FusionHead,
    JointHead,
    SharedUniqueHead,
    build_fusion_head,
    load_fusion_head,
)
from .heads import FusionTransformer, build_projector, build_projectors
from .hub import HubFolder
from .late_fusion import LateFusionClassifier, LateFusionSegmenter, Segmenter
from .loading import LoadReport, load_weights
from .mit import MixTransformer
from .onnx import save_onnx
from .pyramid import MultimodalPyramid, StagedPyramid
from .register import register
from .resnet_rda import ResNetRDA
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
    'AlexNet',
    'CMXSegmenter',
    'DeformableAttention',
    'FCNDecoder',
    'FeatureFusion',
    'FeatureRectification',
    'FusionHead',
    'FusionHeadClassifier',
    'FusionTransformer',
    'HubFolder',
    'JointHead',
    'LateFusion',
    'LateFusionClassifier',
    'LateFusionSegmenter',
    'LoadReport',
    'MiTB2_Weights',
    'MiTB5_Weights',
    'MixTransformer',
    'MultimodalEncoder',
    'MultimodalPyramid',
    'ResNet50RDA_Weights',
    'ResNet50_Weights',
    'ResNetRDA',
    'ResidualDeformableAttention',
    'SMPDecoder',
    'Segmenter',
    'SharedUniqueHead',
    'StagedPyramid',
    'ViTSmall16_Weights',
    'build_decoder',
    'build_fusion_head',
    'build_projector',
    'build_projectors',
    'create_encoder',
    'get_weight',
    'list_weights',
    'load_fusion_head',
    'load_weights',
    'save_encoder',
    'save_onnx',
]

# Last, when every backbone of this package is a name that timm knows.
register()
