"""Kornia's operations without what they waste, and the chain that runs them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import kornia.augmentation as K
import torch
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
    channels last, as convolutions take it. Draws are made on the CPU in float32, whatever
    the device and the precision of the images, and reach the device in one copy that
    the host does not wait for. Images of half precision are augmented in float32.

    Args:
        crop: how the images are cropped; its probability is 1.
        steps: operations on values, in order, that keep the size of images in [0, 1].
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.

    Raises:
        ValueError: if the size of the result is too small for a blur.

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
        for step in steps:
            if isinstance(step, K.RandomGaussianBlur) and step.p > 0:
                _check_blur(step.flags['kernel_size'], crop.flags['size'])
        flips = K.RandomHorizontalFlip(p=hflip), K.RandomVerticalFlip(p=vflip)
        super().__init__(crop, *steps, *flips)

    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        """Augment images.

        Args:
            input: images in [0, 1], shape (B, C, H, W).

        Returns:
            Images in [0, 1], shape (B, C, ``size``, ``size``), channels last, of the
            type of the input.

        Raises:
            ValueError: if saturation or hue is to change other bands than red, green
                and blue.
        """
        operations: list[Any] = list(self)
        crop, *steps, hflip, vflip = operations
        shape = (len(input), input.shape[1], *crop.flags['size'])
        with float32_by_default():
            box = crop.forward_parameters(input.shape)['src']
            draws = [step.forward_parameters(shape) for step in steps]
            flips = [flip.forward_parameters(shape) for flip in (hflip, vflip)]
        axes = crop_axes(box, flips, input.shape[2:], shape[2:])
        for step, drawn in zip(steps, draws, strict=True):
            if isinstance(step, RandomColorJitter) and input.shape[1] != 3:
                _check_colour(drawn, input.shape[1])
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
            chosen = [_chosen(drawn, part) for drawn in draws]
            indices = [index for index, _ in chosen]
            host = [*(a[part] for a in axes), *indices]
            columns, rows, *indices = to_device(host, input.device)
            x = resample(input[part], columns, rows)
            for step, index, (_, values) in zip(steps, indices, chosen, strict=True):
                x = _apply(step, x, index, values)
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


class RandomColorJitter(K.ColorJitter):  # type: ignore[misc]
    """Kornia's ColorJitter with contrast about the mean of each band, in this order.

    Kornia takes one mean of all bands, so that its contrast changes their ratio. DeCUR was
    trained with that of each band.

    Example:
        >>> change = RandomColorJitter(contrast=(2.0, 2.0), p=1.0)
        >>> bands = torch.tensor([[0.2, 0.4], [0.5, 0.7]])[None, :, None]
        >>> change(bands)[0, :, 0]
        tensor([[0.1000, 0.5000],
                [0.4000, 0.8000]])
    """

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Change the images.

        Args:
            input: images in [0, 1], shape (B, C, H, W).
            params: drawn factors.
            flags: fixed parameters, none here.
            transform: geometric transformation, none here.

        Returns:
            New images, shape (B, C, H, W).
        """
        return jitter_(input.clone(), params)


def jitter_(x: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """Change brightness, contrast, saturation and hue, by the factors of Kornia's ColorJitter.

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
        f.to(x.device, x.dtype, non_blocking=x.device.type == 'cuda')[
            :, None, None, None
        ]
        for f in factors[:2]
    )
    x.mul_(brightness).clamp_(0, 1)
    # Of each band: one mean of all would change the ratio of the bands' means.
    mean = x.mean(dim=(2, 3), keepdim=True)
    x.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    if (factors[2] != 1).any():
        x = adjust_saturation_with_gray_subtraction(x, factors[2])
    if (factors[3] != 0).any():
        x = adjust_hue(x, 2 * torch.pi * factors[3])
    return x


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Let Kornia draw in float32: Lightning makes the precision of a fit the default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def crop_axes(
    box: Tensor,
    flips: Sequence[Mapping[str, Tensor]],
    extent: Sequence[int],
    size: Sequence[int],
) -> list[Tensor]:
    """Compute where the columns and rows of flipped crops lie in their images.

    Args:
        box: corners of the crops in pixels, as Kornia draws them, shape (B, 4, 2).
        flips: draws of the horizontal and of the vertical flip.
        extent: height and width of the images.
        size: height and width of the crops.

    Returns:
        Places of the columns, shape (B, ``size[1]``), and of the rows, shape
        (B, ``size[0]``), in [-1, 1]. Corners of a crop are corners of its result.
    """
    axes = []
    for axis, flip in enumerate(flips):
        flipped = flip['batch_prob'] > 0.5
        ends = box[:, 0, axis], box[:, 2, axis]
        first, last = torch.where(flipped, *ends[::-1]), torch.where(flipped, *ends)
        steps = torch.linspace(0, 1, size[1 - axis], dtype=torch.float32)
        place = first[:, None] + (last - first)[:, None] * steps
        axes.append(2 * place / max(extent[1 - axis] - 1, 1) - 1)
    return axes


def resample(
    images: Tensor, columns: Tensor, rows: Tensor, mode: str = 'bilinear'
) -> Tensor:
    """Move pixels, in float32 at least: half precision cannot tell their places apart.

    Args:
        images: images, shape (B, C, H, W).
        columns: place of each column of the result, shape (B, W'), in [-1, 1].
        rows: place of each row of the result, shape (B, H').
        mode: 'bilinear' or 'nearest'.

    Returns:
        Images, shape (B, C, H', W'), float32, or float64 where they were.
    """
    exact = torch.promote_types(images.dtype, torch.float32)
    shape = (len(images), rows.shape[1], columns.shape[1])
    places = columns[:, None].expand(shape), rows[:, :, None].expand(shape)
    grid = torch.stack(places, dim=-1).to(exact)
    return grid_sample(
        images.to(exact), grid, mode, padding_mode='border', align_corners=True
    )


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy some numbers to a device in one go that the host does not wait for.

    Args:
        tensors: tensors on the CPU, float32 or of whole numbers below 2**24.
        device: the device.

    Returns:
        Tensors of the same shapes and types on the device.

    Example:
        >>> to_device([torch.tensor([3]), torch.tensor([0.5])], torch.device('cpu'))
        [tensor([3]), tensor([0.5000])]
    """
    if device.type == 'cpu':
        return list(tensors)
    packed = torch.cat([t.flatten().float() for t in tensors])
    # Other devices may read the memory of the host after it was given back.
    packed = packed.to(device, non_blocking=device.type == 'cuda')
    parts = packed.split([t.numel() for t in tensors])
    return [
        part.view(t.shape).to(t.dtype) for part, t in zip(parts, tensors, strict=True)
    ]


def _chosen(
    drawn: Mapping[str, Tensor], part: slice
) -> tuple[Tensor, dict[str, Tensor]]:
    """Choose the samples that an operation was drawn for, and their parameters."""
    samples = len(drawn['batch_prob'])
    index = (drawn['batch_prob'][part] > 0.5).nonzero()[:, 0]
    return index, {k: v[part][index] for k, v in drawn.items() if len(v) == samples}


def _apply(step: Any, x: Tensor, index: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """Apply an operation to samples by their numbers; may change the images.

    The numbers are on the device of the images, and the parameters on the CPU, where Kornia
    checks them without making the device wait.
    """
    if len(index) == 0:
        return x
    everywhere = len(index) == len(x)
    part = x if everywhere else x[index]
    if isinstance(step, RandomColorJitter):
        changed = jitter_(part, values)
    else:
        changed = step.apply_transform(part, values, step.flags)
    if everywhere:
        return changed.contiguous()
    return x.index_copy_(0, index, changed.to(x.dtype))


def _check_blur(kernel: Sequence[int], size: Sequence[int]) -> None:
    least = max(kernel) // 2 + 1
    if min(size) < least:
        raise ValueError(
            f'size must be at least {least} for a blur of {max(kernel)} pixels, got '
            f'{min(size)}; enlarge size, lower blur_kernel, or set blur to 0'
        )


def _check_colour(drawn: Mapping[str, Tensor], channels: int) -> None:
    if (drawn['saturation_factor'] != 1).any() or (drawn['hue_factor'] != 0).any():
        raise ValueError(
            f'saturation and hue need the 3 bands red, green, blue, got {channels} bands; '
            'leave both at 0'
        )
