"""Late fusion by concatenation, which supports absent modalities and frozen encoders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Self

import torch
from torch import Tensor, nn

from ..encoder import MultimodalEncoder
from ..segmentation.pyramid import MultimodalPyramid


class LateFusion(nn.Module, ABC):
    """Base class for classifiers and segmenters that concatenate features of modalities.

    The features of a modality are a list of levels, each of shape (B, C, ...). An encoder
    with pooling has a single level of shape (B, C). Fusion concatenates the modalities
    level by level, with zeros for absent modalities. A modality can be absent from
    individual samples (``available``) or from the whole batch. In the latter case, its
    encoder does not run.

    Args:
        encoders: module that maps images to features by modality.
        channels: number of channels of each level by modality.
        freeze_backbone: whether to freeze the encoders, including the statistics of their
            normalization layers.
        modality_dropout: probability of treating a modality of a sample as absent in
            training; at least one modality is kept.

    Raises:
        ValueError: if ``modality_dropout`` is not in [0, 1).
    """

    def __init__(
        self,
        encoders: MultimodalEncoder | MultimodalPyramid,
        channels: Mapping[str, Sequence[int]],
        freeze_backbone: bool = False,
        modality_dropout: float = 0.0,
    ) -> None:
        """Initialize a new LateFusion instance."""
        super().__init__()
        if not 0 <= modality_dropout < 1:
            raise ValueError(
                f'modality_dropout must be in [0, 1), got {modality_dropout}'
            )
        self.encoders = encoders
        self.channels = {m: list(c) for m, c in channels.items()}
        self.freeze_backbone = freeze_backbone
        self.modality_dropout = modality_dropout
        if freeze_backbone:
            self.encoders.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, except for frozen encoders."""
        super().train(mode)
        if self.freeze_backbone:
            self.encoders.eval()
        return self

    def encode(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, list[Tensor]]:
        """Compute features, with zeros for absent modalities.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).
            available: boolean masks of the samples that have a modality, shape (B,).
                Images of other samples are ignored. A modality without a mask is present
                in all samples.

        Returns:
            Features by modality.

        Raises:
            ValueError: if there is no image, a modality is unknown, or a mask has the
                wrong shape.
        """
        available = available or {}
        masks = self._masks(images, available)
        filled = {
            m: self._hide(x, masks[m]) if m in available else x
            for m, x in images.items()
        }
        with torch.no_grad() if self.freeze_backbone else nullcontext():
            features = self.features(filled)
        return self.mask(features, available)

    def forward(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Compute logits of images.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).
            available: boolean masks of the samples that have a modality, shape (B,).

        Returns:
            Logits, shape (B, ``num_classes``), or (B, ``num_classes``, H, W) for a
            segmenter.
        """
        features = self.encode(images, available)
        return self.decode(features, next(iter(images.values())).shape[-2:])

    def features(self, images: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """Compute features of the given modalities.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).

        Returns:
            Levels by modality.
        """
        return _levels(self.encoders(images))

    def mask(
        self,
        features: Mapping[str, Sequence[Tensor]],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, list[Tensor]]:
        """Set the features of absent modalities to zero and drop modalities in training.

        Args:
            features: features of some or all modalities.
            available: boolean masks of the samples that have a modality, shape (B,).

        Returns:
            Features, with zeros for absent modalities.

        Raises:
            ValueError: if a mask has the wrong shape.
        """
        drop = self.training and self.modality_dropout > 0
        if not available and not drop:
            return {m: list(levels) for m, levels in features.items()}
        first = {m: levels[0] for m, levels in features.items()}
        keep = torch.stack(list(self._masks(first, available or {}).values()), dim=1)
        if drop:
            keep = drop_modalities(keep, self.modality_dropout)
        return {
            m: [_mask(x, k) for x in levels]
            for k, (m, levels) in zip(keep.unbind(1), features.items(), strict=True)
        }

    def fuse(self, features: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
        """Concatenate features, with zeros for absent modalities.

        Args:
            features: features of some or all modalities, from
                :meth:`~torchgeo_decur.models.LateFusion.encode`.

        Returns:
            The fused levels, each of shape (B, sum of channels, ...).
        """
        given = list(next(iter(features.values())))
        return [
            torch.cat(
                [
                    features[m][i]
                    if m in features
                    else x.new_zeros(x.shape[0], channels[i], *x.shape[2:])
                    for m, channels in self.channels.items()
                ],
                dim=1,
            )
            for i, x in enumerate(given)
        ]

    @abstractmethod
    def decode(
        self, features: Mapping[str, Sequence[Tensor]], size: Sequence[int]
    ) -> Tensor:
        """Compute logits from features.

        Args:
            features: features of some or all modalities, from
                :meth:`~torchgeo_decur.models.LateFusion.encode`.
            size: height and width of the images.

        Returns:
            Logits.
        """

    def _hide(self, x: Tensor, mask: Tensor) -> Tensor:
        """Replace images of an absent modality, which may have any values."""
        if self.encoders.training:
            return impute_absent(x, mask)
        # Without batch statistics, samples are independent.
        return torch.where(_like(mask, x), x, 0)

    def _masks(
        self, images: Mapping[str, Tensor], available: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if not images:
            raise ValueError(
                f'images must have at least one of {list(self.channels)}, got none'
            )
        unknown = sorted({*images, *available} - set(self.channels))
        if unknown:
            raise ValueError(
                f'modalities of images must be among {list(self.channels)}, got {unknown}'
            )
        masks = {}
        for m, x in images.items():
            mask = available.get(m)
            if mask is None:
                mask = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
            if mask.shape != x.shape[:1]:
                raise ValueError(
                    f'available_{m} must have shape {tuple(x.shape[:1])}, '
                    f'got {tuple(mask.shape)}'
                )
            masks[m] = mask.to(x.device, torch.bool)
        return masks


def drop_modalities(available: Tensor, p: float) -> Tensor:
    """Drop random modalities of each sample, but keep at least one available modality.

    Args:
        available: boolean mask of the available modalities, shape (B, M).
        p: probability of dropping a modality.

    Returns:
        Boolean mask of the remaining modalities, shape (B, M).

    Example:
        >>> drop_modalities(torch.tensor([[True, False], [False, False]]), p=0.9)
        tensor([[ True, False],
                [False, False]])
    """
    draw = torch.rand(available.shape, device=available.device)
    keep = available & (draw >= p)
    one = draw.masked_fill(~available, -1).argmax(dim=1, keepdim=True)
    last = torch.zeros_like(keep).scatter(1, one, True) & available
    return torch.where(keep.any(dim=1, keepdim=True), keep, last)


def impute_absent(x: Tensor, mask: Tensor) -> Tensor:
    """Replace placeholders with images of other samples, for the statistics of BatchNorm.

    Args:
        x: images or feature maps, shape (B, ...).
        mask: boolean mask of the samples that have the modality, shape (B,).

    Returns:
        A tensor in which copies of other samples replace the samples without the modality.
        If no sample has the modality, all values are zero.

    Example:
        >>> x = torch.tensor([1.0, 9.0, 3.0])
        >>> impute_absent(x, torch.tensor([True, False, True]))
        tensor([1., 1., 3.])
    """
    present = mask.nonzero().squeeze(1)
    if not len(present):
        return torch.zeros_like(x)
    index = torch.arange(len(x), device=x.device)
    absent = index[~mask]
    index[absent] = present[torch.arange(len(absent), device=x.device) % len(present)]
    return x[index]


def _levels(features: Mapping[str, Tensor | list[Tensor]]) -> dict[str, list[Tensor]]:
    return {m: [x] if isinstance(x, Tensor) else x for m, x in features.items()}


def _mask(x: Tensor, keep: Tensor) -> Tensor:
    return x * _like(keep, x).to(x.dtype)


def _like(mask: Tensor, x: Tensor) -> Tensor:
    """Reshape a mask (B,) to (B, 1, ...), to broadcast with ``x``."""
    return mask.reshape(-1, *[1] * (x.ndim - 1))
