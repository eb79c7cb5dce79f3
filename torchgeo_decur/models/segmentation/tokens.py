"""A feature pyramid from the tokens of a vision transformer."""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from .grids import padded, resample_cells


class TokenPyramid(nn.Module):
    """Maps of four depths of a vision transformer, resampled to the strides of a pyramid.

    A plain vision transformer has one stride at every depth: the size of its patches. The
    tokens after each quarter of the blocks, normalised by the last norm of the encoder,
    become the four levels. The first level is resampled to the finest stride, the last to
    the coarsest. Resampling is bilinear and has no parameters, so all parameters of the
    pyramid belong to the encoder.

    If the patches do not divide an image, its last row and column are repeated.

    Args:
        encoder: encoder of timm with the method ``forward_intermediates``, modified in
            place: layers that only pooled features need are removed.
        output_stride: stride of the last level, 32 or 16.

    Attributes:
        strides: stride of each level.
        channels: channels of each level.

    Example:
        >>> import timm, torch
        >>> pyramid = TokenPyramid(timm.create_model('test_vit', dynamic_img_size=True))
        >>> [tuple(x.shape[1:]) for x in pyramid(torch.rand(1, 3, 96, 64))]
        [(64, 24, 16), (64, 12, 8), (64, 6, 4), (64, 3, 2)]
    """

    def __init__(self, encoder: nn.Module, output_stride: int = 32) -> None:
        """Initialize a new TokenPyramid instance."""
        super().__init__()
        self.model = encoder
        model: Any = encoder
        blocks = model.feature_info
        self.patch = int(blocks[-1]['reduction'])
        self.strides = [4, 8, 16, output_stride]
        self.channels = [int(blocks[-1]['num_chs'])] * len(self.strides)
        depth = len(blocks)
        if depth < len(self.strides):
            raise ValueError(
                f'a vision transformer must have at least {len(self.strides)} blocks for a '
                f'pyramid, got {depth}'
            )
        self.depths = [
            depth * (i + 1) // len(self.strides) - 1 for i in range(len(self.strides))
        ]
        model.prune_intermediate_layers(self.depths, prune_norm=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the levels.

        Args:
            x: images in [0, 1], shape (B, C, H, W).

        Returns:
            The levels, finest first, shape (B, C', h, w) with h = H / stride, rounded up.

        Raises:
            ValueError: if the model only accepts images of another size.
        """
        size = x.shape[-2:]
        whole = padded(size, self.patch)
        model: Any = self.model
        embed: Any = getattr(model, 'patch_embed', None)
        fixed = getattr(embed, 'strict_img_size', False)
        if fixed and tuple(embed.img_size) != tuple(whole):
            raise ValueError(
                f'images must have the size of the model, {tuple(embed.img_size)}, got '
                f'{tuple(size)}; resample them, or choose a ViT of timm, which accepts '
                'any size'
            )
        bottom, right = (a - b for a, b in zip(whole, size, strict=True))
        if bottom or right:
            x = pad(x, (0, right, 0, bottom), mode='replicate')
        maps = model.forward_intermediates(
            x, indices=self.depths, norm=True, intermediates_only=True
        )
        levels = []
        for tokens, stride in zip(maps, self.strides, strict=True):
            # Cells cover the image exactly; a patch may reach beyond it.
            cells = [-(-n // stride) for n in size]
            step = [n / c / self.patch for n, c in zip(size, cells, strict=True)]
            levels.append(resample_cells(tokens, cells, step))
        return levels


def has_tokens(encoder: nn.Module) -> bool:
    """Return whether all depths of an encoder have one stride, as in a plain transformer.

    Args:
        encoder: encoder of timm.

    Returns:
        Whether :class:`TokenPyramid` accepts it.
    """
    model: Any = encoder
    info = getattr(model, 'feature_info', None)
    strides = {level['reduction'] for level in info} if isinstance(info, list) else ()
    return len(strides) == 1 and hasattr(model, 'prune_intermediate_layers')
