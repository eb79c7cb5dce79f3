"""Tasks: what ``torchgeo fit`` trains."""

from .barlow_twins import BarlowTwins
from .classification import LateFusionClassification
from .clip import CLIP
from .comm import CoMM
from .coral import COrAL
from .decur import DeCUR
from .fusion import FusionPretraining
from .guard import CheckedTask
from .late_fusion import LateFusionTask
from .pretraining import MultimodalPretraining
from .resume import ResumableTask
from .segmentation import LateFusionSegmentation
from .simclr import CrossModalSimCLR
from .vicreg import VICReg

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
    'ResumableTask',
    'VICReg',
]
