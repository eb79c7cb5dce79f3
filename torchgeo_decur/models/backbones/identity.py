"""Encoder without parameters for embeddings of frozen models."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ...modalities import EMBEDDING_WIDTH

#: Name of the model.
IDENTITY = 'identity'


class IdentityEncoder(nn.Module):
    """Encoder that returns standardized embeddings as features.

    An embedding is an image of D bands in [0, 1], usually of one pixel. Scaling maps the
    mean of each band to 0.5; see :attr:`~torchgeo_decur.modalities.Modality.limits`. This
    module rescales each band to mean 0 and standard deviation 1. Maps of embeddings are
    averaged over the pixels.

    Args:
        in_chans: number of bands D.
        num_classes: must be 0, because the classifier is a separate layer.

    Attributes:
        num_features: number of features D.

    Raises:
        ValueError: if ``num_classes`` is not 0.

    Example:
        >>> import torch
        >>> IdentityEncoder(3)(torch.tensor([0.5, 0.625, 1.0]).reshape(1, 3, 1, 1))
        tensor([[0., 1., 4.]])
    """

    def __init__(self, in_chans: int = 3, num_classes: int = 0, **_: Any) -> None:
        """Initialize a new IdentityEncoder instance."""
        super().__init__()
        if num_classes:
            raise ValueError(f'num_classes must be 0, got {num_classes}')
        self.num_classes = 0
        self.num_features = self.head_hidden_size = in_chans
        self.feature_info: list[dict[str, Any]] = []

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Do nothing, because there are no activations to recompute."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Standardize the bands.

        Args:
            x: embeddings in [0, 1], shape (B, D, H, W).

        Returns:
            Features of each pixel, shape (B, D, H, W).
        """
        return (x - 0.5) * (2 * EMBEDDING_WIDTH)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Average the features over the pixels.

        Args:
            x: features of each pixel, shape (B, D, H, W).
            pre_logits: unused.

        Returns:
            Features, shape (B, D).
        """
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Standardize the bands and average the features over the pixels.

        Args:
            x: embeddings in [0, 1], shape (B, D, H, W).

        Returns:
            Features, shape (B, D).
        """
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs({'identity.untrained': {'input_size': (3, 1, 1)}})


@register_model
def identity(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build an encoder without parameters for embeddings of frozen models."""
    model: nn.Module = build_model_with_cfg(
        IdentityEncoder, IDENTITY, pretrained, **kwargs
    )
    return model
