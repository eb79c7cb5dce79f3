"""Gathering of embeddings, so that every loss is the same as on one device."""

import torch
from lightly.utils import dist
from torch import Tensor


def gather_embeddings(z: Tensor) -> Tensor:
    """Gather embeddings from all devices, with gradient.

    Args:
        z: embeddings of this device, shape (V, B, D).

    Returns:
        Embeddings of all devices, shape (V, N, D); float64 if they are, else float32.
    """
    z = z if z.dtype == torch.float64 else z.float()
    if dist.world_size() == 1:
        return z
    return torch.cat(dist.gather(z.contiguous()), dim=1)
