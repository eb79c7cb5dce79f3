"""Fully convolutional decoder of DeCUR's segmentation experiments."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate

_STRIDES = (8, 16, 32)
_WIDTHS = (128, 256, 512)


class FCNDecoder(nn.Module):
    r"""Fully convolutional decoder for the levels with strides 8, 16 and 32.

    Long et al., *Fully Convolutional Networks for Semantic Segmentation*, CVPR 2015,
    https://arxiv.org/abs/1411.4038, as used for GeoNRW by Wang et al. (ECCV 2024).

    A 1x1 convolution :math:`R_s` reduces each level :math:`x_s` to 128, 256 or 512
    channels, and a second 1x1 convolution :math:`K_s` maps these channels to classes. The
    class scores are summed at stride 8 and resized to the image:

    .. math:: y = U\Big(\sum_s U_8(K_s R_s x_s)\Big).

    :math:`K_s` commutes with the bilinear upsampling :math:`U_8`, so it is applied first,
    to fewer pixels.

    Args:
        channels: number of channels of each level, summed over all modalities.
        strides: stride of each level.
        classes: number of classes.

    Raises:
        ValueError: if the level with stride 8, 16 or 32 is missing.

    Example:
        >>> import torch
        >>> decoder = FCNDecoder([8, 16, 32], [8, 16, 32], classes=3)
        >>> levels = [torch.randn(1, 8 * 2**i, 8 // 2**i, 8 // 2**i) for i in range(3)]
        >>> decoder(levels, (61, 64)).shape
        torch.Size([1, 3, 61, 64])
    """

    #: Images may have any size.
    divisor = 1

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], classes: int
    ) -> None:
        """Initialize a new FCNDecoder instance."""
        super().__init__()
        if any(s not in strides for s in _STRIDES):
            raise ValueError(
                f'fcn requires levels with strides {list(_STRIDES)}, got {list(strides)}; '
                'choose a backbone with a pyramid, such as resnet50'
            )
        self.levels = [list(strides).index(s) for s in _STRIDES]
        self.reduce = nn.ModuleList(
            nn.Conv2d(channels[i], width, kernel_size=1)
            for i, width in zip(self.levels, _WIDTHS, strict=True)
        )
        self.classify = nn.ModuleList(
            nn.Conv2d(width, classes, kernel_size=1) for width in _WIDTHS
        )

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Decode a pyramid.

        Args:
            levels: feature maps, finest first, shape (B, ``channels[i]``, h, w).
            size: height and width of the logits.

        Returns:
            Logits, shape (B, ``classes``, H, W).
        """
        scores = [
            classify(reduce(levels[i]))
            for i, reduce, classify in zip(
                self.levels, self.reduce, self.classify, strict=True
            )
        ]
        total = scores[0]
        for score in scores[1:]:
            total = total + _resize(score, total.shape[-2:])
        return _resize(total, size)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(x, size=tuple(size), mode='bilinear', align_corners=False)
