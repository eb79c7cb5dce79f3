"""Select and encode the samples that have a modality."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .batch import get_available

type Results = tuple[dict[str, Tensor], dict[str, Tensor]]


class PresentSamples:
    """Selector for the samples of a batch that have a modality.

    The masks stay on the CPU so that counting samples does not wait for the device.
    Only indices are copied to the device, asynchronously.

    Args:
        masks: boolean mask of the samples that have a modality, shape (B,), on the CPU,
            for each modality.
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
            Boolean mask, shape (B,), on the CPU.
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

    def spread(self, name: str, x: Tensor, dim: int = 0, fill: float = 0.0) -> Tensor:
        """Insert rows for the samples that have no output.

        Args:
            name: name of a modality or of a joint output.
            x: tensor with only the samples that have an output, along ``dim``.
            dim: dimension that indexes samples.
            fill: value of the inserted rows.

        Returns:
            Tensor with all B samples.
        """
        samples = len(self._any)
        if x.shape[dim] == samples:
            return x
        shape = [*x.shape]
        shape[dim] = samples
        return x.new_full(shape, fill).index_copy(dim, self._indices(name), x)

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


def encode_present(
    encode: Callable[..., Results],
    images: Mapping[str, Tensor],
    available: Mapping[str, Tensor],
    fill: float = 0.0,
    encode_blank: Callable[[dict[str, Tensor]], Results] | None = None,
) -> Results:
    """Compute features and embeddings of a batch whose samples may lack modalities.

    Args:
        encode: method ``encode_and_project`` of a pretraining task, or a function with
            the same arguments ``images`` and ``available``.
        images: images of all samples by modality, shape (B, C, H, W).
        available: mask of the samples that have a modality, shape (B,), for each modality
            that some samples lack.
        fill: value of the rows of samples without a result.
        encode_blank: see :func:`encode_rows`.

    Returns:
        Features and embeddings of all samples, by name.

    Example:
        >>> images = {'s1': torch.ones(3, 2, 1, 1)}
        >>> there = {'s1': torch.tensor([True, False, True])}
        >>> def encode(images, available=None):
        ...     return {m: x.mean((2, 3)) for m, x in images.items()}, {}
        >>> encode_present(encode, images, there)[0]['s1'].tolist()
        [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    """
    if not available:
        return encode(images)
    some = next(iter(images.values()))
    samples = PresentSamples(complete_masks(available, images, len(some)), some.device)
    present = {m: samples.select(m, x) for m, x in images.items()}
    features, embeddings = (
        {name: samples.spread(name, x, fill=fill) for name, x in results.items()}
        for results in encode_rows(encode, present, samples.masks, encode_blank)
    )
    return features, embeddings


def encode_rows(
    encode: Callable[..., Results],
    images: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    encode_blank: Callable[[dict[str, Tensor]], Results] | None = None,
) -> Results:
    """Compute features and embeddings of the samples that have a modality.

    If no sample has a modality, the encoder of this modality gets a blank image, and its
    results are dropped. The features then have zero rows and the right width, and every
    parameter gets a gradient.

    Args:
        encode: see :func:`encode_present`.
        images: images of the samples that have a modality, by modality.
        masks: boolean mask of the samples that have a modality, shape (B,), on the CPU,
            for each modality.
        encode_blank: function that computes the results of blank images instead of
            ``encode``.

    Returns:
        Features and embeddings by name, with rows only for the samples that have them.
    """
    found = {m: x for m, x in images.items() if len(x)}
    features: dict[str, Tensor] = {}
    embeddings: dict[str, Tensor] = {}
    if found:
        features, embeddings = encode(found, available={m: masks[m] for m in found})
    for m, x in images.items():
        if m in found:
            continue
        outputs = (encode_blank or encode)({m: x.new_zeros(1, *x.shape[1:])})
        for results, more in zip((features, embeddings), outputs, strict=True):
            for name, blank in more.items():
                none, known = blank[:0], results.get(name)
                results[name] = none if known is None else torch.cat([known, none])
    first, second = (
        {n: x[n] for n in [*(m for m in images if m in x), *x]}
        for x in (features, embeddings)
    )
    return first, second


def complete_masks(
    available: Mapping[str, Tensor], modalities: Iterable[str], samples: int
) -> dict[str, Tensor]:
    """Return masks of all modalities on the CPU.

    Args:
        available: mask of the samples that have a modality, for each modality that some
            samples lack.
        modalities: names of the modalities.
        samples: number of samples B.

    Returns:
        Masks by modality, shape (B,).

    Example:
        >>> complete_masks({}, ['s1'], 2)
        {'s1': tensor([True, True])}
    """
    whole = torch.ones(samples, dtype=torch.bool)
    return {m: available[m].cpu() if m in available else whole for m in modalities}


def read_masks(
    batch: Mapping[str, Any], modalities: Sequence[str], samples: int
) -> dict[str, Tensor] | None:
    """Read and check the modality masks of a batch.

    This package's datamodules leave ``available_<m>`` on the CPU. Masks on another
    device are copied to the CPU, which synchronizes with that device.

    Args:
        batch: batch with ``available_<m>`` for modalities that some samples lack.
        modalities: names of the modalities.
        samples: number of samples B.

    Returns:
        Boolean masks of all modalities, shape (B,), on the CPU, or None if the batch has
        no masks.

    Raises:
        ValueError: if a mask has the wrong shape or type, or a sample has no modality.
    """
    found = get_available(batch, modalities)
    if not found:
        return None
    for m, x in found.items():
        if tuple(x.shape) != (samples,) or x.dtype != torch.bool:
            raise ValueError(
                f'available_{m} must have shape ({samples},) and type bool, got '
                f'{tuple(x.shape)} and {x.dtype}'
            )
    masks = complete_masks(found, modalities, samples)
    without = int((~torch.stack(list(masks.values())).any(dim=0)).sum())
    if without:
        raise ValueError(
            f'each sample must have at least one of {list(modalities)}, got {without} of '
            f'{samples} samples with none; remove these samples from the dataset'
        )
    return masks
