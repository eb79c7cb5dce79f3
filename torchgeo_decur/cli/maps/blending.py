"""Blend overlapping windows of a scene into seamless strips."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float32]


def blending_weights(height: int, width: int) -> Floats:
    """Compute blending weights for a window, which decrease toward its border.

    Along each axis, the weights are one period of a raised cosine.

    Args:
        height: height of the window in cells.
        width: width of the window in cells.

    Returns:
        Positive weights, shape (H, W).

    Example:
        >>> blending_weights(1, 4).round(2)
        array([[0.15, 0.85, 0.85, 0.15]], dtype=float32)
    """
    sides = (np.sin((np.arange(n) + 0.5) / n * np.pi) ** 2 for n in (height, width))
    return cast(Floats, np.outer(*sides).astype(np.float32))


class BlendingBuffer:
    """Buffer for weighted sums of overlapping windows, one row of windows at a time.

    Args:
        groups: number of channels in each group. Channels of a group share a validity
            mask.
        height: height of a window in cells.
        width: width of the block in cells.
    """

    def __init__(self, groups: Sequence[int], height: int, width: int) -> None:
        """Initialize a new BlendingBuffer instance."""
        self.top = 0
        self.ends = np.cumsum([0, *groups])
        self.sums = np.zeros((self.ends[-1], height, width), np.float32)
        self.weights = np.zeros((len(groups), height, width), np.float32)

    def move(self, top: int) -> None:
        """Move the buffer down and discard the rows above it.

        Args:
            top: new first row of the buffer in the scene.
        """
        gone, self.top = top - self.top, top
        for x in (self.sums, self.weights):
            kept = max(x.shape[1] - gone, 0)
            if gone:
                x[:, :kept] = x[:, x.shape[1] - kept :]
                x[:, kept:] = 0

    def add(self, values: Floats, weights: Floats, column: int) -> None:
        """Add a window that starts at the first row of the buffer.

        Args:
            values: channels of the window, shape (C, H, W).
            weights: cell weights for each channel group, shape (G, H, W), with 0 for cells
                without data.
            column: first column of the window relative to the block. The window may
                extend beyond the block.
        """
        width = self.sums.shape[2]
        start, stop = max(column, 0), min(column + values.shape[2], width)
        if start >= stop:
            return
        inside = slice(start - column, stop - column)
        values, weights = values[..., inside], weights[..., inside]
        self.weights[..., start:stop] += weights
        for group, weight in enumerate(weights):
            channels = slice(*self.ends[group : group + 2])
            # Values of cells without data may be NaN.
            weighted = np.where(weight > 0, values[channels] * weight, 0)
            self.sums[channels, :, start:stop] += weighted

    def means(self, rows: int) -> Floats:
        """Return the weighted means of the first rows of the buffer.

        Args:
            rows: number of rows.

        Returns:
            Means, shape (C, rows, W), with NaN for cells without data.
        """
        means = np.full_like(self.sums[:, :rows], np.nan)
        for group, weight in enumerate(self.weights[:, :rows]):
            channels = slice(*self.ends[group : group + 2])
            np.divide(
                self.sums[channels, :rows],
                weight,
                out=means[channels],
                where=np.broadcast_to(weight > 0, means[channels].shape),
            )
        return means
