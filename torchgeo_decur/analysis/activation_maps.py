"""Access to the last feature map of any timm model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..models.encoder import is_channels_last
from .result import NotApplicable


def last_map(encoder: nn.Module, x: Tensor) -> Tensor:
    """Compute the last feature map of an encoder.

    Args:
        encoder: a timm model.
        x: images in [0, 1], shape (B, C, H, W).

    Returns:
        Feature map, shape (B, F, h, w). For a vision transformer, this is the grid of
        its patch tokens.

    Raises:
        NotApplicable: if the model has no feature map.

    Example:
        >>> import timm
        >>> last_map(timm.create_model('test_vit'), torch.rand(2, 3, 160, 160)).shape
        torch.Size([2, 64, 10, 10])
    """
    model: Any = encoder
    return _as_map(encoder, model.forward_features(x), tuple(x.shape[-2:]))[0]


@contextmanager
def exposed(encoder: nn.Module, size: tuple[int, ...]) -> Iterator[nn.Module]:
    """Within a context, pass an encoder's last feature map through an identity module.

    For an encoder that pools feature maps, this is the output of the last stage. For a
    transformer with a class token, it is the grid of patch tokens before the last
    attention layer.

    Args:
        encoder: a timm model.
        size: height and width of the images in pixels.

    Yields:
        The identity module, whose output is the feature map, shape (B, F, h, w).

    Raises:
        NotApplicable: if the model does not name the module that computes its last
            feature map.
    """
    identity = nn.Identity()

    def lead(module: nn.Module, args: Any, output: Any) -> Tensor:
        maps, back = _as_map(encoder, output, size)
        return back(identity(maps))

    handle = _last_layer(encoder).register_forward_hook(lead)
    try:
        yield identity
    finally:
        handle.remove()


def _last_layer(encoder: nn.Module) -> nn.Module:
    """Return the module whose output is the last feature map."""
    model: Any = encoder
    if hasattr(encoder, 'num_prefix_tokens') and hasattr(encoder, 'blocks'):
        norm: nn.Module = model.blocks[-1].norm1
        return norm
    try:
        return encoder.get_submodule(model.feature_info[-1]['module'])
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise NotApplicable(
            "encoder must have timm's feature_info with the module of its last feature "
            f'map, got {type(encoder).__name__}; choose another timm model'
        ) from error


def _as_map(
    encoder: nn.Module, output: Any, size: tuple[int, ...]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Convert a module's output to a map, shape (B, F, h, w); also return the inverse."""
    model: Any = encoder
    if isinstance(output, Tensor) and output.ndim == 4:
        if is_channels_last(encoder):
            return output.permute(0, 3, 1, 2), lambda x: x.permute(0, 2, 3, 1)
        return output, lambda x: x
    if (
        isinstance(output, Tensor)
        and output.ndim == 3
        and hasattr(model, 'patch_embed')
    ):
        count = int(getattr(model, 'num_prefix_tokens', 0))
        prefix, tokens = output[:, :count], output[:, count:]
        grid = model.patch_embed.dynamic_feat_size(size)
        maps = tokens.transpose(1, 2).unflatten(2, grid)
        return maps, lambda x: torch.cat([prefix, x.flatten(2).transpose(1, 2)], 1)
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    raise NotApplicable(
        f'encoder must output a feature map or tokens, got {found} from '
        f'{type(encoder).__name__}; choose another timm model'
    )
