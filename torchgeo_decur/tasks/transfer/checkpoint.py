"""Load a transfer task from its checkpoint."""

from pathlib import Path

import torch

from .base import LateFusionTask
from .classification import LateFusionClassification
from .regression import LateFusionPixelwiseRegression, LateFusionRegression
from .segmentation import LateFusionSegmentation

_TASKS: dict[str, type[LateFusionTask]] = {
    task.__name__: task
    for task in (
        *(LateFusionClassification, LateFusionSegmentation),
        *(LateFusionRegression, LateFusionPixelwiseRegression),
    )
}


def load_transfer(file: str | Path) -> LateFusionTask | None:
    """Build the transfer task of a checkpoint and load its parameters.

    Args:
        file: checkpoint of a fit.

    Returns:
        The task in evaluation mode, or None if the checkpoint does not belong to a
        transfer task of this package.
    """
    content = torch.load(file, map_location='cpu', weights_only=True)
    task = _TASKS.get(str(content.get('task')))
    if task is None:
        return None
    # The load above has checked that the file has only tensors and plain values.
    return task.load_from_checkpoint(file, map_location='cpu').eval()
