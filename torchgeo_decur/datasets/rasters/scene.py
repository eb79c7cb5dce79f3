"""Overlapping windows over a whole scene on a common grid, for maps."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import shapely
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import geometry_mask
from rasterio.transform import from_origin
from shapely.geometry.base import BaseGeometry
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.datasets.utils import GeoSlice, Sample

from ...modalities import invalid_pixels
from .join import JoinedRasters, outline
from .window_positions import separate


class SceneWindows(Dataset[Sample]):
    """Overlapping windows that cover the footprint of joined rasters.

    The windows form rows and columns over the bounding box of the footprint. Only the last
    row and column may exceed it, by less than a cell. If the scene is smaller than a
    window, there is one window with the size of the scene. Windows that do not intersect
    the footprint are omitted. If files have several dates, there is one window per date.

    Args:
        rasters: joined rasters.
        window: maximum window size in pixels.
        overlap: minimum overlap of adjacent windows as a fraction of the window size, from
            0 to 0.5.
        cell: size of a map cell in pixels, which divides the window size.
        align: alignment of window positions in pixels, except at the eastern and southern
            borders. With alignment, the encoder's grid is the same in all windows.

    Attributes:
        height: height of the scene in pixels, a multiple of ``cell``.
        width: width of the scene in pixels, a multiple of ``cell``.
        size: height and width of a window in pixels.
        rows: first pixel row of each row of windows.
        columns: first pixel column of each column of windows.
        places: first pixel row, first pixel column and time of each window.

    Raises:
        ValueError: if an option is invalid or the rasters differ in pixel size.
    """

    def __init__(
        self,
        rasters: JoinedRasters,
        window: int,
        overlap: float = 0.25,
        cell: int = 1,
        align: int = 32,
    ) -> None:
        """Initialize a new SceneWindows instance."""
        if not 0 <= overlap <= 0.5:
            raise ValueError(f'overlap must be in [0, 0.5], got {overlap}')
        if window < 1:
            raise ValueError(f'window must be positive, got {window}')
        found = {m: leaf.res for m, leaf in rasters.leaves.items() if m != 'mask'}
        if len(set(found.values())) > 1:
            raise ValueError(
                f'a map requires rasters with the same resolution, got {found}; remove the '
                'option res from the entries and fit the model again'
            )
        self.rasters = rasters
        xres, yres = rasters.joined.res
        footprint = rasters.footprint
        parts = shapely.get_parts(footprint)
        # Use the grid of the first file, as for other windows.
        x0, _, _, y0 = rasters.files(parts[:1])[0]
        west, south, east, north = footprint.bounds
        left, right = np.round([(west - x0) / xres, (east - x0) / xres], 3)
        top, bottom = np.round([(y0 - north) / yres, (y0 - south) / yres], 3)
        left, top = np.floor([left, top]).astype(int)
        self.west, self.north = x0 + left * xres, y0 - top * yres
        self.height = _ceil(int(np.ceil(bottom)) - top, cell)
        self.width = _ceil(int(np.ceil(right)) - left, cell)
        window = _ceil(window, cell)
        self.size = min(window, self.height), min(window, self.width)
        sides = zip((self.height, self.width), self.size, strict=True)
        self.rows, self.columns = (
            window_starts(total, side, overlap, cell, align) for total, side in sides
        )
        self.places = self._places(footprint)

    @property
    def crs(self) -> Any:
        """CRS of the first raster."""
        return self.rasters.joined.crs

    def transform(self, row: int = 0, column: int = 0, cell: int = 1) -> Affine:
        """Return the affine transform from cells of the scene to coordinates.

        Args:
            row: first row in pixels.
            column: first column in pixels.
            cell: size of a cell in pixels.

        Returns:
            The affine transform.
        """
        xres, yres = self.rasters.joined.res
        west, north = self.west + column * xres, self.north - row * yres
        found: Affine = from_origin(west, north, xres * cell, yres * cell)
        return found

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        """Read a window.

        Args:
            index: index of the window.

        Returns:
            The sample as in :meth:`JoinedRasters.read`, with two additional keys.
            ``valid_<m>`` is a mask of the pixels with data, bool, shape (H, W).
            ``place`` is the first row and column of the window in the scene, int64.
        """
        row, column, time = self.places[index]
        window = self._window(row, column, time)
        sample = self.rasters.deliver(self.rasters.read(window), window, whole=True)
        valid = self._valid(sample, row, column, time)
        return {**sample, **valid, 'place': torch.tensor([row, column])}

    def _valid(
        self, sample: Mapping[str, Any], row: int, column: int, time: tuple[slice, ...]
    ) -> dict[str, Tensor]:
        """Return a mask of the pixels with data for each modality."""
        found = {}
        for name in self.rasters.leaves:
            if name == 'mask':
                continue
            inside = self._inside(self.rasters.area_of(name, time), row, column)
            image: Tensor = sample[f'image_{name}']
            invalid = invalid_pixels(image, self.rasters.nodata[name])
            if invalid is not None:
                inside &= ~invalid.all(0)
            if not sample.get(f'available_{name}', True):
                inside = torch.zeros_like(inside)
            found[f'valid_{name}'] = inside
        return found

    def _inside(self, area: BaseGeometry, row: int, column: int) -> Tensor:
        """Return a mask of the pixels in a window whose centers lie in an area."""
        if area.is_empty:
            return torch.zeros(self.size, dtype=torch.bool)
        if area.covers(outline(self._window(row, column, ()))):
            return torch.ones(self.size, dtype=torch.bool)
        transform = self.transform(row, column)
        inside = geometry_mask([area], self.size, transform, invert=True)
        return torch.from_numpy(inside)

    def _window(self, row: int, column: int, time: tuple[slice, ...]) -> GeoSlice:
        xres, yres = self.rasters.joined.res
        height, width = self.size
        x, y = self.west + column * xres, self.north - row * yres
        sides = slice(x, x + width * xres), slice(y - height * yres, y)
        return cast(GeoSlice, (*sides, *time))

    def _places(
        self, footprint: BaseGeometry
    ) -> list[tuple[int, int, tuple[slice, ...]]]:
        """Find the windows that overlap the footprint, row by row."""
        parts, times = separate(self.rasters, footprint)
        grid = np.meshgrid(self.rows, self.columns, indexing='ij')
        rows, columns = (side.ravel() for side in grid)
        (xres, yres), (height, width) = self.rasters.joined.res, self.size
        left, top = self.west + columns * xres, self.north - rows * yres
        # Ignore slivers caused by rounding errors.
        x, y = xres / 4, yres / 4
        boxes = shapely.box(
            left + x, top - height * yres + y, left + width * xres - x, top - y
        )
        tree = shapely.STRtree(boxes)
        found = {
            (int(window), _key(times[part])): times[part]
            for part, window in tree.query(parts, predicate='intersects').T
        }
        return [
            (int(rows[i]), int(columns[i]), time)
            for (i, _), time in sorted(found.items(), key=lambda item: item[0])
        ]


def window_starts(
    total: int, side: int, overlap: float, cell: int, align: int
) -> NDArray[np.int64]:
    """Compute window positions that cover one dimension of a scene.

    Args:
        total: size of the scene in pixels.
        side: size of a window in pixels.
        overlap: minimum overlap as a fraction of the window size.
        cell: size of a map cell in pixels.
        align: alignment of window positions in pixels.

    Returns:
        First pixel of each window, in increasing order.
    """
    last = total - side
    step = side * (1 - overlap)
    # Align windows to the encoder's stride so that its grid does not shift between windows.
    unit = align if step >= align else cell
    step = max(1, int(step) // unit) * unit
    return np.append(np.arange(0, last, step), last)


def _ceil(value: int, unit: int) -> int:
    return -(-int(value) // unit) * unit


def _key(time: tuple[slice, ...]) -> tuple[Any, ...]:
    return tuple((part.start, part.stop) for part in time)
