"""Pictures of images: what a person sees of bands in their units."""

from typing import Any, Literal

import numpy as np
import torch
from matplotlib.colors import LightSource
from numpy.typing import NDArray
from torch import Tensor

from .modality import Modality

# Bands of a colour picture, in the order red, green, blue.
_COMPOSITES = (('B4', 'B3', 'B2'), ('R', 'G', 'B'))


def render(
    image: Tensor, modality: Modality, radar: Literal['grey', 'colour'] = 'grey'
) -> tuple[NDArray[Any], str]:
    """Turn an image into a picture.

    Radar in dB is grey (VV where there is one), or VV, VH and their ratio VV - VH in red,
    green and blue; optics are a colour picture, elevation is hill-shaded, and depth of
    one band is left in one. All is stretched from the 2nd to the 98th percentile; bytes
    keep their range.

    Args:
        image: values in the unit of the modality, shape (C, H, W).
        modality: what it is.
        radar: 'grey' or 'colour'. Without VV and VH in dB radar is grey.

    Returns:
        Picture in [0, 1], shape (H, W) or (H, W, 3), and what of the image it shows.

    Raises:
        ValueError: if the image has not the bands of the modality.

    Example:
        >>> from torchgeo_decur.modalities import MODALITIES
        >>> image, shown = render(torch.rand(13, 8, 9), MODALITIES['sentinel2_l1c'])
        >>> image.shape, shown
        ((8, 9, 3), 'B4 B3 B2')
    """
    if image.ndim != 3 or len(image) != modality.channels:
        raise ValueError(
            f'expected {modality.channels} bands {list(modality.bands)}, '
            f'got {len(image) if image.ndim == 3 else tuple(image.shape)}'
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
        # A batch that the datamodule scaled is in [0, 1] already.
        image = (image / (255 if image.max() > 1 else 1)).clamp(0, 1)
    else:
        image = stretch(image)
    return _colour(image), ' '.join(chosen)


def stretch(image: Tensor, low: float = 0.02, high: float = 0.98) -> Tensor:
    """Map each band's range between two quantiles to [0, 1].

    Args:
        image: shape (C, H, W); pixels that are not finite count in no quantile.
        low: lower quantile.
        high: upper quantile.

    Returns:
        The stretched image, same shape, 0 where it is not finite. A band with one value
        alone between its quantiles, such as a saturated one, takes the range of all.
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
    """Light a surface from the north-west.

    Heights are exaggerated so that the steeper slopes (98th percentile) have 45 degrees:
    the shape counts, whatever the unit of the heights and the size of a pixel.

    Args:
        elevation: shape (H, W); pixels that are not finite take the median.

    Returns:
        Grey, shape (H, W), in [0, 1]; 0.5 where there is no slope at all.

    Example:
        >>> ridge = 5 - (torch.arange(11.0) - 5).abs().expand(11, 11)
        >>> shade = hillshade(ridge)
        >>> bool(shade[5, 2] > shade[5, 8])  # the western side is the lit one
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
    # The first row is the northern one.
    light = LightSource(azdeg=315, altdeg=45)
    return np.asarray(light.hillshade(z, vert_exag=1 / steep), np.float32)


def _colour(image: Tensor) -> NDArray[Any]:
    return image.permute(1, 2, 0).numpy()
