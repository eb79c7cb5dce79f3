"""Embeddings of all devices, so that every loss computes as on one."""

import torch
from lightly.utils import dist
from torch import Tensor


def gather_embeddings(z: Tensor) -> Tensor:
    """Gather embeddings from all devices, with gradient.

    Args:
        z: embeddings of this device, shape (V, B, D).

    Returns:
        Those of all devices, shape (V, N, D), float32 or, where they are, float64.
    """
    z = z if z.dtype == torch.float64 else z.float()
    if dist.world_size() == 1:
        return z
    return torch.cat(dist.gather(z.contiguous()), dim=1)
