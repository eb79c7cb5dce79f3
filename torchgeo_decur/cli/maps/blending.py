"""Blend overlapping windows of a scene to strips without seams."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float32]


def blending_weights(height: int, width: int) -> Floats:
    """Return the weights of the cells of a window, which fall to its border.

    Along each side, the weights are one period of a raised cosine.

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
    """Weighted sums of the windows of a block, for one row of windows at a time.

    Args:
        groups: number of channels that share a mask of valid cells, for each group.
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
        """Move the buffer down, and drop the rows above.

        Args:
            top: first row of the buffer in the scene.
        """
        gone, self.top = top - self.top, top
        for x in (self.sums, self.weights):
            kept = max(x.shape[1] - gone, 0)
            if gone:
                x[:, :kept] = x[:, x.shape[1] - kept :]
                x[:, kept:] = 0

    def add(self, values: Floats, weights: Floats, column: int) -> None:
        """Add a window, whose first row is the first row of the buffer.

        Args:
            values: channels of the window, shape (C, H, W).
            weights: weight of each cell for each group of channels, 0 for cells without
                data, shape (G, H, W).
            column: first column of the window in the block; it may be outside.
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
            # Values without data may be NaN.
            weighted = np.where(weight > 0, values[channels] * weight, 0)
            self.sums[channels, :, start:stop] += weighted

    def means(self, rows: int) -> Floats:
        """Return the weighted means of the first rows.

        Args:
            rows: number of rows.

        Returns:
            Means, NaN for cells without data, shape (C, rows, W).
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
