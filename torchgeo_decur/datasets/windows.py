"""Windows into rasters that were joined: where they lie, and what they hold."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
from shapely import Polygon
from shapely.affinity import translate
from torch.utils.data import Dataset
from torchgeo.datasets.utils import GeoSlice, Sample
from torchgeo.samplers import (
    GriddedPatchSampler,
    RandomPatchSampler,
    RandomTimestampSampler,
    SequentialTimestampSampler,
)

from .joined import JoinedRasters, Window, outline

TRIES = 64


class RandomWindows(Dataset[Sample]):
    """Random windows inside an area, a function of seed and epoch alone.

    A window with too much nodata is replaced by the next usable one of a sequence that
    depends on seed, epoch and index, so that the length of an epoch stays the same.

    Args:
        rasters: what to read.
        area: where windows lie, wholly.
        length: number of windows of an epoch.
        seed: seed of the draws.

    Raises:
        ValueError: if the area is too small for a window.
    """

    def __init__(
        self, rasters: JoinedRasters, area: Polygon, length: int, seed: int = 0
    ) -> None:
        """Initialize a new RandomWindows instance."""
        self.rasters = rasters
        self.area = area
        self.length = length
        self.seed = seed
        # Shared memory: workers that persist see the epoch of the main process.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self._drawn: tuple[int, list[GeoSlice]] = (-1, [])
        self._centres = _centres(rasters, area)
        xres, yres = rasters.joined.res
        self._limit = shapely.buffer(area, 0.01 * min(xres, yres), join_style='mitre')

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
                if not self._limit.covers(outline(window)):
                    continue
                sample = self.rasters.read(window)
                if self.rasters.usable(sample):
                    return sample, len(shares)
                shares.append(self.rasters.missing(sample))
            if len(windows) > 1:
                break
            windows = self._draw(TRIES, (self.seed, epoch, index))
        mean = {
            m: round(sum(s[m] for s in shares) / len(shares), 3)
            for m in (shares or [{}])[0]
        }
        raise ValueError(
            f'windows must have at most {self.rasters.max_nodata:.0%} nodata in each '
            f'modality, but {len(shares)} random windows in a row have more (on average '
            f'{mean}, where nodata is {dict(self.rasters.nodata)}); correct nodata, '
            'raise max_nodata or lower patch_size'
        )

    def _draw(self, length: int, seed: Sequence[int]) -> list[GeoSlice]:
        view = self.rasters.stand_in(self.area)
        generator = np.random.default_rng(list(seed))
        sampler: Any = RandomPatchSampler(
            view, size=self.rasters.patch_size, length=length, generator=generator
        )
        # TorchGeo keeps windows half a diagonal away from the border of the area.
        sampler.series = gpd.GeoSeries([self._centres])
        if self.rasters.dated:
            times = RandomTimestampSampler(self.rasters.joined, generator=generator)
            sampler = sampler @ times
        return [_snapped(self.rasters, window) for window in sampler]


class GridWindows(Dataset[Sample]):
    """Windows side by side over an area.

    Args:
        rasters: what to read.
        area: what the windows cover.
        whole: True for windows that cover all of the area, beyond its border too, and
            are kept whatever they hold (to predict a map); False for windows inside
            its bounding box, less those with too much nodata.

    Attributes:
        windows: the windows.
        skipped: number of windows that were left out.
    """

    def __init__(
        self, rasters: JoinedRasters, area: Polygon, whole: bool = False
    ) -> None:
        """Initialize a new GridWindows instance."""
        self.rasters = rasters
        parts = [area] if whole else list(getattr(area, 'geoms', [area]))
        grid = [w for part in parts for w in _grid(rasters, part, whole)]
        self.windows = [w for w in grid if whole or self._usable(w)]
        self.skipped = len(grid) - len(self.windows)

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

    def _usable(self, window: GeoSlice) -> bool:
        box = outline(window)
        outside = 1 - self.rasters.footprint.intersection(box).area / box.area
        if outside > self.rasters.max_nodata:
            return False
        marked = any(v is not None for m, v in self.rasters.nodata.items())
        return not marked or self.rasters.usable(self.rasters.read(window))


def _centres(rasters: JoinedRasters, area: Polygon) -> Any:
    """Where the centre of a window may be: an area less half a window at its border."""
    dx, dy = (side / 2 for side in rasters.size)
    fits = []
    for part in getattr(area, 'geoms', [area]):
        moved = [
            translate(part, x, y) for x, y in itertools.product((-dx, dx), (-dy, dy))
        ]
        fits.append(shapely.intersection_all(moved))
    inside = shapely.union_all(fits)
    if inside.is_empty:
        width, height = rasters.pixels(area)
        raise ValueError(
            f'patch_size must fit in the area of {width} x {height} pixels '
            f'(width x height), got {rasters.patch_size}'
        )
    # Just under half a pixel, so that the outermost pixels are drawn as others are.
    reach = 0.49 * min(rasters.joined.res)
    return shapely.buffer(inside, reach, cap_style='square', join_style='mitre')


def _grid(rasters: JoinedRasters, area: Polygon, whole: bool) -> list[GeoSlice]:
    if not whole:
        (x0, y0), (xres, yres) = rasters.origin, rasters.joined.res
        west, south, east, north = area.bounds
        columns = math.floor((east - x0) / xres + 1e-6), (west - x0) / xres - 1e-6
        rows = math.floor((north - y0) / yres + 1e-6), (south - y0) / yres - 1e-6
        across = (columns[0] - math.ceil(columns[1])) // rasters.patch_size
        down = (rows[0] - math.ceil(rows[1])) // rasters.patch_size
        if across < 1 or down < 1:
            return []
        east, north = x0 + columns[0] * xres, y0 + rows[0] * yres
        width, height = rasters.size
        area = shapely.box(east - across * width, north - down * height, east, north)
    view = rasters.stand_in(area)
    # Rounding errors must not add a column, which would shift the others.
    roi = area if whole else area.buffer(-min(rasters.joined.res) / 4, join_style=2)
    sampler: Any = GriddedPatchSampler(view, size=rasters.patch_size, roi=roi)
    if rasters.dated:
        sampler = sampler @ SequentialTimestampSampler(rasters.joined)
    return [_snapped(rasters, window) for window in sampler]


def _snapped(rasters: JoinedRasters, window: GeoSlice) -> GeoSlice:
    """Cancel rounding errors, so that the first dataset is read without resampling."""
    x, y, *time = cast(Window, window)
    west, south = rasters.snap(x.start, y.start)
    width, height = rasters.size
    place = slice(west, west + width), slice(south, south + height)
    return cast(GeoSlice, (*place, *time))
