"""HHA images that are computed once and kept in a folder."""

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
    """A folder of HHA images, one PNG a frame, filled as frames are asked for.

    A file appears whole or not at all, so runs that are stopped and processes that
    compute the same frame do no harm; a file that cannot be read is computed anew. The
    name of a file has a digest of everything that the image depends on besides the depth
    itself: other intrinsics, for instance, never get the images of these.

    Args:
        folder: where the files lie; made with the first one.
        camera_height: see :func:`~torchgeo_decur.datasets.encode_hha`.
    """

    # Raised when the encoding changes, so that old files are not taken for new ones.
    version = 1

    def __init__(
        self, folder: str | os.PathLike[str], camera_height: float | None = 1.3
    ) -> None:
        """Initialize a new HHACache instance."""
        self.folder = Path(folder)
        self.camera_height = camera_height

    def path(self, name: str, intrinsics: Intrinsics, more: str = '') -> Path:
        """Where the image of a frame lies.

        Args:
            name: name of the frame, unique in the folder; may have slashes.
            intrinsics: of its camera.
            more: what else the image depends on, such as the unit of the files.

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
        """Read the image of a frame, or compute and keep it.

        Args:
            name: see :meth:`path`.
            intrinsics: of the camera.
            depth: gives the depth in m, shape (H, W); called only where it is needed.
            more: see :meth:`path`.

        Returns:
            HHA, 0 to 255, float32, shape (3, H, W).

        Raises:
            ValueError: if the folder cannot be written, or the depth is not valid.
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
                f'cache must be a folder for HHA images that can be written, got '
                f'{self.folder} ({error}); give another one'
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
