"""Self-supervised learning from several Earth-observation modalities, for TorchGeo."""

# Registers backbones with timm and weights with TorchGeo, so that their names work.
from . import models as models

__version__ = '0.1.0'
