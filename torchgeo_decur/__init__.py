"""Self-supervised learning from multiple Earth observation modalities, for TorchGeo."""

import sys
from pathlib import Path

from .terminal import hide_noise, is_command

if is_command(''.join(sys.argv[:1])):
    hide_noise()

# Register backbones with timm and weights with TorchGeo. The command does this only
# when needed, because its help texts and lists must not import torch.
if Path(*sys.argv[:1]).stem != 'torchgeo-decur':
    from . import models as models

__version__ = '0.1.0'
