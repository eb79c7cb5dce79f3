"""Kornia's operations without what they waste, and the chain that runs them."""

import math
from collections.abc import Mapping
from typing import Any, Self

import kornia.augmentation as K
import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import adjust_hue, adjust_saturation_with_gray_subtraction
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from .augmentation import Augmentation

# Numbers that a CPU works on together: they stay in its cache, and their memory is used
# again, which a whole batch of 13 bands of 224 x 224 pixels does not allow.
_TOGETHER = 2**20


class AugmentationChain(Augmentation, nn.Sequential):
    """Crop, operations on values, and flips, each on the samples it was drawn for.

    Draws and results are those of the operations one after the other, as in
    ``kornia.augmentation.AugmentationSequential``, up to rounding. But crop and flips,
    which commute with all others, are one resampling; other operations see no sample
    that they were not drawn for, and work in place; and the result is laid out
    channels last, as convolutions take it. Draws are made on the CPU, whatever the
    device of the images, so that no device has to be waited for.

    Args:
        crop: how the images are cropped; its probability is 1.
        steps: operations on values, in order, that keep the size of images in [0, 1].
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.

    Example:
        >>> chain = AugmentationChain(K.RandomResizedCrop((32, 32)), [K.RandomSolarize()], 0.5, 0.5)
        >>> chain(torch.rand(4, 13, 64, 64)).shape
        torch.Size([4, 13, 32, 32])
    """

    def __init__(
        self,
        crop: K.RandomResizedCrop,
        steps: list[K.IntensityAugmentationBase2D],
        hflip: float,
        vflip: float,
    ) -> None:
        """Initialize a new AugmentationChain instance."""
        flips = K.RandomHorizontalFlip(p=hflip), K.RandomVerticalFlip(p=vflip)
        super().__init__(crop, *steps, *flips)

    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        """Augment images.

        Args:
            input: images in [0, 1], shape (B, C, H, W).

        Returns:
            Images in [0, 1], shape (B, C, ``size``, ``size``), channels last.
        """
        operations: list[Any] = list(self)
        crop, *steps, hflip, vflip = operations
        shape = (len(input), input.shape[1], *crop.flags['size'])
        box = crop.forward_parameters(input.shape)['src']
        draws = [step.forward_parameters(shape) for step in steps]
        flipped = [
            flip.forward_parameters(shape)['batch_prob'] for flip in (hflip, vflip)
        ]
        grid = _grid(box, flipped, input, shape[2:])
        result = torch.empty(
            shape,
            dtype=input.dtype,
            device=input.device,
            memory_format=torch.channels_last,
        )
        together = len(input)
        if input.device.type == 'cpu':
            numbers = math.prod(shape[1:])
            together = max(_TOGETHER // numbers, torch.get_num_threads())
        for start in range(0, len(input), together):
            part = slice(start, start + together)
            x = grid_sample(
                input[part], grid[part], padding_mode='border', align_corners=True
            )
            for step, drawn in zip(steps, draws, strict=True):
                x = _apply(step, x, {k: v[part] for k, v in drawn.items()})
            result[part] = x
        return result

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        # Kornia would draw on the device, and in the precision, of the images.
        return self


class RandomBandMean(K.IntensityAugmentationBase2D):
    """Replace all bands by their mean, for a random part of the batch.

    The counterpart of a random grey image for any number of bands.

    Args:
        p: probability for each sample.

    Example:
        >>> RandomBandMean(p=1.0)(torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)).flatten()
        tensor([0.5000, 0.5000])
    """

    def __init__(self, p: float = 0.2) -> None:
        """Initialize a new RandomBandMean instance."""
        super().__init__(p=p)

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Average the bands.

        Args:
            input: images, shape (B, C, H, W).
            params: drawn parameters, none here.
            flags: fixed parameters, none here.
            transform: geometric transformation, none here.

        Returns:
            Images with equal bands, same shape.
        """
        return input.mean(dim=-3, keepdim=True).expand(input.shape)


def jitter_(x: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """Change brightness, contrast, saturation and hue in place, as Kornia's ColorJitter.

    Args:
        x: images in [0, 1], shape (B, C, H, W); changed.
        drawn: ``brightness_factor``, ``contrast_factor``, ``saturation_factor`` and
            ``hue_factor`` of each sample, shape (B,), on the CPU. The last two change
            images of red, green and blue alone, and only where they are not neutral.

    Returns:
        The images.

    Example:
        >>> names = ('brightness', 'contrast', 'saturation', 'hue')
        >>> drawn = dict(zip((f'{n}_factor' for n in names), torch.tensor([[2.0], [1], [1], [0]])))
        >>> jitter_(torch.tensor([0.25, 0.75]).reshape(1, 2, 1, 1), drawn).flatten()
        tensor([0.5000, 1.0000])
    """
    names = ('brightness', 'contrast', 'saturation', 'hue')
    factors = [drawn[f'{name}_factor'] for name in names]
    brightness, contrast = (
        f.to(x.device, x.dtype, non_blocking=True)[:, None, None, None]
        for f in factors[:2]
    )
    x.mul_(brightness).clamp_(0, 1)
    mean = x.mean(dim=(2, 3), keepdim=True)
    mean = rgb_to_grayscale(mean) if x.shape[1] == 3 else mean.mean(dim=1, keepdim=True)
    x.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    if (factors[2] != 1).any():
        x = adjust_saturation_with_gray_subtraction(x, factors[2])
    if (factors[3] != 0).any():
        x = adjust_hue(x, 2 * torch.pi * factors[3])
    return x


def _apply(step: Any, x: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """Apply an operation to the samples that it was drawn for; may change the images."""
    chosen = (drawn['batch_prob'] > 0.5).nonzero()[:, 0]
    if len(chosen) == 0:
        return x
    everywhere = len(chosen) == len(x)
    part = x if everywhere else x[chosen]
    values = {k: v[chosen] for k, v in drawn.items() if len(v) == len(x)}
    if isinstance(step, K.ColorJitter):
        changed = jitter_(part, values)
    else:
        changed = step.apply_transform(part, values, step.flags)
    if everywhere:
        return changed.contiguous()
    x[chosen] = changed
    return x


def _grid(
    box: Tensor, flipped: list[Tensor], images: Tensor, size: tuple[int, int]
) -> Tensor:
    """Places of the pixels of flipped crops in the images, shape (B, H, W, 2), in [-1, 1].

    Corners of the crop are corners of the result.
    """
    axes = []
    for axis, flip in enumerate(flipped):
        length, extent = size[1 - axis], images.shape[3 - axis]
        first, last = box[:, 0, axis], box[:, 2, axis]
        first, last = (
            torch.where(flip > 0.5, last, first),
            torch.where(flip > 0.5, first, last),
        )
        steps = torch.linspace(0, 1, length)
        place = first[:, None] + (last - first)[:, None] * steps
        axes.append(2 * place / max(extent - 1, 1) - 1)
    columns, rows = (a.to(images.device, images.dtype, non_blocking=True) for a in axes)
    shape = (len(box), *size)
    return torch.stack(
        [columns[:, None].expand(shape), rows[:, :, None].expand(shape)], dim=-1
    )
