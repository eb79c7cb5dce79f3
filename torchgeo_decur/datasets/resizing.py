"""Bring images and masks of one extent to one size."""

from collections.abc import Collection, Sequence

from torch import Tensor
from torch.nn import functional as F
from torchgeo.datasets.utils import Sample


def resize(image: Tensor, size: int) -> Tensor:
    """Bring one band to another grid of the same extent, bilinearly.

    Args:
        image: shape (C, H, W).
        size: height and width wanted.

    Returns:
        The image, shape (C, size, size); not rounded to whole numbers.
    """
    if image.shape[-2:] == (size, size):
        return image
    return F.interpolate(image[None], (size, size), mode='bilinear')[0]


def resize_frame(
    sample: Sample, size: Sequence[int] | None, smooth: Collection[str]
) -> Sample:
    """Bring the images and the mask of a frame to one size.

    Args:
        sample: images of shape (C, H, W) and perhaps a mask of shape (H, W).
        size: height and width wanted, or None for those of the sample.
        smooth: keys of images that are interpolated, with antialiasing. All others have
            values that must not be mixed, missing pixels for one: they are sampled.

    Returns:
        A new sample.
    """
    if size is None:
        return sample
    out = dict(sample)
    for key, x in sample.items():
        if tuple(x.shape[-2:]) == tuple(size):
            continue
        stacked = x[None] if x.ndim == 3 else x[None, None].float()
        if key in smooth:
            moved = F.interpolate(
                stacked, tuple(size), mode='bilinear', antialias=True
            ).clamp(x.min(), x.max())
        else:
            moved = F.interpolate(stacked, tuple(size), mode='nearest-exact')
        out[key] = (moved[0] if x.ndim == 3 else moved[0, 0]).to(x.dtype)
    return out


def check_size(size: Sequence[int] | None) -> tuple[int, int] | None:
    """Refuse a size that is not two positive numbers.

    Args:
        size: height and width, or None.

    Returns:
        The size.

    Raises:
        ValueError: if it is not valid.
    """
    if size is None:
        return None
    if not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1:
        raise ValueError(
            f'size must be a positive height and width, such as [256, 256], got {size}'
        )
    return size[0], size[1]
