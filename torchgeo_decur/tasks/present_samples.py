"""Selection of the samples that have a modality, without device synchronization."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchgeo.datasets.utils import Sample

from ..modalities import get_available


class PresentSamples:
    """Selector for the samples of a batch that have a modality.

    The masks stay on the CPU so that counting samples does not wait for the device.
    Only indices are copied to the device, asynchronously.

    Args:
        masks: whether each sample has a modality, shape (B,), boolean, on the CPU.
        device: device of the tensors to select from.

    Example:
        >>> has = {'s1': torch.tensor([True, False, True])}
        >>> samples = PresentSamples(has, torch.device('cpu'))
        >>> chosen = samples.select('s1', torch.tensor([1.0, 2.0, 3.0]))
        >>> chosen, samples.spread('s1', chosen)
        (tensor([1., 3.]), tensor([1., 0., 3.]))
    """

    def __init__(self, masks: Mapping[str, Tensor], device: torch.device) -> None:
        """Initialize a new PresentSamples instance."""
        self.masks = dict(masks)
        self.device = device
        # A joint output exists for samples that have at least one modality.
        self._any = torch.stack(list(masks.values())).any(dim=0)
        self._rows: dict[str, Tensor] = {}

    def mask(self, name: str) -> Tensor:
        """Return the mask of the samples that have an output.

        Args:
            name: name of a modality or of a joint output.

        Returns:
            Mask, shape (B,), boolean, on the CPU.
        """
        return self.masks.get(name, self._any)

    def count(self, name: str) -> int:
        """Count the samples that have an output.

        Args:
            name: name of a modality or of a joint output.
        """
        return int(self.mask(name).sum())

    def select(self, name: str, x: Tensor) -> Tensor:
        """Select the samples that have an output.

        Args:
            name: name of a modality or of a joint output.
            x: tensor with all samples, shape (B, ...).

        Returns:
            The selected rows of ``x``.
        """
        if self.count(name) == len(x):
            return x
        return x.index_select(0, self._indices(name))

    def spread(self, name: str, x: Tensor, dim: int = 0) -> Tensor:
        """Insert zeros for the samples that have no output.

        Args:
            name: name of a modality or of a joint output.
            x: tensor with only the samples that have an output, along ``dim``.
            dim: dimension that indexes samples.

        Returns:
            Tensor with all B samples; the inserted rows are 0.
        """
        samples = len(self._any)
        if x.shape[dim] == samples:
            return x
        shape = [*x.shape]
        shape[dim] = samples
        return x.new_zeros(shape).index_copy(dim, self._indices(name), x)

    def on_device(self) -> dict[str, Tensor]:
        """Copy the masks of the modalities to the device."""
        return {m: self._copy(x) for m, x in self.masks.items()}

    def _indices(self, name: str) -> Tensor:
        key = name if name in self.masks else ''
        if key not in self._rows:
            self._rows[key] = self._copy(self.mask(name).nonzero().flatten())
        return self._rows[key]

    def _copy(self, x: Tensor) -> Tensor:
        return x.to(self.device, non_blocking=self.device.type == 'cuda')


def read_masks(
    batch: Sample, modalities: Sequence[str], samples: int
) -> dict[str, Tensor] | None:
    """Read and check the modality masks of a batch.

    This package's datamodules leave ``available_<m>`` on the CPU. Masks on another
    device are copied to the CPU, which synchronizes with that device.

    Args:
        batch: batch with ``available_<m>`` for modalities that some samples lack.
        modalities: names of the modalities.
        samples: number of samples B.

    Returns:
        Masks of all modalities, shape (B,), boolean, on the CPU; None if the batch has
        no masks.

    Raises:
        ValueError: if a mask has the wrong shape or type, or a sample has no modality.
    """
    found: Mapping[str, Any] = get_available(batch, modalities)
    if not found:
        return None
    for m, x in found.items():
        if tuple(x.shape) != (samples,) or x.dtype != torch.bool:
            raise ValueError(
                f'available_{m} must have shape ({samples},) and type bool, got '
                f'{tuple(x.shape)} and {x.dtype}'
            )
    everything = torch.ones(samples, dtype=torch.bool)
    masks = {m: found[m].cpu() if m in found else everything for m in modalities}
    without = int((~torch.stack(list(masks.values())).any(dim=0)).sum())
    if without:
        raise ValueError(
            f'each sample must have at least one of {list(modalities)}, got {without} of '
            f'{samples} samples with none; remove these samples from the dataset'
        )
    return masks


def drop_small_parts(
    masks: Mapping[str, Tensor], number: int, fewest: int
) -> dict[str, Tensor]:
    """Mark a modality as absent in micro-batches where too few samples have it.

    Args:
        masks: whether each sample has a modality, shape (B,), boolean, on the CPU.
        number: number of micro-batches.
        fewest: minimum number of samples that a layer such as BatchNorm needs.

    Returns:
        New masks, by modality.

    Example:
        >>> has = torch.tensor([True, False, False, True, True, False])
        >>> drop_small_parts({'s1': has}, number=2, fewest=2)
        {'s1': tensor([False, False, False,  True,  True, False])}
    """
    return {
        m: torch.cat([x & (x.sum() >= fewest) for x in mask.tensor_split(number)])
        for m, mask in masks.items()
    }
