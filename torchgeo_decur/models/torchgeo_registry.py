"""Register the published weights with TorchGeo so that its configs can name them."""

import logging
from collections.abc import Callable
from typing import Any

import timm
from torch import nn
from torchgeo.models import api

from ..weights.enums import WEIGHTS, DeCURWeights
from ..weights.load import load_weights
from .encoder import MultimodalEncoder, create_encoder

_log = logging.getLogger(__name__)


def register() -> None:
    """Add the weights and models of this package to TorchGeo's registry.

    Models are called ``decur_<timm name>``. TorchGeo has no public function for this, so
    entries are added to two private dictionaries. If a TorchGeo version lacks these
    dictionaries, a warning is logged. Only TorchGeo's own functions are then affected.
    """
    registry = _registry()
    if registry is None:
        # Log, because some projects turn warnings into errors.
        _log.warning(
            'cannot register the weights of torchgeo_decur with this version of '
            'TorchGeo; use torchgeo_decur.models.get_weight'
        )
        return
    models, weights = registry
    for enum in WEIGHTS:
        model = next(iter(enum)).meta['model']
        builder = _builder(model)
        weights[f'decur_{model}'] = weights[builder] = enum
        if timm.is_model(model):
            models[f'decur_{model}'] = builder


def _registry() -> tuple[dict[str, Any], dict[Any, Any]] | None:
    """Return TorchGeo's private dictionaries of models and weights, or None if absent."""
    models = getattr(api, '_model', None)
    weights = getattr(api, '_model_weights', None)
    if isinstance(models, dict) and isinstance(weights, dict):
        return models, weights
    return None


def _builder(model: str) -> Callable[..., nn.Module]:
    def build(weights: DeCURWeights | None = None, **kwargs: Any) -> nn.Module:
        """Build an encoder, or one encoder per modality for multimodal weights.

        Args:
            weights: initial weights, which determine the number of channels.
            kwargs: passed to :func:`~torchgeo_decur.models.create_encoder`.
        """
        channels = weights.meta['in_chans'] if weights else kwargs.pop('in_chans', 3)
        if isinstance(channels, dict):
            return MultimodalEncoder(channels, model=model, weights=weights)
        encoder = create_encoder(model, channels, **kwargs)
        if weights:
            load_weights(encoder, weights)
        return encoder

    build.__name__ = f'decur_{model}'
    return build
