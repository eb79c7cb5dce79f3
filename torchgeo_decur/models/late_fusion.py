"""Late fusion: encode each modality on its own, then concatenate."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .decoders import build_decoder, output_stride
from .encoder import MultimodalEncoder, Weights
from .pyramid import MultimodalPyramid

type Levels = dict[str, list[Tensor]]


class LateFusion(nn.Module):
    """What classifier and segmenter share: encoders, fusion, absence, freezing.

    Features of a modality are a list of levels, each (B, C, ...); a pooled encoder has
    one, (B, C). Fusion concatenates each level over the modalities in their order. A
    modality that is not there counts as zeros, for the whole batch (its encoder is not
    run) or for single samples (``available``).

    Args:
        encoders: from images by modality to features by modality.
        channels: channels of each level of each modality.
        freeze_backbone: whether the encoders neither learn nor adapt: no gradients,
            and evaluation mode for good, so that the statistics of BatchNorm stay.
        modality_dropout: in training, probability that a modality of a sample counts
            as absent; at least one always stays.

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
        """Set the mode of everything but frozen encoders.

        Args:
            mode: whether to train.

        Returns:
            This module.
        """
        super().train(mode)
        if self.freeze_backbone:
            self.encoders.eval()
        return self

    def encode(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> Levels:
        """Compute features, zeros where a sample lacks a modality.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).
            available: whether each sample has a modality, shape (B,), boolean; one
                that is left out is there in all. Images of absent samples are not
                looked at.

        Returns:
            Features of each modality given.

        Raises:
            ValueError: if there is no image, one of an unknown modality, or a mask has
                another shape.
        """
        available = available or {}
        masks = self._masks(images, available)
        filled = {
            m: _fill(x, masks[m]) if m in available else x for m, x in images.items()
        }
        with torch.no_grad() if self.freeze_backbone else nullcontext():
            features = self.encoders(filled)
        return self.mask(_levels(features), available)

    def mask(
        self,
        features: Mapping[str, Sequence[Tensor]],
        available: Mapping[str, Tensor] | None = None,
    ) -> Levels:
        """Set the features of absent modalities to zero; in training, drop more.

        Args:
            features: features of some or all modalities.
            available: whether each sample has a modality, shape (B,).

        Returns:
            Features, zeros where they are absent.

        Raises:
            ValueError: if a mask has another shape.
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
        """Concatenate features, zeros for those of modalities that are left out.

        Args:
            features: what :meth:`encode` returns, of some or all modalities.

        Returns:
            The levels, each (B, sum of channels, ...).
        """
        given = list(next(iter(features.values())))
        return [
            torch.cat(
                [
                    features[m][i]
                    if m in features
                    else x.new_zeros(len(x), channels[i], *x.shape[2:])
                    for m, channels in self.channels.items()
                ],
                dim=1,
            )
            for i, x in enumerate(given)
        ]

    def decode(
        self, features: Mapping[str, Sequence[Tensor]], size: Sequence[int]
    ) -> Tensor:
        """Compute logits from features.

        Args:
            features: what :meth:`encode` returns, of some or all modalities.
            size: height and width of the images.

        Returns:
            Logits.
        """
        raise NotImplementedError

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
                f'images must be of the modalities {list(self.channels)}, got {unknown}'
            )
        masks = {}
        for m, x in images.items():
            mask = available.get(m)
            if mask is None:
                mask = torch.ones(len(x), dtype=torch.bool, device=x.device)
            if mask.shape != (len(x),):
                raise ValueError(
                    f'available_{m} must have shape ({len(x)},), '
                    f'got {tuple(mask.shape)}'
                )
            masks[m] = mask.to(x.device, torch.bool)
        return masks


class LateFusionClassifier(LateFusion):
    """Features of every modality concatenated, then one linear layer.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of a timm model, one for all modalities or one for each.
        weights: start of the encoders, see :class:`MultimodalEncoder`.
        num_classes: number of outputs.
        freeze_backbone: see :class:`LateFusion`; a linear probe.
        modality_dropout: see :class:`LateFusion`.

    Raises:
        ValueError: if an option is not valid.

    Example:
        >>> classifier = LateFusionClassifier({'s1': 2, 's2': 13}, 'resnet18').eval()
        >>> classifier({'s2': torch.randn(4, 13, 64, 64)}).shape
        torch.Size([4, 19])
    """

    def __init__(
        self,
        modalities: Mapping[str, int],
        model: str | Mapping[str, str] = 'resnet50',
        weights: Weights | Mapping[str, Weights] = None,
        num_classes: int = 19,
        freeze_backbone: bool = False,
        modality_dropout: float = 0.0,
    ) -> None:
        """Initialize a new LateFusionClassifier instance."""
        encoders = MultimodalEncoder(modalities, model, weights)
        channels = {m: [c] for m, c in encoders.num_features.items()}
        super().__init__(encoders, channels, freeze_backbone, modality_dropout)
        self.head = nn.Linear(sum(encoders.num_features.values()), num_classes)

    def decode(
        self, features: Mapping[str, Sequence[Tensor]], size: Sequence[int] = ()
    ) -> Tensor:
        """Classify features.

        Args:
            features: what :meth:`encode` returns, of some or all modalities.
            size: not used; the segmenter needs it.

        Returns:
            Logits, shape (B, ``num_classes``).
        """
        logits: Tensor = self.head(self.fuse(features)[0])
        return logits

    def forward(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Classify images.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).
            available: whether each sample has a modality, shape (B,).

        Returns:
            Logits, shape (B, ``num_classes``).
        """
        return self.decode(self.encode(images, available))


class LateFusionSegmenter(LateFusion):
    """Pyramids of every modality concatenated per level, then a decoder.

    The modalities must lie on one grid. Images whose size the decoder cannot take are
    extended at the lower and right edge by repeating their last pixels, and the result
    is cut.

    Args:
        modalities: number of channels of each modality, by name.
        model: the decoder, see :func:`~torchgeo_decur.models.build_decoder`.
        backbone: name of a timm model, one for all modalities or one for each.
        weights: start of the encoders, see :class:`MultimodalEncoder`.
        num_classes: number of classes.
        freeze_backbone: see :class:`LateFusion`.
        modality_dropout: see :class:`LateFusion`.

    Raises:
        ValueError: if an option is not valid.

    Example:
        >>> segmenter = LateFusionSegmenter({'rgb': 3, 'dem': 1}, 'fcn', 'resnet18').eval()
        >>> segmenter({'rgb': torch.rand(2, 3, 50, 61)}).shape
        torch.Size([2, 11, 50, 61])
    """

    def __init__(
        self,
        modalities: Mapping[str, int],
        model: str = 'fcn',
        backbone: str | Mapping[str, str] = 'resnet50',
        weights: Weights | Mapping[str, Weights] = None,
        num_classes: int = 11,
        freeze_backbone: bool = False,
        modality_dropout: float = 0.0,
    ) -> None:
        """Initialize a new LateFusionSegmenter instance."""
        encoders = MultimodalPyramid(
            modalities, backbone, weights, output_stride(model)
        )
        super().__init__(encoders, encoders.channels, freeze_backbone, modality_dropout)
        total = [sum(level) for level in zip(*encoders.channels.values(), strict=True)]
        self.decoder = build_decoder(model, total, encoders.strides, num_classes)

    def encode(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> Levels:
        """Compute pyramids; see :meth:`LateFusion.encode`.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).
            available: whether each sample has a modality, shape (B,).

        Returns:
            Levels of each modality given.

        Raises:
            ValueError: if the images have different sizes.
        """
        sizes = {m: tuple(x.shape[-2:]) for m, x in images.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                f'modalities must lie on one grid, got images of {sizes}; resample them'
            )
        padded = {m: _pad(x, self.decoder.divisor) for m, x in images.items()}
        return super().encode(padded, available)

    def decode(
        self, features: Mapping[str, Sequence[Tensor]], size: Sequence[int]
    ) -> Tensor:
        """Segment from pyramids.

        Args:
            features: what :meth:`encode` returns, of some or all modalities.
            size: height and width of the images.

        Returns:
            Logits, shape (B, ``num_classes``, H, W).
        """
        d = self.decoder.divisor
        height, width = size
        logits: Tensor = self.decoder(
            self.fuse(features), (-(-height // d) * d, -(-width // d) * d)
        )
        return logits[..., :height, :width]

    def forward(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Segment images.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).
            available: whether each sample has a modality, shape (B,).

        Returns:
            Logits, shape (B, ``num_classes``, H, W).
        """
        features = self.encode(images, available)
        return self.decode(features, next(iter(images.values())).shape[-2:])


def drop_modalities(available: Tensor, p: float) -> Tensor:
    """Drop modalities of samples at random, never all that a sample has.

    Args:
        available: whether a sample has a modality, shape (B, M), boolean.
        p: probability to drop one.

    Returns:
        What stays, shape (B, M), boolean.

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


def _levels(features: Mapping[str, Tensor | list[Tensor]]) -> Levels:
    return {m: [x] if isinstance(x, Tensor) else x for m, x in features.items()}


def _fill(x: Tensor, mask: Tensor) -> Tensor:
    """Put images of the batch in place of absent ones, which BatchNorm must not see."""
    present = mask.nonzero().squeeze(1)
    if not len(present):
        return torch.zeros_like(x)
    index = torch.arange(len(x), device=x.device)
    absent = index[~mask]
    index[absent] = present[torch.arange(len(absent), device=x.device) % len(present)]
    return x[index]


def _mask(x: Tensor, keep: Tensor) -> Tensor:
    return x * keep.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)


def _pad(x: Tensor, divisor: int) -> Tensor:
    bottom, right = (-size % divisor for size in x.shape[-2:])
    return pad(x, (0, right, 0, bottom), mode='replicate') if bottom or right else x
