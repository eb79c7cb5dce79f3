"""Register a tiny ResNet with 16 features, for tables/factors_narrow.yaml."""

from typing import Any

import timm
from timm.models import register_model
from torch import nn

from torchgeo_decur.tasks import DeCUR


@register_model
def narrow_resnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build timm's ``test_resnet`` with 16 features in place of 96.

    Args:
        pretrained: must be false, because this model has no published weights.
        kwargs: other arguments of ``timm.create_model``.

    Returns:
        The model.
    """
    channels = (32, 48, 48, 16)
    return timm.create_model('test_resnet', pretrained, channels=channels, **kwargs)


class NarrowDeCUR(DeCUR):
    """DeCUR; a config that names this class can set ``model: narrow_resnet``."""
