"""Compute edge maps that are comparable across different types of sensors."""

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter, gaussian_gradient_magnitude

type Map = NDArray[np.float32]

# Standard deviations of the Gaussian filters in pixels. Speckle requires at least 2.
_EDGE, _BACKGROUND = 2.0, 8.0
# Largest height and width of a map.
_SIDE = 256


def edge_map(image: NDArray[np.float32]) -> Map:
    """Compute edge strength relative to the surrounding pixels.

    Edges of the same object differ in sign and strength between sensors, but not in
    position. All bands have the same weight.

    Args:
        image: one image, shape (C, H, W); missing pixels are NaN.

    Returns:
        Edge map of the image center, shape (H, W), at most 256 x 256 pixels. A window
        function tapers the map to 0 at its border.
    """
    height, width = (min(n, _SIDE) for n in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    image = image[:, top : top + height, left : left + width]
    missing = ~np.isfinite(image).all(0)
    strength = np.zeros((height, width))
    for band in image:
        known = band[~missing]
        filled = np.where(missing, np.median(known) if known.size else 0.0, band)
        edges = gaussian_gradient_magnitude(filled.astype(np.float64), _EDGE)
        if (mean := edges[~missing].mean() if known.size else 0.0) > 0:
            strength += edges / mean
    if not strength.any():
        return np.zeros((height, width), np.float32)
    out = np.log(strength + 0.1 * strength.mean())
    out -= gaussian_filter(out, _BACKGROUND)
    if missing.any():
        # The outline of missing pixels would appear as an edge for every sensor.
        rim = binary_dilation(missing, iterations=int(2 * _EDGE))
        out[rim] = out[~rim].mean() if not rim.all() else 0.0
    out -= out.mean()
    window = np.hanning(height)[:, None] * np.hanning(width)
    return cast(Map, (out * window).astype(np.float32))
