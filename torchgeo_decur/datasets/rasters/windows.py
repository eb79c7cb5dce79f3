"""Windows into rasters that were joined: where they lie, and what they hold."""

from collections.abc import Sequence
from typing import Any, cast

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
from shapely.geometry.base import BaseGeometry
from torch.utils.data import Dataset
from torchgeo.datasets.utils import GeoSlice, Sample

from .join import JoinedRasters, Window, outline
from .window_positions import (
    Integers,
    Positions,
    clear_of_others,
    grid_positions,
    random_positions,
)

TRIES = 64
# Pixels that are read at once to look for nodata.
BLOCK = 1024


class RandomWindows(Dataset[Sample]):
    """Random windows inside an area, a function of seed and epoch alone.

    A window with too much nodata is replaced by the next usable one of a sequence that
    depends on seed, epoch and index, so that the length of an epoch stays the same.

    Args:
        rasters: what to read.
        area: where windows lie, wholly, in any of its parts. Every position is equally
            likely, so that a chip as large as a window counts as one.
        length: number of windows of an epoch.
        seed: seed of the draws.

    Raises:
        ValueError: if the area is too small for a window.
    """

    def __init__(
        self, rasters: JoinedRasters, area: BaseGeometry, length: int, seed: int = 0
    ) -> None:
        """Initialize a new RandomWindows instance."""
        self.rasters = rasters
        self.area = area
        self.length = length
        self.seed = seed
        # Shared memory: workers that persist see the epoch of the main process.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._drawn: tuple[int, list[GeoSlice]] = (-1, [])
        self._positions = random_positions(rasters, area)
        if not self._positions:
            raise ValueError(too_small(rasters, area))

    def __len__(self) -> int:
        """Number of windows of an epoch."""
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Choose the windows of an epoch.

        Args:
            epoch: number of the epoch, from 0.
        """
        self._epoch.fill_(epoch)

    def windows(self) -> list[GeoSlice]:
        """Windows of the epoch, before those with too much nodata are replaced."""
        epoch = int(self._epoch)
        if self._drawn[0] != epoch:
            self._drawn = (epoch, self._draw(self.length, (self.seed, epoch)))
        return self._drawn[1]

    def __getitem__(self, index: int) -> Sample:
        """Read a window of the epoch, or its replacement.

        Args:
            index: number of the window.

        Returns:
            As :meth:`JoinedRasters.read`.

        Raises:
            IndexError: if there is no such window.
            ValueError: if no usable window is found in its stead.
        """
        return self.fetch(index)[0]

    def fetch(self, index: int) -> tuple[Sample, int]:
        """Read a window, and count those that were skipped before it."""
        if not 0 <= index < self.length:
            raise IndexError(f'index must be in [0, {self.length}), got {index}')
        shares: list[dict[str, float]] = []
        epoch = int(self._epoch)
        windows = [self.windows()[index]]
        while True:
            for window in windows:
                sample = self.rasters.read(window)
                if self.rasters.usable(sample):
                    return sample, len(shares)
                shares.append(self.rasters.missing(sample))
            if len(windows) > 1:
                break
            windows = self._draw(TRIES, (self.seed, epoch, index))
        mean = {m: round(sum(s[m] for s in shares) / len(shares), 3) for m in shares[0]}
        raise ValueError(
            f'windows must have at most {self.rasters.max_nodata:.0%} nodata in each '
            f'modality, but {len(shares)} random windows in a row have more (on average '
            f'{mean}, where nodata is {dict(self.rasters.nodata)}); correct nodata, '
            'raise max_nodata or lower patch_size'
        )

    def _draw(self, length: int, seed: Sequence[int]) -> list[GeoSlice]:
        return self._positions.draw(length, np.random.default_rng(list(seed)))


class GridWindows(Dataset[Sample]):
    """Windows side by side over an area.

    Args:
        rasters: what to read.
        area: what the windows cover.
        whole: True for windows that cover all of the area, beyond its border too, and
            are kept whatever they hold (to predict a map); False for windows inside
            the bounding box of each part, less those with too much nodata.

    Attributes:
        windows: the windows.
        skipped: number of windows that were left out.
    """

    def __init__(
        self, rasters: JoinedRasters, area: BaseGeometry, whole: bool = False
    ) -> None:
        """Initialize a new GridWindows instance."""
        self.rasters = rasters
        positions = grid_positions(rasters, area, whole)
        numbers = _covered(rasters, positions, area, whole)
        usable = numbers if whole else _usable(rasters, positions, numbers)
        self.windows = positions.windows(*positions.place(usable))
        self.skipped = len(numbers) - len(self.windows)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.windows)

    def __getitem__(self, index: int) -> Sample:
        """Read a window.

        Args:
            index: number of the window.

        Returns:
            As :meth:`JoinedRasters.read`.
        """
        return self.rasters.read(self.windows[index])

    @property
    def crs(self) -> Any:
        """CRS of the windows, that of the first raster."""
        return self.rasters.joined.crs

    def places(self) -> gpd.GeoDataFrame:
        """Say where and when each window is.

        Returns:
            One row for each window: its outline, and ``date``, the beginning of the time
            that all rasters share, or missing where files have no dates.
        """
        whole = self.rasters.joined.index.index[0].left
        starts = []
        for window in self.windows:
            _, _, *time = cast(Window, window)
            start = time[0].start if time else whole
            # TorchGeo's beginning of time stands for files without dates.
            starts.append(None if start.year == pd.Timestamp.min.year else start)
        columns = {'date': pd.to_datetime(starts)}
        boxes = [outline(window) for window in self.windows]
        return gpd.GeoDataFrame(columns, geometry=boxes, crs=self.crs)


def too_small(rasters: JoinedRasters, area: BaseGeometry, name: str = 'area') -> str:
    """Describe an area in which no window fits.

    Args:
        rasters: what to read.
        area: the area.
        name: what it is called.

    Returns:
        What patch_size must be, and the size of the largest part of the area.
    """
    parts = shapely.get_parts(area)
    width, height = rasters.pixels(max(parts, key=shapely.area, default=area))
    where = (
        f'the {name} of {width} x {height} pixels'
        if len(parts) < 2
        else f'a part of the {name}, of whose {len(parts)} separate parts the largest '
        f'has {width} x {height} pixels'
    )
    return f'patch_size must fit in {where} (width x height), got {rasters.patch_size}'


def _covered(
    rasters: JoinedRasters, positions: Positions, area: BaseGeometry, whole: bool
) -> Integers:
    """Number the positions that do not stick out of a part too far."""
    part, bounds = positions.place(np.arange(len(positions)))
    kept = positions.inside[part]
    check = np.flatnonzero(~kept)
    boxes = shapely.box(*bounds[check].T)
    shared = shapely.intersection(positions.parts[part[check]], boxes)
    filled = shapely.area(shared) / np.prod(rasters.size)
    if whole:
        # Rounding errors are no part of an area.
        kept[check] = filled > 0.25 / rasters.patch_size**2
    else:
        clear = clear_of_others(rasters, area, boxes)
        kept[check] = (filled >= 1 - rasters.max_outside - 1e-6) & clear
    return np.flatnonzero(kept)


def _usable(
    rasters: JoinedRasters, positions: Positions, numbers: Integers
) -> Integers:
    """Choose the positions whose windows do not miss too many pixels.

    Blocks of windows are read at once. A window that is whole or empty is decided by
    its block, another is read by itself, since resampling ends at its border.
    """
    marked = rasters.marked
    if not marked or not len(numbers):
        return numbers
    part, bounds = positions.place(numbers)
    patch, size = rasters.patch_size, np.array(rasters.size)
    cells = np.round((bounds[:, :2] - positions.corners[part]) / size).astype(np.int64)
    side = max(1, BLOCK // patch)
    keys = np.column_stack([part, cells // side])
    _, block = np.unique(keys, axis=0, return_inverse=True)
    kept = np.zeros(len(numbers), dtype=bool)
    for members in np.split(
        np.argsort(block, kind='stable'), np.cumsum(np.bincount(block))[:-1]
    ):
        low, high = cells[members].min(0), cells[members].max(0) + 1
        corner = positions.corners[part[members[:1]]] + low * size
        box = np.concatenate([corner, corner + (high - low) * size], axis=1)
        [window] = positions.windows(part[members[:1]], box)
        columns, rows = (high - low).tolist()
        shares = rasters.missing_by_patch(rasters.read(window, marked), rows, columns)
        for i, (column, row) in zip(members, (cells[members] - low), strict=True):
            share = shares[rows - 1 - row, column]
            if 0 < share < 1:
                [window] = positions.windows(part[[i]], bounds[[i]])
                kept[i] = rasters.usable(rasters.read(window, marked))
            else:
                kept[i] = share <= rasters.max_nodata
    return numbers[kept]
