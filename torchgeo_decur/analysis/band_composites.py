"""Rendering of model inputs, which are images in the unit interval."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..modalities import Modality, render


def composite(image: Tensor, modality: Modality) -> NDArray[Any]:
    """Render an image in [0, 1] for display.

    Optical images become color composites. VV and VH in dB become a false-color
    composite of VV, VH and their ratio. Other radar images are grayscale, and elevation
    is hillshaded; see :func:`~torchgeo_decur.modalities.render`.

    Args:
        image: image in [0, 1], shape (C, H, W).
        modality: description of the modality.

    Returns:
        Rendered image in [0, 1], shape (H, W) or (H, W, 3).

    Raises:
        ValueError: if the image does not have all bands of the modality.

    Example:
        >>> from torchgeo_decur.modalities import MODALITIES
        >>> composite(torch.rand(2, 8, 9), MODALITIES['sentinel1_grd']).shape
        (8, 9, 3)
    """
    return composite_and_bands(image, modality)[0]


def composite_and_bands(image: Tensor, modality: Modality) -> tuple[NDArray[Any], str]:
    """Render an image in [0, 1] and return it with the names of the shown bands.

    Args:
        image: image in [0, 1], shape (C, H, W).
        modality: description of the modality.

    Returns:
        The rendered image, as from :func:`composite`, and the names of its bands.
    """
    image = image.detach().cpu().float()
    if modality.kind == 'sar' and modality.limits and len(image) == modality.channels:
        # The ratio of VV and VH needs backscatter in dB.
        low, high = (torch.tensor(x)[:, None, None] for x in modality.limits)
        image = low + image * (high - low)
    return render(image, modality, radar='colour')
