"""GeoNRW: patches of aerial photographs, elevation and land cover."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from rasterio.windows import Window
from torchgeo.datasets import DatasetNotFoundError, GeoNRW
from torchgeo.datasets.utils import Path as PathLike
from torchgeo.datasets.utils import Sample

from ..modalities import MODALITIES, Modality
from .base import FileDataset, UnreadableFileError
from .io import not_found, read, read_size


class GeoNRWPatch(NamedTuple):
    """Location of a patch.

    Args:
        tile: path of the tile's photograph, without the suffix ``_rgb.jp2``.
        row: first row of the patch in the tile.
        column: first column of the patch in the tile.
    """

    tile: str
    row: int
    column: int


class GeoNRWPatches(FileDataset, GeoNRW):
    """Patches of GeoNRW tiles (https://ieeexplore.ieee.org/document/9406194).

    Each tile (1000 x 1000 pixels of 1 m) is divided into a grid of patches: 16 at the
    default size of 250. Incomplete patches at the edges are dropped. A sample has the
    following keys:

    * ``image_rgb``: photograph, 0 to 255, bands in the order red, green, blue, float32,
      shape (3, size, size). The published DeCUR weight files expect the order blue, green,
      red.
    * ``image_dem``: surface height in m, float32, shape (1, size, size)
    * ``mask``: class of each pixel, 0 (background) to 10, int64, shape (size, size)

    Only the window of a patch is read. However, a JPEG 2000 file with a single block must
    be decoded completely. Missing cities are skipped, whereas TorchGeo's ``GeoNRW``
    requires all cities.

    Args:
        root: folder with one subfolder per city, also used for downloads.
        split: 'train' (40 cities) or 'test' (Düsseldorf, Herne and Neuss).
        size: height and width of a patch in pixels.
        transforms: function that transforms each sample and returns a new one.
        download: whether to download the dataset if no city is on disk.
        checksum: whether to verify the checksum of the downloaded file.
        skip_unreadable: whether to replace a patch that has a damaged file with the next
            one.
        conversion: ``scale``, ``offset`` and ``nodata`` by modality, to convert file
            values to the unit of the modality, such as ``{dem: {nodata: -9999}}``.

    Raises:
        DatasetNotFoundError: if no tile of the split is on disk and ``download`` is
            False.
        ValueError: if ``split`` or ``size`` is invalid.
    """

    modalities: Mapping[str, Modality] = {  # type: ignore[assignment]
        'rgb': MODALITIES['geonrw_rgb'],
        'dem': MODALITIES['geonrw_dem'],
    }
    classes = GeoNRW.classes
    colormap = GeoNRW.colormap
    suffixes: ClassVar[dict[str, str]] = {
        'rgb': '_rgb.jp2',
        'dem': '_dem.tif',
        'seg': '_seg.tif',
    }

    def __init__(
        self,
        root: PathLike = 'data',
        split: Literal['train', 'test'] = 'train',
        size: int = 250,
        transforms: Callable[[Sample], Sample] | None = None,
        download: bool = False,
        checksum: bool = True,
        skip_unreadable: bool = False,
        conversion: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Initialize a new GeoNRWPatches instance."""
        if split not in self.splits:
            raise ValueError(f'split must be one of {self.splits}, got {split!r}')
        GeoNRW.__init__(self, root, split, transforms, download, checksum)
        self.skip_unreadable = skip_unreadable
        self.convert(conversion)
        self.size = size
        self.tile_size = self._find_tile_size()
        if not 1 <= size <= self.tile_size:
            raise ValueError(
                f'size must be in [1, {self.tile_size}], because tiles have '
                f'{self.tile_size} pixels per side, got {size}'
            )
        starts = range(0, self.tile_size - size + 1, size)
        self.samples: list[GeoNRWPatch] = [
            GeoNRWPatch(path.removesuffix(self.suffixes['rgb']), row, column)
            for path in self.file_list
            for row in starts
            for column in starts
        ]

    def load(self, item: GeoNRWPatch) -> Sample:
        """Read one patch.

        Raises:
            UnreadableFileError: if a file is missing, truncated or not a raster.
            ValueError: if a file has an unexpected size or number of bands, or a mask
                value is not a class.
        """
        window = Window(item.column, item.row, self.size, self.size)
        rgb, dem, mask = (
            read(f'{item.tile}{suffix}', bands, [self.tile_size], window)
            for suffix, bands in zip(self.suffixes.values(), (3, 1, 1), strict=True)
        )
        last = len(self.classes) - 1
        wrong = mask[~((mask >= 0) & (mask <= last))]
        if len(wrong):
            raise ValueError(
                f'{item.tile}{self.suffixes["seg"]}: expected classes from 0 to {last}, '
                f'found {wrong[0].item():g}; restore the original file'
            )
        return {'image_rgb': rgb, 'image_dem': dem, 'mask': mask[0].long()}

    def origin(self, item: GeoNRWPatch, key: str) -> str:
        """Return the path of the file that contains a sample key."""
        name = 'seg' if key == 'mask' else key.removeprefix('image_')
        return f'{item.tile}{self.suffixes[name]}'

    def _verify(self) -> None:
        """Extract or download the dataset if no city is on disk."""
        if self._get_file_list():
            return
        cities = f'{self.city_names[0]} ... {self.city_names[-1]}'
        expected = (
            f'folders of the {self.split} cities ({cities}) with files such as '
            f'{Path(self.root) / self.city_names[0]}/<x>_<y>{self.suffixes["rgb"]}'
        )
        try:
            super()._verify()
        except DatasetNotFoundError as error:
            raise not_found(self, expected) from error
        if not self._get_file_list():
            raise not_found(self, expected)

    def _find_tile_size(self) -> int:
        """Return the length of the shorter side of the first readable tile in pixels."""
        for path in self.file_list:
            try:
                return read_size(path)
            except UnreadableFileError:
                if not self.skip_unreadable:
                    raise
        raise UnreadableFileError(
            f'expected at least one readable tile in {self.root}, found none among '
            f'{len(self.file_list)}; restore the files'
        )
