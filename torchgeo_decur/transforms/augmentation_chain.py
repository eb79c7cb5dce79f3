"""Fast chain of Kornia operations."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import kornia.augmentation as K
import torch
from kornia.enhance import adjust_hue, adjust_saturation_with_gray_subtraction
from torch import Tensor, nn
from torch.nn.functional import grid_sample

Range = tuple[float, float]
# (height, width) of an image, and (height, width) of its crop.
Grid = tuple[Sequence[int], Sequence[int]]

# Number of values to process at once on a CPU, small enough for its cache.
_VALUES_AT_ONCE = 2**20


class Augmentation(nn.Module, ABC):
    """Base class for augmentations in configs.

    Each call draws new parameters for each sample, so two calls give two views.
    """

    @abstractmethod
    def forward(self, input: Tensor) -> Tensor:
        """Augment images.

        Args:
            input: images in [0, 1], shape (B, C, H, W).

        Returns:
            Images in [0, 1], shape (B, C, H', W').
        """


class AugmentationChain(Augmentation, nn.Sequential):
    """Augmentation that crops images, changes their values and flips them.

    For a given seed, the result equals ``kornia.augmentation.AugmentationSequential`` with
    the same operations, up to rounding. This chain is faster:

    - The crop and flips commute with intensity operations, so one resampling step crops and flips.
    - Each operation processes only its selected samples, in place.
    - The result is in channels-last memory format, which suits convolutions.
    - Parameters are drawn on the CPU and copied in one asynchronous transfer.

    Parameters are drawn in float32, and images are augmented in at least float32.

    Args:
        crop: crop of the images, always applied.
        steps: intensity operations on images in [0, 1], in order. They must not change the
            size of the images.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.

    Raises:
        ValueError: if the crop size is too small for the kernel of a blur.

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

        Returns:
            Images in [0, 1] with the size of the crop, shape (B, C, H', W'), channels last,
            with the dtype of the input.

        Raises:
            ValueError: if saturation or hue is not 0 and images do not have 3 bands.
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
            together = max(_VALUES_AT_ONCE // numbers, torch.get_num_threads())
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
        # Ignore device and dtype, because Kornia would draw parameters with them.
        return self


class RandomBandMean(K.IntensityAugmentationBase2D):
    """Augmentation that replaces all bands by their mean in random samples.

    This generalizes random grayscale to any number of bands.

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
        """Replace all bands by their mean.

        Args:
            input: images, shape (B, C, H, W).
            params: drawn parameters, not used.
            flags: fixed parameters, not used.
            transform: geometric transformation, not used.

        Returns:
            Images with equal bands, same shape.
        """
        return input.mean(dim=-3, keepdim=True).expand(input.shape)


class RandomColorJitter(K.ColorJitter):  # type: ignore[misc]
    """Augmentation that changes brightness, contrast, saturation and hue, in this order.

    Contrast is relative to the mean of each band, as in DeCUR. Kornia's ColorJitter uses
    one mean over all bands, so its contrast changes the ratio between bands.

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
        """Jitter a copy of the images.

        Args:
            input: images in [0, 1], shape (B, C, H, W).
            params: drawn factors.
            flags: fixed parameters, not used.
            transform: geometric transformation, not used.

        Returns:
            Jittered images, same shape.
        """
        return jitter_(input.clone(), params)


def jitter_(x: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """Change brightness, contrast, saturation and hue by Kornia's factors, in place.

    Args:
        x: images in [0, 1], shape (B, C, H, W), which are overwritten.
        drawn: ``brightness_factor``, ``contrast_factor``, ``saturation_factor`` and
            ``hue_factor`` of each sample, shape (B,), on the CPU. Saturation and hue
            factors that are not neutral require RGB images.

    Returns:
        Jittered images, same shape. They share memory with ``x`` unless saturation or hue
        changed.

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
    # A single mean over all bands would change the ratio between their means.
    mean = x.mean(dim=(2, 3), keepdim=True)
    x.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    if (factors[2] != 1).any():
        x = adjust_saturation_with_gray_subtraction(x, factors[2])
    if (factors[3] != 0).any():
        x = adjust_hue(x, 2 * torch.pi * factors[3])
    return x


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Set the default dtype to float32 within a context.

    Lightning changes the default dtype during a fit.
    """
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
    grid: Grid | None = None,
) -> list[Tensor]:
    """Compute the sampling positions of columns and rows for flipped crops.

    Args:
        box: corners of the crops in pixels, as drawn by Kornia, shape (B, 4, 2).
        flips: drawn parameters of the horizontal and vertical flips.
        extent: height and width of the images.
        size: height and width of the crops.
        grid: size of another image of the same area and size of its crop, each as height
            and width. The positions then crop the same area from this image. The
            default is ``extent`` and ``size``.

    Returns:
        Normalized positions of the columns, shape (B, W'), and rows, shape (B, H'). As for
        ``grid_sample`` with aligned corners, -1 and 1 are the first and last pixel centers
        of the image.
    """
    own_extent, own_size = grid or (extent, size)
    axes = []
    for axis, flip in enumerate(flips):
        flipped = flip['batch_prob'] > 0.5
        ends = box[:, 0, axis], box[:, 2, axis]
        first, last = torch.where(flipped, *ends[::-1]), torch.where(flipped, *ends)
        pixels, number, own_pixels, own_number = (
            n[1 - axis] for n in (extent, size, own_extent, own_size)
        )
        steps = torch.linspace(0, 1, own_number, dtype=torch.float32)
        if own_number != number:
            # The outer pixel edges of both grids coincide, not the pixel centers.
            centres = torch.arange(own_number, dtype=torch.float32) + 0.5
            steps = (centres * (number / own_number) - 0.5) / max(number - 1, 1)
        place = first[:, None] + (last - first)[:, None] * steps
        if own_pixels != pixels:
            place = (place + 0.5) * (own_pixels / pixels) - 0.5
        axes.append(2 * place / max(own_pixels - 1, 1) - 1)
    return axes


def resample(
    images: Tensor, columns: Tensor, rows: Tensor, mode: str = 'bilinear'
) -> Tensor:
    """Resample images at given columns and rows, in at least float32.

    Half precision cannot represent pixel positions accurately enough.

    Args:
        images: images, shape (B, C, H, W).
        columns: sampling position of each output column, shape (B, W'), in [-1, 1].
        rows: sampling position of each output row, shape (B, H'), in [-1, 1].
        mode: 'bilinear' or 'nearest'.

    Returns:
        Resampled images, shape (B, C, H', W'), in float64 for float64 images and otherwise
        in float32.
    """
    exact = torch.promote_types(images.dtype, torch.float32)
    shape = (len(images), rows.shape[1], columns.shape[1])
    places = columns[:, None].expand(shape), rows[:, :, None].expand(shape)
    grid = torch.stack(places, dim=-1).to(exact)
    return grid_sample(
        images.to(exact), grid, mode, padding_mode='border', align_corners=True
    )


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy small tensors to a device in one asynchronous transfer.

    Args:
        tensors: tensors on the CPU, float32 or integers below 2**24.
        device: target device.

    Returns:
        Tensors on the device, with the same shapes and dtypes.

    Example:
        >>> to_device([torch.tensor([3]), torch.tensor([0.5])], torch.device('cpu'))
        [tensor([3]), tensor([0.5000])]
    """
    if device.type == 'cpu':
        return list(tensors)
    packed = torch.cat([t.flatten().float() for t in tensors])
    # Only CUDA copies safely without blocking; other devices may read freed memory.
    packed = packed.to(device, non_blocking=device.type == 'cuda')
    parts = packed.split([t.numel() for t in tensors])
    return [
        part.view(t.shape).to(t.dtype) for part, t in zip(parts, tensors, strict=True)
    ]


def _chosen(
    drawn: Mapping[str, Tensor], part: slice
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the indices and parameters of the samples to which an operation applies."""
    samples = len(drawn['batch_prob'])
    index = (drawn['batch_prob'][part] > 0.5).nonzero()[:, 0]
    return index, {k: v[part][index] for k, v in drawn.items() if len(v) == samples}


def _apply(step: Any, x: Tensor, index: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """Apply an operation to the indexed samples, in place if possible.

    The index is on the device of the images. The parameters are on the CPU so that
    Kornia can check them without device synchronization.
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
    """Check that the images are large enough for the padding of a blur."""
    least = max(kernel) // 2 + 1
    if min(size) < least:
        raise ValueError(
            f'size must be at least {least} for a blur of {max(kernel)} pixels, got '
            f'{min(size)}; increase size, lower blur_kernel, or set blur to 0'
        )


def _check_colour(drawn: Mapping[str, Tensor], channels: int) -> None:
    """Check that saturation and hue are neutral for images without three bands."""
    if (drawn['saturation_factor'] != 1).any() or (drawn['hue_factor'] != 0).any():
        raise ValueError(
            f'saturation and hue require 3 bands (red, green, blue), got {channels} bands; '
            'set both to 0'
        )
