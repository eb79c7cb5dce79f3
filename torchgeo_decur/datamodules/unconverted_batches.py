"""Keep images in the precision of their files until they are scaled.

With ``trainer.precision`` ``bf16-true`` or ``16-true``, Lightning converts a batch before
the datamodule scales it. bfloat16 has only six values from 1000 to 1020 m of elevation,
and float16 cannot represent a nodata value of -3.4e38.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate


class Unconverted:
    """Batch that Lightning does not convert, because it is not a collection of tensors.

    Args:
        batch: the batch.
    """

    def __init__(self, batch: dict[str, Any]) -> None:
        """Initialize a new Unconverted instance."""
        self.batch = batch

    def pin_memory(self) -> 'Unconverted':
        """Pin the memory of the tensors; the data loader calls this method."""
        return Unconverted(
            {
                k: v.pin_memory() if isinstance(v, Tensor) else v
                for k, v in self.batch.items()
            }
        )


def collate_unconverted(samples: list[dict[str, Any]]) -> Unconverted:
    """Collate samples to a batch that Lightning does not convert."""
    return Unconverted(default_collate(samples))


def converts(trainer: Any) -> bool:
    """Return whether a trainer, or None, converts batches to another precision."""
    plugin = getattr(trainer, 'precision_plugin', None)
    if plugin is None:
        return False
    found: Tensor = plugin.convert_input(torch.zeros(0, dtype=torch.float32))
    return found.dtype != torch.float32


def convert_images(batch: Mapping[str, Any], trainer: Any) -> dict[str, Any]:
    """Convert only the images of a batch to the precision of a trainer.

    Args:
        batch: a scaled batch. Coordinates keep their precision.
        trainer: a trainer, or None.
    """
    if not converts(trainer):
        return dict(batch)
    convert = trainer.precision_plugin.convert_input
    return {
        k: convert(v) if str(k).startswith('image') else v for k, v in batch.items()
    }
