"""A tiny ResNet with 16 features, for tables/factors_narrow.yaml."""

from typing import Any

import timm
from timm.models import register_model
from torch import nn

from torchgeo_decur.tasks import DeCUR


@register_model
def narrow_resnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build timm's ``test_resnet`` with 16 instead of 96 features.

    Args:
        pretrained: must be false, because this model has no published weights.
        kwargs: additional arguments of ``timm.create_model``.

    Returns:
        The model.
    """
    channels = (32, 48, 48, 16)
    return timm.create_model('test_resnet', pretrained, channels=channels, **kwargs)


class NarrowDeCUR(DeCUR):
    """DeCUR in the module that registers ``narrow_resnet`` so that configs can name both."""
