"""Pictures of what a model sees: images in the unit interval."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..modalities import Modality, render


def composite(image: Tensor, modality: Modality) -> NDArray[Any]:
    """Turn an image in [0, 1] into a picture.

    Optics are a colour picture stretched by percentiles, VV and VH in dB a false-colour
    one (VV, VH and their ratio), other radar grey, elevation hill-shaded; see
    :func:`~torchgeo_decur.modalities.render`.

    Args:
        image: an image as a task takes it, in [0, 1], shape (C, H, W).
        modality: what it is.

    Returns:
        Picture in [0, 1], shape (H, W) or (H, W, 3).

    Raises:
        ValueError: if the image has not the bands of the modality.

    Example:
        >>> from torchgeo_decur.modalities import MODALITIES
        >>> composite(torch.rand(2, 8, 9), MODALITIES['sentinel1_grd']).shape
        (8, 9, 3)
    """
    return composite_and_bands(image, modality)[0]


def composite_and_bands(image: Tensor, modality: Modality) -> tuple[NDArray[Any], str]:
    """Turn an image in [0, 1] into a picture, and say what it shows.

    Args:
        image: an image as a task takes it, in [0, 1], shape (C, H, W).
        modality: what it is.

    Returns:
        What :func:`composite` returns, and the bands that it shows.
    """
    image = image.detach().cpu().float()
    if modality.kind == 'sar' and modality.limits and len(image) == modality.channels:
        # A ratio is one of backscatter, not of parts of the unit interval. Optics stay
        # there, where saturated bands are equally bright.
        low, high = (torch.tensor(x)[:, None, None] for x in modality.limits)
        image = low + image * (high - low)
    return render(image, modality, radar='colour')
