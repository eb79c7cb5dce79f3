"""Heads between encoders and losses."""

from collections.abc import Sequence

from lightly.models.modules.heads import ProjectionHead
from torch import nn


def build_projector(in_features: int, widths: Sequence[int]) -> ProjectionHead:
    """Build the projector of DeCUR and Barlow Twins.

    Linear layers without bias, each but the last followed by BatchNorm and ReLU.

    Args:
        in_features: number of features of the encoder.
        widths: output width of each layer; the last is the number of dimensions D of
            the embedding.

    Returns:
        A module from (B, ``in_features``) to (B, D).

    Raises:
        ValueError: if there is no layer, or a width is not positive.

    Example:
        >>> import torch
        >>> build_projector(512, [128, 128])(torch.randn(4, 512)).shape
        torch.Size([4, 128])
    """
    if not widths or min(widths) < 1:
        raise ValueError(
            f'projector must be one or more positive layer widths, got {list(widths)}'
        )
    sizes = list(zip([in_features, *widths[:-1]], widths, strict=True))
    hidden = [(i, o, nn.BatchNorm1d(o), nn.ReLU(), False) for i, o in sizes[:-1]]
    return ProjectionHead([*hidden, (*sizes[-1], None, None, False)])
