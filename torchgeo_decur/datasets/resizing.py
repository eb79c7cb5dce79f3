"""Resize images and masks without changing their extent."""

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F
from torchgeo.datasets.utils import Sample


def resize(image: Tensor, size: int) -> Tensor:
    """Resize an image to a square size by bilinear interpolation.

    Args:
        image: image, shape (C, H, W).
        size: new height and width.

    Returns:
        The resized image, shape (C, size, size), not rounded to integers.
    """
    if image.shape[-2:] == (size, size):
        return image
    return F.interpolate(image[None], (size, size), mode='bilinear')[0]


def resize_frame(
    sample: Sample, sizes: Mapping[str, Sequence[int] | None], smooth: Collection[str]
) -> Sample:
    """Resize the images and the mask of a frame.

    Args:
        sample: images of shape (C, H, W), and optionally a mask of shape (H, W).
        sizes: new height and width by key, or None to keep the size.
        smooth: keys of images to interpolate with antialiasing. All other keys use
            nearest-neighbor resampling so that classes or missing pixels do not mix with
            other values.

    Returns:
        A new sample with the resized images and mask.
    """
    out = dict(sample)
    for key, x in sample.items():
        size = sizes[key]
        if size is None or tuple(x.shape[-2:]) == tuple(size):
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
    """Check that a size has two positive numbers and return it as a tuple.

    Args:
        size: height and width, or None.

    Returns:
        Height and width, or None.

    Raises:
        ValueError: if the size is invalid.
    """
    if size is None:
        return None
    if not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1:
        raise ValueError(
            f'size must be a positive height and width, such as [256, 256], got {size}'
        )
    return size[0], size[1]
