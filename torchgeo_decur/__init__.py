"""Self-supervised learning from several Earth-observation modalities, for TorchGeo."""

import sys
from pathlib import Path

# Registers backbones with timm and weights with TorchGeo, so that their names work. The
# command does so when it needs them: its help and its lists shall not wait for torch.
if Path(*sys.argv[:1]).stem != 'torchgeo-decur':
    from . import models as models

__version__ = '0.1.0'
