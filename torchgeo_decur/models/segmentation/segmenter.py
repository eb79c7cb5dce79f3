"""Segmentation by late fusion: concatenate feature pyramids, then decode them."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn.functional import pad

from ...modalities import check_grid
from ..encoder import Weights
from ..fusion.late_fusion import LateFusion
from .decoders import SMPDecoder, build_decoder, output_stride
from .fcn import FCNDecoder
from .pyramid import MultimodalPyramid


class Segmenter(LateFusion):
    """Base of segmenters, which decode the pyramids of all modalities to logits.

    The modalities must share one grid. If the decoder does not support the size of the
    images, their last row and column are repeated, and the result is cropped.

    Args:
        encoders: module that maps images to levels by modality.
        decoder: module that maps fused levels and a size to logits.
        freeze_backbone: see :class:`~torchgeo_decur.models.LateFusion`.
        modality_dropout: see :class:`~torchgeo_decur.models.LateFusion`.

    Raises:
        ValueError: if ``modality_dropout`` is not in [0, 1).
    """

    def __init__(
        self,
        encoders: MultimodalPyramid,
        decoder: FCNDecoder | SMPDecoder,
        freeze_backbone: bool = False,
        modality_dropout: float = 0.0,
    ) -> None:
        """Initialize a new Segmenter instance."""
        super().__init__(encoders, encoders.channels, freeze_backbone, modality_dropout)
        self.decoder = decoder

    def encode(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, list[Tensor]]:
        """Compute pyramids; see :meth:`~torchgeo_decur.models.LateFusion.encode`.

        Returns:
            Levels of each given modality.

        Raises:
            ValueError: if the images have different sizes.
        """
        check_grid(images)
        padded = {m: _pad(x, self.decoder.divisor) for m, x in images.items()}
        return super().encode(padded, available)

    def decode(
        self, features: Mapping[str, Sequence[Tensor]], size: Sequence[int]
    ) -> Tensor:
        """Compute logits from pyramids.

        Returns:
            Logits, shape (B, ``num_classes``, H, W).
        """
        d = self.decoder.divisor
        height, width = size
        logits: Tensor = self.decoder(
            self.fuse(features), (-(-height // d) * d, -(-width // d) * d)
        )
        return logits[..., :height, :width]


class LateFusionSegmenter(Segmenter):
    """Concatenate the pyramids of all modalities level by level, then decode them.

    For the size of images see :class:`~torchgeo_decur.models.Segmenter`.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of the decoder, see :func:`~torchgeo_decur.models.build_decoder`.
        backbone: name of a timm model, one for all modalities or one for each.
        weights: initial weights, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        num_classes: number of classes.
        freeze_backbone: see :class:`~torchgeo_decur.models.LateFusion`.
        modality_dropout: see :class:`~torchgeo_decur.models.LateFusion`.
        bands: see :class:`~torchgeo_decur.models.MultimodalEncoder`.

    Raises:
        ValueError: if an option is not valid.

    Example:
        >>> import torch
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
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Initialize a new LateFusionSegmenter instance."""
        encoders = MultimodalPyramid(
            modalities, backbone, weights, output_stride(model), bands
        )
        total = [sum(level) for level in zip(*encoders.channels.values(), strict=True)]
        decoder = build_decoder(model, total, encoders.strides, num_classes)
        super().__init__(encoders, decoder, freeze_backbone, modality_dropout)


def _pad(x: Tensor, divisor: int) -> Tensor:
    bottom, right = (-size % divisor for size in x.shape[-2:])
    return pad(x, (0, right, 0, bottom), mode='replicate') if bottom or right else x
