"""Segmentation by late fusion, which concatenates and decodes feature pyramids."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...modalities import check_grid
from ..encoder import Weights
from ..fusion.late_fusion import LateFusion
from .decoders import SMPDecoder, build_decoder, output_stride
from .fcn import FCNDecoder
from .grids import align_pyramids, crop_to, pad_to, padded
from .pyramid import MultimodalPyramid


class Segmenter(LateFusion):
    """Base class for segmenters, which decode the pyramids of all modalities to logits.

    The images of a sample must cover the same area. If their sizes differ, the levels are
    resampled to one grid. If the decoder does not support the size of an image, the last
    row and column of this image are repeated. The logits are then cropped.

    Args:
        encoders: module that maps images to levels by modality.
        decoder: module that maps fused levels and a size to logits.
        freeze_backbone: whether to freeze the encoders; see
            :class:`~torchgeo_decur.models.LateFusion`.
        modality_dropout: probability of dropping a modality in training; see
            :class:`~torchgeo_decur.models.LateFusion`.

    Raises:
        ValueError: if ``modality_dropout`` is not in [0, 1).
    """

    encoders: MultimodalPyramid

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
        size: Sequence[int] | None = None,
    ) -> dict[str, list[Tensor]]:
        """Compute pyramids on one grid; see :meth:`~torchgeo_decur.models.LateFusion.encode`.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).
            available: boolean masks of the samples that have a modality, shape (B,).
            size: height and width of the grid; see :meth:`grid_size`.

        Returns:
            Levels by modality. Level i has the same size for all modalities.

        Raises:
            ValueError: if the images have different sizes and ``size`` is None.
        """
        divisor = self.decoder.divisor
        grid = self.grid_size(images, size) if images else ()
        whole = {m: pad_to(x, padded(x.shape[-2:], divisor)) for m, x in images.items()}
        levels = super().encode(whole, available)
        sizes = {m: x.shape[-2:] for m, x in images.items()}
        return align_pyramids(levels, sizes, grid, self.encoders.strides, divisor)

    def forward(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
        size: Sequence[int] | None = None,
    ) -> Tensor:
        """Compute logits of images.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).
            available: boolean masks of the samples that have a modality, shape (B,).
            size: height and width of the logits; see :meth:`grid_size`.

        Returns:
            Logits, shape (B, ``num_classes``, ``*size``).

        Raises:
            ValueError: if the images have different sizes and ``size`` is None.
        """
        features = self.encode(images, available, size)
        return self.decode(features, self.grid_size(images, size))

    def grid_size(
        self, images: Mapping[str, Tensor], size: Sequence[int] | None = None
    ) -> Sequence[int]:
        """Return the size of the grid on which the modalities are fused.

        Args:
            images: images of some or all modalities, shape (B, C, H, W).
            size: height and width of the grid, for example of the mask or of one image, by
                default the size of the images.

        Returns:
            Height and width.

        Raises:
            ValueError: if the images have different sizes and ``size`` is None.
        """
        if size is None:
            check_grid(
                images,
                'or choose a grid with the argument size of the model or the option grid '
                'of the task',
            )
            size = next(iter(images.values())).shape[-2:]
        return size

    def decode(
        self, features: Mapping[str, Sequence[Tensor]], size: Sequence[int]
    ) -> Tensor:
        """Compute logits from pyramids.

        Args:
            features: features of some or all modalities, from :meth:`encode`.
            size: height and width of the grid passed to :meth:`encode`.

        Returns:
            Logits, shape (B, ``num_classes``, H, W).
        """
        bottom, right = padded(size, self.decoder.divisor)
        logits: Tensor = self.decoder(self.fuse(features), (bottom, right))
        return crop_to(logits, size)


class LateFusionSegmenter(Segmenter):
    """Segmenter that concatenates the pyramids of all modalities level by level.

    For image sizes, see :class:`~torchgeo_decur.models.Segmenter`.

    Args:
        modalities: number of channels by modality.
        model: name of the decoder; see :func:`~torchgeo_decur.models.build_decoder`.
        backbone: name of a timm model, one for all modalities or one per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        num_classes: number of classes.
        freeze_backbone: whether to freeze the encoders; see
            :class:`~torchgeo_decur.models.LateFusion`.
        modality_dropout: probability of dropping a modality in training; see
            :class:`~torchgeo_decur.models.LateFusion`.
        bands: band names of the images by modality; see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.

    Raises:
        ValueError: if an option is invalid.

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
