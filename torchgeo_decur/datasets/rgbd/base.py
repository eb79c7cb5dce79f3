"""Base class for datasets of photographs with depth maps and class masks."""

import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor
from torchgeo.datasets.utils import Path as PathLike
from torchgeo.datasets.utils import Sample

from ...modalities import MODALITIES, Modality
from ..base import FileDataset, UnreadableFileError
from ..resizing import check_size, resize_frame
from .hha import Intrinsics
from .hha_cache import HHACache

Depth = Literal['hha', 'raw']

# Class names by index, starting at 1. NYU Depth v2 uses all, SUN RGB-D the first 37.
CLASSES = tuple(
    """
    wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds
    desk shelves curtain dresser pillow mirror floor_mat clothes ceiling books fridge tv
    paper towel shower_curtain box whiteboard person night_stand toilet sink lamp bathtub
    bag other_structure other_furniture other_prop
    """.split()
)


class RGBDDataset(FileDataset):
    """Base class for datasets of photographs with depth maps.

    Args:
        root: folder of the dataset.
        split: 'train' or 'test'.
        depth: 'hha' for HHA images, or 'raw' for depth in meters.
        size: height and width of images and masks after resizing, or None to keep the
            file size. Photographs are interpolated. Depth and masks use nearest-neighbor
            resampling.
        cache: folder of the HHA images, by default ``hha`` in the root.
        transforms: function that transforms each sample and returns a new one.
        skip_unreadable: whether to replace a frame that has a damaged file with the next
            one.

    Raises:
        ValueError: if an option is invalid.
    """

    splits: ClassVar[tuple[str, ...]] = ('train', 'test')
    download = False

    def __init__(
        self,
        root: PathLike = 'data',
        split: Literal['train', 'test'] = 'train',
        depth: Depth = 'hha',
        size: Sequence[int] | None = None,
        cache: PathLike | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        """Initialize a new RGBDDataset instance."""
        if split not in self.splits:
            raise ValueError(f'split must be one of {self.splits}, got {split!r}')
        self.root = root
        self.split = split
        self.modalities = rgbd_modalities(depth)
        self.depth = depth
        self.size = check_size(size)
        self.cache = HHACache(Path(root) / 'hha' if cache is None else cache)
        self.transforms = transforms
        self.skip_unreadable = skip_unreadable
        self.samples: list[Any] = self._find()

    def load(self, item: Any) -> Sample:
        """Read one frame.

        Raises:
            UnreadableFileError: if a file is missing, truncated or damaged.
            ValueError: if the files of the frame differ in size, a mask value is not a
                class, or the HHA image cannot be written.
        """
        rgb, mask = self._rgb(item), self._mask(item)
        shape = tuple(rgb.shape[-2:])
        last = len(self.classes) - 1
        wrong = mask[(mask < 0) | (mask > last)]
        if len(wrong):
            raise ValueError(
                f'{self.name(item)}: expected classes from 0 to {last}, found '
                f'{wrong[0].item()}; restore the original files'
            )
        if self.depth == 'hha':
            deep = self.cache.get(
                self.name(item), self._intrinsics(item), lambda: self._depth(item)
            )
        else:
            deep = self._depth(item)[None]
        for key, x in (('depth', deep), ('mask', mask)):
            if tuple(x.shape[-2:]) != shape:
                raise ValueError(
                    f'{self.name(item)}: expected {key} of {shape[0]} x {shape[1]} pixels '
                    f'as in the photograph, found {x.shape[-2]} x {x.shape[-1]}; restore '
                    'the original files and delete the cache of HHA images'
                )
        key = 'image_hha' if self.depth == 'hha' else 'image_depth'
        sample: Sample = {'image_rgb': rgb, key: deep, 'mask': mask}
        return resize_frame(sample, dict.fromkeys(sample, self.size), {'image_rgb'})

    def origin(self, item: Any, key: str) -> str:
        """Return the name of a frame for error messages."""
        return self.name(item)

    @abstractmethod
    def name(self, item: Any) -> str:
        """Return the name of a frame for error messages and the HHA cache."""

    @abstractmethod
    def group(self, item: Any) -> str:
        """Return the scene of a frame. All frames of a scene are in the same split."""

    @abstractmethod
    def _find(self) -> list[Any]:
        """Find the frames of the split and raise an error if any is missing."""

    @abstractmethod
    def _rgb(self, item: Any) -> Tensor:
        """Read the photograph, from 0 to 255, float32, shape (3, H, W)."""

    @abstractmethod
    def _depth(self, item: Any) -> Tensor:
        """Read the depth in m, 0 where unknown, float32, shape (H, W)."""

    @abstractmethod
    def _mask(self, item: Any) -> Tensor:
        """Read the class of each pixel, int64, shape (H, W)."""

    @abstractmethod
    def _intrinsics(self, item: Any) -> Intrinsics:
        """Read the camera intrinsics of the frame."""


def rgbd_modalities(depth: Depth) -> Mapping[str, Modality]:
    """Return the modalities for a depth representation.

    Args:
        depth: 'hha' or 'raw'.

    Returns:
        The modalities by name.

    Raises:
        ValueError: if ``depth`` is unknown.
    """
    if depth not in get_args(Depth):
        raise ValueError(f'depth must be one of {get_args(Depth)}, got {depth!r}')
    rgb = {'rgb': MODALITIES['sunrgbd_rgb']}
    if depth == 'hha':
        return {**rgb, 'hha': MODALITIES['sunrgbd_hha']}
    return {**rgb, 'depth': MODALITIES['sunrgbd_depth']}


def loadmat(path: Path, key: str) -> Any:
    """Read one variable from a MATLAB 5 file.

    Args:
        path: path of the file.
        key: name of the variable.

    Returns:
        The value, without dimensions of size one. MATLAB structures become objects.

    Raises:
        ImportError: if scipy is not installed.
        UnreadableFileError: if the file is damaged or has no such variable.
    """
    io = _needed('scipy.io')
    try:
        return io.loadmat(
            path, variable_names=[key], squeeze_me=True, struct_as_record=False
        )[key]
    except (
        *(LookupError, NotImplementedError, OSError, TypeError, ValueError),
        *(zlib.error, io.matlab.MatReadError),
    ) as error:
        raise UnreadableFileError(
            f'{path} must be a MATLAB 5 file with the variable {key}, but it cannot be '
            f'read ({error}); restore the file'
        ) from error


@contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """Open a MATLAB 7.3 file without sharing file handles between processes.

    Args:
        path: path of the file.

    Yields:
        The h5py file. Its arrays are transposed relative to MATLAB.

    Raises:
        ImportError: if h5py is not installed.
        UnreadableFileError: if the file is damaged or lacks a requested variable.
    """
    h5py = _needed('h5py')
    try:
        with h5py.File(path, 'r') as file:
            yield file
    except (KeyError, OSError) as error:
        raise UnreadableFileError(
            f'{path} must be a MATLAB 7.3 file, but it is truncated or has another format '
            f'({error}); restore the file'
        ) from error


def _needed(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f'reading the labels requires {name}; install it with '
            '`pip install "torchgeo-decur[rgbd]"`'
        ) from error
