"""Encoders, projectors, fusion and segmentation models, and published weights."""

from ..weights import (
    HubFolder,
    LoadReport,
    MiTB2_Weights,
    MiTB5_Weights,
    ResNet50_Weights,
    ResNet50RDA_Weights,
    ViTSmall16_Weights,
    get_weight,
    list_weights,
    load_weights,
    save_encoder,
)
from .backbones.alexnet import AlexNet
from .backbones.deformable_attention import (
    DeformableAttention,
    ResidualDeformableAttention,
)
from .backbones.identity import IdentityEncoder
from .backbones.mit import MixTransformer
from .backbones.resnet_rda import ResNetRDA
from .encoder import MultimodalEncoder, create_encoder
from .frozen_encoder import FrozenEncoder, ImageInput
from .fusion.cmx import CMXSegmenter, FeatureFusion, FeatureRectification
from .fusion.fusion_transformer import FusionTransformer
from .fusion.joint_classifier import FusionHeadClassifier
from .fusion.joint_heads import (
    FusionHead,
    JointHead,
    SharedUniqueHead,
    build_fusion_head,
    load_fusion_head,
)
from .fusion.late_fusion import LateFusion
from .fusion.late_fusion_classifier import LateFusionClassifier
from .model_files import OnnxModel, OpenedModel, open_model
from .named_model import WholeModel
from .onnx import save_onnx, save_program
from .predictions import ClassPredictions, NumberPredictions
from .projector import ConcatProjector, build_projector, build_projectors
from .segmentation.decoders import SMPDecoder, build_decoder
from .segmentation.fcn import FCNDecoder
from .segmentation.pyramid import MultimodalPyramid, StagedPyramid
from .segmentation.segmenter import LateFusionSegmenter, Segmenter
from .torchgeo_registry import register

__all__ = [
    'AlexNet',
    'CMXSegmenter',
    'ClassPredictions',
    'ConcatProjector',
    'DeformableAttention',
    'FCNDecoder',
    'FeatureFusion',
    'FeatureRectification',
    'FrozenEncoder',
    'FusionHead',
    'FusionHeadClassifier',
    'FusionTransformer',
    'HubFolder',
    'IdentityEncoder',
    'ImageInput',
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
    'NumberPredictions',
    'OnnxModel',
    'OpenedModel',
    'ResNet50RDA_Weights',
    'ResNet50_Weights',
    'ResNetRDA',
    'ResidualDeformableAttention',
    'SMPDecoder',
    'Segmenter',
    'SharedUniqueHead',
    'StagedPyramid',
    'ViTSmall16_Weights',
    'WholeModel',
    'build_decoder',
    'build_fusion_head',
    'build_projector',
    'build_projectors',
    'create_encoder',
    'get_weight',
    'list_weights',
    'load_fusion_head',
    'load_weights',
    'open_model',
    'save_encoder',
    'save_onnx',
    'save_program',
]

# Register last, after timm knows every backbone of this package.
register()
