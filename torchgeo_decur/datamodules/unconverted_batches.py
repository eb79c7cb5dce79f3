"""Keep images in the precision of their files until they are scaled.

If ``trainer.precision`` is ``bf16-true`` or ``16-true``, Lightning converts a batch before
the datamodule scales it. bfloat16 has only six values from 1000 to 1020 m of
elevation, and float16 cannot represent a nodata value of -3.4e38.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate


class Unconverted:
    """Wrapper that protects the tensors of a batch from conversion by Lightning.

    Args:
        batch: batch to protect.
    """

    def __init__(self, batch: dict[str, Any]) -> None:
        """Initialize a new Unconverted instance."""
        self.batch = batch

    def pin_memory(self) -> 'Unconverted':
        """Pin the memory of the tensors, as requested by the data loader."""
        return Unconverted(
            {
                k: v.pin_memory() if isinstance(v, Tensor) else v
                for k, v in self.batch.items()
            }
        )


def collate_unconverted(samples: list[dict[str, Any]]) -> Unconverted:
    """Collate samples into a batch that Lightning does not convert."""
    return Unconverted(default_collate(samples))


def converts(trainer: Any) -> bool:
    """Return whether a trainer converts batches to a precision other than float32."""
    plugin = getattr(trainer, 'precision_plugin', None)
    if plugin is None:
        return False
    found: Tensor = plugin.convert_input(torch.zeros(0, dtype=torch.float32))
    return found.dtype != torch.float32


def convert_images(batch: Mapping[str, Any], trainer: Any) -> dict[str, Any]:
    """Convert the images of a batch to the precision of a trainer.

    Args:
        batch: scaled batch. Tensors other than images, such as coordinates, are not
            converted.
        trainer: trainer, or None for no conversion.

    Returns:
        The batch with converted images.
    """
    if not converts(trainer):
        return dict(batch)
    convert = trainer.precision_plugin.convert_input
    return {
        k: convert(v) if str(k).startswith('image') else v for k, v in batch.items()
    }
