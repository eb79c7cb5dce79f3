"""Datasets of windows from joined rasters."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from torch.utils.data import Dataset
from torchgeo.datasets.utils import GeoSlice, Sample

from ..epochs import shared_epoch
from .join import JoinedRasters, Window, outline
from .scene import SceneWindows
from .union import RasterUnion
from .window_positions import (
    Integers,
    Positions,
    clear_of_others,
    grid_positions,
    random_positions,
)

TRIES = 64
# Size in pixels of the blocks that are read to count missing pixels.
BLOCK = 1024


class RandomWindows(Dataset[Sample]):
    """Random windows inside an area, determined only by the seed and epoch.

    A window with too many missing pixels is replaced with the next usable window of a
    random sequence. The sequence depends on the seed, epoch and index. The length of an
    epoch is therefore constant.

    Args:
        rasters: joined rasters.
        area: area of the windows. Each window lies inside one of its polygons, at a
            uniformly random position.
        length: number of windows per epoch.
        seed: seed for drawing windows.

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
        self._epoch = shared_epoch()
        self._drawn: tuple[int, list[GeoSlice]] = (-1, [])
        self._positions = random_positions(rasters, area)
        if not self._positions:
            raise ValueError(f'{too_small(rasters, area)}; reduce patch_size')

    def __len__(self) -> int:
        """Return the number of windows per epoch."""
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the windows.

        Args:
            epoch: epoch number, starting at 0.
        """
        self._epoch.fill_(epoch)

    @property
    def availability(self) -> dict[str, NDArray[np.bool_]]:
        """Boolean array per modality that is True for windows with this modality.

        For a union, the availability is estimated from file footprints without nodata.
        """
        if not isinstance(self.rasters, RasterUnion):
            return _whole(self.rasters, self.length)
        return {
            m: self.rasters.estimate_available(m, self.windows())
            for m in self.rasters.leaves
            if m != 'mask'
        }

    def windows(self) -> list[GeoSlice]:
        """Return the windows of the current epoch before any replacement."""
        epoch = int(self._epoch)
        if self._drawn[0] != epoch:
            self._drawn = (epoch, self._draw(self.length, (self.seed, epoch)))
        return self._drawn[1]

    def __getitem__(self, index: int) -> Sample:
        """Read a window of the current epoch, or its replacement.

        Args:
            index: index of the window.

        Returns:
            The sample as in :meth:`JoinedRasters.read`.

        Raises:
            IndexError: if ``index`` is out of range.
            ValueError: if no usable replacement is found.
        """
        return self.fetch(index)[0]

    def fetch(self, index: int) -> tuple[Sample, int]:
        """Read a window or its replacement.

        Args:
            index: index of the window.

        Returns:
            The sample, and the number of skipped windows.
        """
        if not 0 <= index < self.length:
            raise IndexError(f'index must be in [0, {self.length}), got {index}')
        shares: list[dict[str, float]] = []
        epoch = int(self._epoch)
        windows = [self.windows()[index]]
        while True:
            for window in windows:
                sample = self.rasters.read(window)
                if self.rasters.usable(sample, window):
                    return self.rasters.deliver(sample, window), len(shares)
                shares.append(self.rasters.missing(sample, window))
            if len(windows) > 1:
                break
            windows = self._draw(TRIES, (self.seed, epoch, index))
        mean = {m: round(sum(s[m] for s in shares) / len(shares), 3) for m in shares[0]}
        raise ValueError(
            f'windows must have at most {self.rasters.max_nodata:.0%} nodata in each '
            f'modality, but {len(shares)} random windows in a row have more: on average '
            f'{mean}, with nodata {dict(self.rasters.nodata)}; correct the option nodata, '
            'increase max_nodata or reduce patch_size'
        )

    def _draw(self, length: int, seed: Sequence[int]) -> list[GeoSlice]:
        return self._positions.draw(length, np.random.default_rng(list(seed)))


class GridWindows(Dataset[Sample]):
    """Adjacent, non-overlapping windows over an area.

    Args:
        rasters: joined rasters.
        area: area of the windows.
        whole: if True, windows cover the whole area and extend beyond its border, as for
            map prediction. If False, windows lie inside the bounding box of each polygon,
            and windows with too many missing pixels are skipped.

    Attributes:
        windows: slices of x, y and, for dated files, time.
        skipped: number of windows skipped because of missing pixels.
    """

    def __init__(
        self, rasters: JoinedRasters, area: BaseGeometry, whole: bool = False
    ) -> None:
        """Initialize a new GridWindows instance."""
        self.rasters = rasters
        positions = grid_positions(rasters, area, whole)
        numbers = _covered(rasters, positions, area, whole)
        self.whole = whole
        if isinstance(rasters, RasterUnion) and not whole:
            windows = positions.windows(*positions.place(numbers))
            available = rasters.find_available(windows)
            kept = np.any(list(available.values()), axis=0)
            self.windows = [
                w for w, usable in zip(windows, kept, strict=True) if usable
            ]
            self.availability = {m: has[kept] for m, has in available.items()}
        else:
            usable = numbers if whole else _usable(rasters, positions, numbers)
            self.windows = positions.windows(*positions.place(usable))
        self.skipped = len(numbers) - len(self.windows)

    @cached_property
    def availability(self) -> dict[str, NDArray[np.bool_]]:
        """Boolean array per modality that is True for windows with this modality."""
        if isinstance(self.rasters, RasterUnion):
            return self.rasters.find_available(self.windows, self.whole)
        return _whole(self.rasters, len(self))

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.windows)

    def __getitem__(self, index: int) -> Sample:
        """Read a window.

        Args:
            index: index of the window.

        Returns:
            The sample as in :meth:`JoinedRasters.read`.
        """
        window = self.windows[index]
        return self.rasters.deliver(self.rasters.read(window), window, self.whole)

    @property
    def crs(self) -> Any:
        """CRS of the first raster."""
        return self.rasters.joined.crs

    def scene(
        self,
        window: int | None = None,
        overlap: float = 0.25,
        cell: int = 1,
        align: int = 32,
    ) -> SceneWindows:
        """Create overlapping windows for a map of the footprint of the rasters.

        For the arguments, see
        :class:`~torchgeo_decur.datasets.rasters.scene.SceneWindows`.

        Args:
            window: maximum window size in pixels, by default ``patch_size``.
            overlap: minimum overlap as a fraction of the window size.
            cell: size of a map cell in pixels.
            align: alignment of window positions in pixels.

        Returns:
            The windows.
        """
        side = window or self.rasters.patch_size
        return SceneWindows(self.rasters, side, overlap, cell, align)

    def places(self) -> gpd.GeoDataFrame:
        """Return the outline and date of each window.

        Returns:
            Table with one row per window. The column ``date`` is the start of the time
            interval common to all rasters, or null for undated files.
        """
        whole = self.rasters.joined.index.index[0].left
        starts = []
        for window in self.windows:
            _, _, *time = cast(Window, window)
            start = time[0].start if time else whole
            # TorchGeo assigns the earliest pandas timestamp to undated files.
            starts.append(None if start.year == pd.Timestamp.min.year else start)
        columns = {'date': pd.to_datetime(starts)}
        boxes = [outline(window) for window in self.windows]
        return gpd.GeoDataFrame(columns, geometry=boxes, crs=self.crs)


def _whole(rasters: JoinedRasters, number: int) -> dict[str, NDArray[np.bool_]]:
    """Return the availability for windows that each have all modalities."""
    return {m: np.ones(number, bool) for m in rasters.leaves if m != 'mask'}


def too_small(rasters: JoinedRasters, area: BaseGeometry, name: str = 'area') -> str:
    """Format the error message for an area that is too small for a window.

    Args:
        rasters: joined rasters.
        area: area that is too small.
        name: name of the area in the message.

    Returns:
        The message, which includes the size of the largest polygon of the area.
    """
    parts = shapely.get_parts(area)
    width, height = rasters.pixels(max(parts, key=shapely.area, default=area))
    where = (
        f'the {name} of {width} x {height} pixels'
        if len(parts) < 2
        else f'the largest of {len(parts)} polygons of the {name}, {width} x {height} '
        'pixels'
    )
    return (
        f'patch_size must fit into {where} (width x height), got {rasters.patch_size}'
    )


def _covered(
    rasters: JoinedRasters, positions: Positions, area: BaseGeometry, whole: bool
) -> Integers:
    """Return the positions whose windows are sufficiently inside a polygon."""
    part, bounds = positions.place(np.arange(len(positions)))
    kept = positions.inside[part]
    check = np.flatnonzero(~kept)
    boxes = shapely.box(*bounds[check].T)
    shared = shapely.intersection(positions.parts[part[check]], boxes)
    filled = shapely.area(shared) / np.prod(rasters.size)
    if whole:
        # Ignore slivers caused by rounding errors.
        kept[check] = filled > 0.25 / rasters.patch_size**2
    else:
        clear = clear_of_others(rasters, area, boxes)
        kept[check] = (filled >= 1 - rasters.max_outside - 1e-6) & clear
    return np.flatnonzero(kept)


def _usable(
    rasters: JoinedRasters, positions: Positions, numbers: Integers
) -> Integers:
    """Return the positions whose windows do not exceed ``max_nodata`` missing pixels.

    Windows are read in blocks. Windows with some missing pixels are then read again one by
    one, because resampling depends on the border of the window that is read.
    """
    marked = rasters.marked
    if not marked or not len(numbers):
        return numbers
    part, bounds = positions.place(numbers)
    size = np.array(rasters.size)
    cells = np.round((bounds[:, :2] - positions.corners[part]) / size).astype(np.int64)
    side = max(1, BLOCK // max(rasters.patch_sizes.values()))
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
