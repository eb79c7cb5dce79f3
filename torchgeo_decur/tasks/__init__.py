"""Pretraining and transfer tasks for ``torchgeo fit``."""

from .base import CheckedTask
from .comm import CoMM
from .coral import COrAL
from .cross_modal import CLIP, BarlowTwins, CrossModalSimCLR, VICReg
from .decur import DeCUR
from .factorcl import FactorCL
from .infmasking import InfMasking
from .joint_pretraining import FusionPretraining
from .pretraining import MultimodalPretraining
from .transfer.base import LateFusionTask
from .transfer.class_targets import ClassTargets
from .transfer.classification import LateFusionClassification
from .transfer.maps import MapTask
from .transfer.number_targets import NumberTargets
from .transfer.regression import LateFusionPixelwiseRegression, LateFusionRegression
from .transfer.scenes import SceneTask
from .transfer.segmentation import LateFusionSegmentation

__all__ = [
    'CLIP',
    'BarlowTwins',
    'COrAL',
    'CheckedTask',
    'ClassTargets',
    'CoMM',
    'CrossModalSimCLR',
    'DeCUR',
    'FactorCL',
    'FusionPretraining',
    'InfMasking',
    'LateFusionClassification',
    'LateFusionPixelwiseRegression',
    'LateFusionRegression',
    'LateFusionSegmentation',
    'LateFusionTask',
    'MapTask',
    'MultimodalPretraining',
    'NumberTargets',
    'SceneTask',
    'VICReg',
]
