"""Select the samples of a batch that have a modality, without synchronization."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchgeo.datasets.utils import Sample

from ..modalities import get_available


class PresentSamples:
    """Select the samples of a batch that have a modality.

    The masks are on the CPU, so that counting does not wait for the device. Only indices
    are copied to the device, asynchronously.

    Args:
        masks: whether each sample has a modality, shape (B,), boolean, on the CPU.
        device: device of the tensors to choose from.

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
        # A result of several modalities exists for samples that have any of them.
        self._any = torch.stack(list(masks.values())).any(dim=0)
        self._rows: dict[str, Tensor] = {}

    def mask(self, name: str) -> Tensor:
        """Return which samples have a result.

        Args:
            name: a modality, or the name of a result of several modalities.

        Returns:
            Mask, shape (B,), boolean, on the CPU.
        """
        return self.masks.get(name, self._any)

    def count(self, name: str) -> int:
        """Return the number of samples that have a result.

        Args:
            name: a modality, or the name of a result of several modalities.
        """
        return int(self.mask(name).sum())

    def select(self, name: str, x: Tensor) -> Tensor:
        """Return the samples that have a result.

        Args:
            name: a modality, or the name of a result of several modalities.
            x: a tensor of all samples, shape (B, ...).

        Returns:
            The rows of these samples.
        """
        if self.count(name) == len(x):
            return x
        return x.index_select(0, self._indices(name))

    def spread(self, name: str, x: Tensor, dim: int = 0) -> Tensor:
        """Insert zeros for the samples without a result.

        Args:
            name: a modality, or the name of a result of several modalities.
            x: rows of the samples that have the result, along ``dim``.
            dim: dimension of the samples.

        Returns:
            A tensor of B samples; other rows are 0.
        """
        samples = len(self._any)
        if x.shape[dim] == samples:
            return x
        shape = [*x.shape]
        shape[dim] = samples
        return x.new_zeros(shape).index_copy(dim, self._indices(name), x)

    def on_device(self) -> dict[str, Tensor]:
        """Return the masks of the modalities on the device."""
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
    """Read and check which samples of a batch have each modality.

    The datamodules of this package leave ``available_<m>`` on the CPU. Masks on another
    device are copied, which synchronizes with it.

    Args:
        batch: batch with ``available_<m>`` for modalities that some samples lack.
        modalities: names of the modalities.
        samples: number of samples B.

    Returns:
        Masks of all modalities, shape (B,), boolean, on the CPU; None if the batch has
        no such key.

    Raises:
        ValueError: if a mask has another shape or type, or a sample has no modality.
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
            f'{samples} samples with none; remove them from the data set'
        )
    return masks


def drop_small_parts(
    masks: Mapping[str, Tensor], number: int, fewest: int
) -> dict[str, Tensor]:
    """Treat a modality as absent if too few samples of a micro-batch have it.

    Args:
        masks: whether each sample has a modality, shape (B,), boolean, on the CPU.
        number: number of micro-batches.
        fewest: smallest number of samples that a layer such as BatchNorm needs.

    Returns:
        New masks.

    Example:
        >>> has = torch.tensor([True, False, False, True, True, False])
        >>> drop_small_parts({'s1': has}, number=2, fewest=2)
        {'s1': tensor([False, False, False,  True,  True, False])}
    """
    return {
        m: torch.cat([x & (x.sum() >= fewest) for x in mask.tensor_split(number)])
        for m, mask in masks.items()
    }
