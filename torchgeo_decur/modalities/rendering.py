"""Render images in physical units for display."""

from typing import Any, Literal

import numpy as np
import torch
from matplotlib.colors import LightSource
from numpy.typing import NDArray
from torch import Tensor

from .modality import Modality

# Bands of color composites, in the order red, green, blue.
_COMPOSITES = (('B4', 'B3', 'B2'), ('R', 'G', 'B'))


def render(
    image: Tensor, modality: Modality, radar: Literal['grey', 'colour'] = 'grey'
) -> tuple[NDArray[Any], str]:
    """Render an image for display.

    Gray radar images show VV if present. Color radar images show VV, VH and their ratio
    VV - VH in red, green and blue. Optical images become color composites, elevation is
    hillshaded, and depth is rendered in gray. Except for bytes, values are stretched
    between the 2nd and 98th percentiles.

    Args:
        image: values in the unit of the modality, shape (C, H, W).
        modality: metadata of the modality.
        radar: 'grey' or 'colour'. Radar without VV and VH in dB is always gray.

    Returns:
        The rendered image in [0, 1], shape (H, W) or (H, W, 3), and the names of the
        rendered bands.

    Raises:
        ValueError: if the shape of the image does not match the bands of the modality.

    Example:
        >>> from torchgeo_decur.modalities import MODALITIES
        >>> image, shown = render(torch.rand(13, 8, 9), MODALITIES['sentinel2_l1c'])
        >>> image.shape, shown
        ((8, 9, 3), 'B4 B3 B2')
    """
    if image.ndim != 3 or len(image) != modality.channels:
        raise ValueError(
            f'expected {modality.channels} '
            f'{"band" if modality.channels == 1 else "bands"} {list(modality.bands)}, '
            f'found {len(image) if image.ndim == 3 else tuple(image.shape)}; '
            'choose the modality of the image'
        )
    image = image.detach().cpu().float()
    bands = modality.bands
    if modality.kind == 'sar':
        if radar == 'colour' and {'VV', 'VH'} <= set(bands) and modality.unit == 'dB':
            vv, vh = (image[bands.index(b)] for b in ('VV', 'VH'))
            return _colour(stretch(torch.stack([vv, vh, vv - vh]))), 'VV VH VV-VH, dB'
        band = 'VV' if 'VV' in bands else bands[0]
        grey = stretch(image[[bands.index(band)]])[0]
        return grey.numpy(), f'{band}, {modality.unit}'
    if len(bands) < 3:
        shown = f'{bands[0]}, {modality.unit}'
        if modality.kind == 'elevation':
            return hillshade(image[0]), shown
        return stretch(image[:1])[0].numpy(), shown
    chosen = next((c for c in _COMPOSITES if set(c) <= set(bands)), bands[:3])
    image = image[[bands.index(b) for b in chosen]]
    if modality.unit == 'uint8':
        # The datamodule may already have scaled the image to [0, 1].
        image = (image / (255 if image.max() > 1 else 1)).clamp(0, 1)
    else:
        image = stretch(image)
    return _colour(image), ' '.join(chosen)


def stretch(image: Tensor, low: float = 0.02, high: float = 0.98) -> Tensor:
    """Stretch each band from the range between two quantiles to [0, 1].

    Args:
        image: image, shape (C, H, W). Quantiles ignore NaN and infinity.
        low: lower quantile.
        high: upper quantile.

    Returns:
        The stretched image, same shape. NaN becomes 0. If both quantiles of a band are
        equal, for example in a saturated band, the range of all bands is used instead.
    """
    limits = torch.tensor([low, high], dtype=image.dtype)
    everything = image[image.isfinite()]
    if not len(everything):
        return torch.zeros_like(image)
    bands = []
    for band in image:
        finite = band[band.isfinite()]
        a, b = torch.quantile(finite if len(finite) else everything, limits)
        if a == b:
            a, b = everything.aminmax()
        bands.append(((band - a) / (b - a).clamp(min=1e-12)).clamp(0, 1).nan_to_num(0))
    return torch.stack(bands)


def hillshade(elevation: Tensor) -> NDArray[Any]:
    """Compute a hillshade with light from the northwest.

    Heights are exaggerated so that steep slopes (98th percentile) have an angle of 45
    degrees. The result does not depend on the unit of the heights or the pixel size.

    Args:
        elevation: heights, shape (H, W); NaN and infinity become the median.

    Returns:
        Gray values in [0, 1], shape (H, W). A flat surface is 0.5 everywhere.

    Example:
        >>> ridge = 5 - (torch.arange(11.0) - 5).abs().expand(11, 11)
        >>> shade = hillshade(ridge)
        >>> bool(shade[5, 2] > shade[5, 8])  # the western side is illuminated
        True
    """
    z = elevation.detach().cpu().double().numpy()
    finite = np.isfinite(z)
    flat = np.full(z.shape, 0.5, np.float32)
    if not finite.any() or min(z.shape) < 2:
        return flat
    z = np.where(finite, z, np.median(z[finite]))
    steep = np.quantile(np.hypot(*np.gradient(z)), 0.98)
    if steep <= 1e-9 * max(1.0, np.abs(z).max()):
        return flat
    # The first row is the northern edge.
    light = LightSource(azdeg=315, altdeg=45)
    return np.asarray(light.hillshade(z, vert_exag=1 / steep), np.float32)


def _colour(image: Tensor) -> NDArray[Any]:
    return image.permute(1, 2, 0).numpy()
