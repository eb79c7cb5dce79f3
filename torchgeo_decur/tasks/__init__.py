"""Tasks that ``torchgeo fit`` trains: pretraining and transfer."""

from .base import CheckedTask
from .comm import CoMM
from .coral import COrAL
from .cross_modal import CLIP, BarlowTwins, CrossModalSimCLR, VICReg
from .decur import DeCUR
from .joint_pretraining import FusionPretraining
from .pretraining import MultimodalPretraining
from .transfer.base import LateFusionTask
from .transfer.classification import LateFusionClassification
from .transfer.segmentation import LateFusionSegmentation

__all__ = [
    'CLIP',
    'BarlowTwins',
    'COrAL',
    'CheckedTask',
    'CoMM',
    'CrossModalSimCLR',
    'DeCUR',
    'FusionPretraining',
    'LateFusionClassification',
    'LateFusionSegmentation',
    'LateFusionTask',
    'MultimodalPretraining',
    'VICReg',
]
