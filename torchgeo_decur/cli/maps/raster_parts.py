"""Write a Cloud-Optimized GeoTIFF in parts so that an interrupted run can resume."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from matplotlib import colormaps
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

from ...files import atomic_write, atomic_write_all
from ...resumable_parts import resume_run

KEY = 'TORCHGEO_DECUR'
# Size of GDAL's cache in bytes. By default, it depends on the system memory.
CACHE = 2**27
# Maximum size of a tile with all bands, in bytes.
_TILE = 2**24
_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Grid:
    """Cell grid of a raster.

    Args:
        height: number of rows.
        width: number of columns.
        transform: affine transform from cells to coordinates.
        crs: coordinate reference system.
    """

    height: int
    width: int
    transform: Affine
    crs: Any


@dataclass(frozen=True)
class Bands:
    """Bands of a raster.

    Args:
        names: description of each band.
        dtype: 'uint8' or 'uint16' for classes, 'float32' or 'float16' for continuous
            values.
        classes: class names by index, or an empty sequence for continuous values.
        colored: whether to store a color map for the classes.
        tags: additional tags by band index, starting at 0.
    """

    names: Sequence[str]
    dtype: str = 'float32'
    classes: Sequence[str] = ()
    colored: bool = False
    tags: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def stored(self) -> str:
        """Data type in memory. GDAL rounds float32 to 16 bits when it writes the COG."""
        return 'float32' if self.dtype == 'float16' else self.dtype

    @property
    def nodata(self) -> float:
        """Nodata value of the bands."""
        floating = np.issubdtype(self.stored, np.floating)
        return np.nan if floating else np.iinfo(self.stored).max

    def check(self, values: NDArray[Any], without_data: NDArray[np.bool_]) -> None:
        """Check that values are finite and fit into the data type.

        Args:
            values: band values, shape (B, H, W).
            without_data: mask of cells without data, shape (B, H, W).

        Raises:
            ValueError: if a value is NaN or infinite, or too large for float16.
        """
        wrong = ~np.isfinite(values) & ~without_data
        if wrong.any():
            name = self.names[int(wrong.any((1, 2)).argmax())]
            raise ValueError(
                f'expected finite values, found NaN or infinity in {name}; set the '
                'option nodata if the images contain such values, or use a checkpoint from '
                'before the fit diverged'
            )
        if self.dtype == 'float16' and np.nanmax(np.abs(values), initial=0) > _HALF:
            raise ValueError(
                f'expected absolute values up to {_HALF:g} for float16, found '
                f'{np.nanmax(np.abs(values)):g}; set --dtype float32'
            )


class RasterParts:
    """Parts of an unfinished raster, in the folder ``<file>.parts``.

    Args:
        out: path of the finished file.
        grid: cell grid of the raster.
        bands: bands of the raster.
        about: JSON values for the file metadata. Only a run with the same values can
            resume.

    Raises:
        ValueError: if the folder contains parts of another run.
    """

    def __init__(
        self, out: Path, grid: Grid, bands: Bands, about: Mapping[str, Any]
    ) -> None:
        """Initialize a new RasterParts instance."""
        self.out, self.grid, self.bands = out, grid, bands
        self.about = json.loads(json.dumps(dict(about)))
        self.folder = out.with_name(f'{out.name}.parts')
        resume_run(self.folder / 'run.json', self.about, 1)

    def path(self, row: int, column: int) -> Path:
        """Return the path of the part that starts at a row and column."""
        return self.folder / f'part-{row:06d}-{column:06d}.tif'

    def write(self, row: int, column: int, values: NDArray[Any]) -> None:
        """Write a part atomically.

        Args:
            row: first row of the part in the raster.
            column: first column of the part in the raster.
            values: band values, shape (B, H, W).
        """
        whole = self.grid.transform
        west, north = whole.c + column * whole.a, whole.f + row * whole.e
        place = from_origin(west, north, whole.a, -whole.e)
        options: dict[str, Any] = {'compress': 'deflate', 'zlevel': 1}
        profile = self._profile(*values.shape[1:], transform=place, **options)

        def write(path: Path) -> None:
            with rasterio.open(path, 'w', **profile) as file:
                file.write(values)

        atomic_write(self.path(row, column), write)

    def finish(self) -> Path:
        """Merge the parts into the final raster and delete them."""
        grid, bands = self.grid, self.bands
        # Reduce the tile size for many bands, because a tile contains all bands.
        side = 512
        size = np.dtype(bands.stored).itemsize * len(bands.names)
        while side > 16 and side * side * size > _TILE:
            side //= 2
        joined = self.folder / 'joined.tif'
        tiles = {'tiled': True, 'blockxsize': side, 'blockysize': side}
        profile = self._profile(
            grid.height, grid.width, transform=grid.transform, **tiles
        )
        with rasterio.open(joined, 'w', **profile) as file:
            file.descriptions = tuple(bands.names)
            file.update_tags(**{KEY: json.dumps(self.about)})
            for number, tags in bands.tags.items():
                file.update_tags(number + 1, **tags)
            if bands.colored:
                file.write_colormap(1, _colors(len(bands.classes)))
            for part in sorted(self.folder.glob('part-*.tif')):
                row, column = (int(n) for n in part.stem.split('-')[1:])
                with rasterio.open(part) as opened:
                    values = opened.read()
                height, width = values.shape[1:]
                file.write(values, window=Window(column, row, width, height))
        options: dict[str, Any] = {
            'compress': 'deflate',
            'predictor': 'yes',
            'blocksize': side,
            'bigtiff': 'if_safer',
            'overview_resampling': 'mode' if bands.classes else 'average',
        }
        if bands.dtype == 'float16':
            # Readers without float16 support read float32.
            options['nbits'] = 16
        writes = {
            self.out: lambda path: rasterio.shutil.copy(
                joined, path, driver='COG', **options
            )
        }
        if bands.classes:
            # GDAL and QGIS read class names from this file.
            text = _categories(bands)
            writes[_sidecar(self.out)] = lambda path: path.write_text(text, 'utf-8')
        atomic_write_all(writes)
        shutil.rmtree(self.folder)
        return self.out

    def _profile(self, height: int, width: int, **more: Any) -> dict[str, Any]:
        return {
            'driver': 'GTiff',
            'height': height,
            'width': width,
            'count': len(self.bands.names),
            'dtype': self.bands.stored,
            'nodata': self.bands.nodata,
            'crs': self.grid.crs,
            'interleave': 'pixel',
            'bigtiff': 'if_safer',
            **more,
        }


def read_about(file: Path) -> str | None:
    """Return the metadata of a run in a raster, or None if it has none."""
    with rasterio.open(file) as raster:
        found: str | None = raster.tags().get(KEY)
    return found


def _sidecar(out: Path) -> Path:
    return out.with_name(f'{out.name}.aux.xml')


def _categories(bands: Bands) -> str:
    names = ''.join(f'<Category>{escape(name)}</Category>' for name in bands.classes)
    parts = (
        f'<PAMRasterBand band="{number}"><CategoryNames>{names}</CategoryNames>'
        '</PAMRasterBand>'
        for number, _ in enumerate(bands.names, 1)
    )
    return f'<PAMDataset>{"".join(parts)}</PAMDataset>\n'


def _colors(number: int) -> dict[int, tuple[int, ...]]:
    """Return class colors from the colormap that the package's figures use."""
    colors = colormaps['tab20'](np.arange(number) / max(number - 1, 1), bytes=True)
    return {i: tuple(map(int, color)) for i, color in enumerate(colors)}
