"""Feature pyramid from the tokens of a vision transformer."""

from typing import Any

from torch import Tensor, nn

from .grids import pad_to, padded, resample_tokens


class TokenPyramid(nn.Module):
    """Feature pyramid from four depths of a plain vision transformer.

    A plain vision transformer has the same stride at every depth: its patch size. The
    tokens after each quarter of the blocks, normalized by the last norm of the encoder,
    become the four levels. The levels are resampled to strides 4, 8, 16 and
    ``output_stride``. Resampling is bilinear and has no parameters, so all parameters of
    the pyramid belong to the encoder.

    If the image size is not a multiple of the patch size, the last row and column are
    repeated.

    Args:
        encoder: timm encoder with a ``forward_intermediates`` method. It is modified in
            place: layers that only pooled features need are removed.
        output_stride: stride of the last level, 32 or 16.

    Attributes:
        strides: stride of each level.
        channels: number of channels of each level.

    Raises:
        ValueError: if the encoder has fewer than four blocks.

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
                f'pyramid, got {depth}; choose a larger model'
            )
        self.depths = [
            depth * (i + 1) // len(self.strides) - 1 for i in range(len(self.strides))
        ]
        model.prune_intermediate_layers(self.depths, prune_norm=False)
        # forward pads the images, because exported programs cannot round sizes like timm.
        embed: Any = getattr(model, 'patch_embed', None)
        if getattr(embed, 'dynamic_img_pad', False):
            embed.dynamic_img_pad = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set whether the backward pass recomputes the activations of each block.

        Args:
            enable: whether to recompute them.
        """
        model: Any = self.model
        model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the levels of the pyramid.

        Args:
            x: images in [0, 1], shape (B, C, H, W).

        Returns:
            Levels, finest first, shape (B, C', h, w), where h = H / stride is rounded up.

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
                f'images must have the size {tuple(embed.img_size)} of the model, got '
                f'{tuple(size)}; resample the images, or choose a timm ViT, which accepts '
                'any size'
            )
        x = pad_to(x, whole)
        maps = model.forward_intermediates(
            x, indices=self.depths, norm=True, intermediates_only=True
        )
        levels = []
        for tokens, stride in zip(maps, self.strides, strict=True):
            # Cells cover exactly the image; patches may extend beyond it.
            cells = [n // stride for n in padded(size, stride)]
            covered = [n / self.patch for n in size]
            levels.append(resample_tokens(tokens, cells, covered))
        return levels


def has_tokens(encoder: nn.Module) -> bool:
    """Check whether all depths of an encoder have the same stride, as in a plain ViT.

    Args:
        encoder: timm encoder.

    Returns:
        True if :class:`TokenPyramid` accepts the encoder.
    """
    model: Any = encoder
    info = getattr(model, 'feature_info', None)
    strides = {level['reduction'] for level in info} if isinstance(info, list) else ()
    return len(strides) == 1 and hasattr(model, 'prune_intermediate_layers')
