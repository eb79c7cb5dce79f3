"""Gathering of embeddings, so that losses see the samples of all devices."""

import torch
from lightly.utils import dist
from torch import Tensor


def gather_embeddings(z: Tensor) -> Tensor:
    """Gather embeddings from all devices, with gradient.

    Args:
        z: embeddings of this device, shape (V, B, D).

    Returns:
        Embeddings of all devices, shape (V, N, D); float32, or float64 if given.
    """
    z = z if z.dtype == torch.float64 else z.float()
    if dist.world_size() == 1:
        return z
    return torch.cat(dist.gather(z.contiguous()), dim=1)
