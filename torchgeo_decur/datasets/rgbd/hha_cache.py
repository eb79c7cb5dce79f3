"""Cache HHA images in a folder."""

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from torch import Tensor

from ...files import atomic_write, short_hash
from ..base import UnreadableFileError
from ..io import read_image
from .hha import Intrinsics, encode_hha


class HHACache:
    """Cache folder of HHA images with one PNG file per frame.

    Images are computed on first access. Files are written atomically, so interrupted runs and parallel processes cannot damage
    the cache. Unreadable files are recomputed. File names contain a hash of all options.

    Args:
        folder: cache folder, created when the first file is written.
        camera_height: height of the camera above ground in m, as in
            :func:`~torchgeo_decur.datasets.encode_hha`.
    """

    # Increase this number when the encoding changes so that old files are not used.
    version = 1

    def __init__(
        self, folder: str | os.PathLike[str], camera_height: float | None = 1.3
    ) -> None:
        """Initialize a new HHACache instance."""
        self.folder = Path(folder)
        self.camera_height = camera_height

    def path(self, name: str, intrinsics: Intrinsics, more: str = '') -> Path:
        """Return the path of the HHA image of a frame.

        Args:
            name: unique name of the frame, which may contain slashes.
            intrinsics: camera intrinsics.
            more: text with other options that affect the image, such as the file unit.

        Returns:
            Path of the PNG file.
        """
        key = (self.version, self.camera_height, *map(float, intrinsics), more)
        return self.folder / f'{name}.{short_hash([repr(key).encode()])[:8]}.png'

    def get(
        self,
        name: str,
        intrinsics: Intrinsics,
        depth: Callable[[], Tensor],
        more: str = '',
    ) -> Tensor:
        """Read the HHA image of a frame, or compute and store it.

        Args:
            name: unique name of the frame.
            intrinsics: camera intrinsics.
            depth: function that returns the depth in m, shape (H, W). It is called only if
                the image is not in the cache.
            more: text with other options that affect the image.

        Returns:
            HHA image, from 0 to 255, float32, shape (3, H, W).

        Raises:
            ValueError: if the folder is not writable or the depth is invalid.
        """
        path = self.path(name, intrinsics, more)
        if path.exists():
            with suppress(UnreadableFileError):
                return read_image(path, 3)
        image = encode_hha(depth(), intrinsics, self.camera_height)
        try:
            png = _png(image)
            atomic_write(path, lambda partial: partial.write_bytes(png), shared=True)
        except OSError as error:
            raise ValueError(
                f'cache must be a writable folder for HHA images, got {self.folder} '
                f'({error}); choose another folder'
            ) from error
        return image.float()


def _png(image: Tensor) -> bytes:
    count, height, width = image.shape
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        with memory.open(
            driver='PNG', count=count, height=height, width=width, dtype='uint8'
        ) as file:
            file.write(image.cpu().numpy())
        content: bytes = memory.read()
    return content
