"""Decoders from segmentation-models-pytorch, for pyramids of several encoders."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import (
    initialize_decoder,
    initialize_head,
)
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from .fcn import FCNDecoder

Decoder = Literal['fcn', 'unet', 'deeplabv3+', 'upernet', 'segformer', 'fpn']

# Decoder, output channels, and kernel size and upsampling factor of the head, as in smp.
_Recipe = tuple[Callable[[list[int], int], nn.Module], int, int, int]
_RECIPES: dict[str, _Recipe] = {
    'unet': (
        lambda c, depth: UnetDecoder(c, (256, 128, 64, 32, 16), n_blocks=depth),
        16,
        3,
        1,
    ),
    'deeplabv3+': (
        lambda c, depth: DeepLabV3PlusDecoder(c, 5, 256, (12, 24, 36), 16, True, 0.5),
        256,
        1,
        4,
    ),
    'upernet': (lambda c, depth: UPerNetDecoder(c, depth), 256, 1, 4),
    'segformer': (lambda c, depth: SegformerDecoder(c, depth), 256, 1, 4),
    'fpn': (lambda c, depth: FPNDecoder(c, depth), 128, 1, 4),
}


class SMPDecoder(nn.Module):
    """Decoder and segmentation head from segmentation-models-pytorch.

    Args:
        name: 'unet', 'deeplabv3+', 'upernet', 'segformer' or 'fpn'.
        channels: number of channels of each level, summed over all modalities.
        strides: stride of each level: 2, 4, 8, 16, 32, or 4, 8, 16, 32. For 'deeplabv3+',
            the last stride is 16.
        classes: number of classes.

    Raises:
        ValueError: if the levels have other strides.
    """

    #: The height and width of images must be multiples of this number.
    divisor = 32

    def __init__(
        self, name: str, channels: Sequence[int], strides: Sequence[int], classes: int
    ) -> None:
        """Initialize a new SMPDecoder instance."""
        super().__init__()
        expected = [2, 4, 8, 16, output_stride(name)]
        if list(strides) not in (expected, expected[1:]):
            raise ValueError(
                f'{name} requires levels with strides {expected} or {expected[1:]}, '
                f'got {list(strides)}; choose a backbone with a pyramid, such as resnet50'
            )
        build, width, kernel, upsampling = _RECIPES[name]
        # smp treats the image as the first level. If an encoder starts at stride 4, smp
        # adds a level without channels.
        self.blanks = 1 + len(expected) - len(strides)
        self.decoder = build([0] * self.blanks + list(channels), len(expected))
        self.head: Any = SegmentationHead(
            width, classes, kernel_size=kernel, upsampling=upsampling
        )
        initialize_decoder(self.decoder)
        initialize_head(self.head)

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Decode a pyramid.

        Args:
            levels: feature maps, finest first, shape (B, ``channels[i]``, h, w).
            size: height and width of the image.

        Returns:
            Logits, shape (B, ``classes``, H, W).
        """
        sizes = [(size[0] // 2**i, size[1] // 2**i) for i in range(self.blanks)]
        blanks = [levels[0].new_zeros(levels[0].shape[0], 0, *s) for s in sizes]
        logits: Tensor = self.head(self.decoder([*blanks, *levels]))
        return logits


def output_stride(name: str) -> int:
    """Return the stride of the last level that a decoder expects.

    Args:
        name: name of the decoder.

    Returns:
        16 for DeepLabV3+, which dilates the last stage, and 32 for other decoders.
    """
    return 16 if name == 'deeplabv3+' else 32


def build_decoder(
    name: str, channels: Sequence[int], strides: Sequence[int], classes: int
) -> FCNDecoder | SMPDecoder:
    """Build a decoder by name.

    Args:
        name: 'fcn', or a decoder from segmentation-models-pytorch: 'unet', 'deeplabv3+',
            'upernet', 'segformer' or 'fpn'.
        channels: number of channels of each level, summed over all modalities.
        strides: stride of each level.
        classes: number of classes.

    Returns:
        A module that maps levels and a size (H, W) to logits (B, ``classes``, H, W).

    Raises:
        ValueError: if the name is unknown, or the levels do not match the decoder.

    Example:
        >>> build_decoder('unet', [8, 8, 8, 8, 8], [2, 4, 8, 16, 32], 3).divisor
        32
    """
    if name not in get_args(Decoder):
        raise ValueError(
            f'model must be one of the decoders {list(get_args(Decoder))}, got {name!r}'
        )
    if name == 'fcn':
        return FCNDecoder(channels, strides, classes)
    return SMPDecoder(name, channels, strides, classes)
