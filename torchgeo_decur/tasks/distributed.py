"""Gather embeddings so that losses compare the samples of all devices."""

from collections.abc import Mapping

import torch
from lightly.utils import dist
from torch import Tensor


def gather_embeddings(z: Tensor) -> Tensor:
    """Gather embeddings from all devices, with gradients.

    Args:
        z: embeddings of this device, shape (V, B, D).

    Returns:
        Embeddings of all devices, shape (V, N, D). They are float64 if ``z`` is, and
        otherwise float32.
    """
    z = z if z.dtype == torch.float64 else z.float()
    if dist.world_size() == 1:
        return z
    return torch.cat(dist.gather(z.contiguous()), dim=1)


def gather_masks(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather masks from all devices in one collective operation.

    Args:
        masks: boolean masks of this device by name, shape (B,).

    Returns:
        Boolean masks of all devices by name, shape (N,).
    """
    if dist.world_size() == 1:
        return dict(masks)
    rows = torch.stack(list(masks.values())).to(torch.uint8)
    gathered = torch.cat(dist.gather(rows), dim=1).bool()
    return dict(zip(masks, gathered, strict=True))
