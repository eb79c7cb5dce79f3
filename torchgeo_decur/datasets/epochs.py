"""Number of the epoch, shared with persistent workers."""

import torch
from torch import Tensor


def shared_epoch() -> Tensor:
    """Return the number of the epoch in memory shared with persistent workers.

    Returns:
        A tensor of one number, 0.
    """
    epoch = torch.zeros((), dtype=torch.int64)
    epoch.share_memory_()
    return epoch
