"""SUN RGB-D: indoor frames from four depth sensors."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..base import UnreadableFileError
from ..io import not_found, read_image
from .base import CLASSES, RGBDDataset, hdf5, loadmat
from .hha import Intrinsics


class SUNFrame(NamedTuple):
    """Frame of SUN RGB-D with its file names.

    Args:
        scene: path of the frame, starting with the sensor, such as kv1/NYUdata/NYU0001.
        rgb: file name of the photograph.
        depth: file name of the depth image.
        number: index in the metadata, starting at 0.
    """

    scene: str
    rgb: str
    depth: str
    number: int


class SUNRGBD(RGBDDataset):
    """SUN RGB-D (Song et al., CVPR 2015): 10,335 frames from four sensors, 37 classes.

    A sample has the following keys:

    * ``image_rgb``: photograph, 0 to 255, red, green, blue, float32, shape (3, H, W)
    * ``image_hha``: horizontal disparity, height and angle, 0 to 255, float32, shape
      (3, H, W); see :func:`~torchgeo_decur.datasets.encode_hha`
    * ``image_depth`` instead of ``image_hha`` with ``depth='raw'``: depth in m, clipped at
      8 m, 0 where unknown, float32, shape (1, H, W)
    * ``mask``: class from 1 to 37, or 0 where unlabeled, int64, shape (H, W)

    The authors refined the depth by fusing several frames (``depth_bfx``). Sizes differ
    between sensors, so batches require ``size``. The official split has 5,285 frames for
    training and 5,050 for testing.

    The root must contain the two unpacked archives from https://rgbd.cs.princeton.edu:
    ``SUNRGBD.zip`` and ``SUNRGBDtoolbox.zip``. Reading labels requires h5py and scipy
    (``pip install torchgeo-decur[rgbd]``).

    Args:
        root: folder of the dataset.
        split: 'train' or 'test'.
        depth: 'hha' or 'raw'.
        size: height and width of images and masks after resizing.
        cache: folder of the HHA images, by default ``hha`` in the root.
        transforms: function that transforms each sample and returns a new one.
        skip_unreadable: whether to replace a frame that has a damaged file with the next
            one.

    Raises:
        DatasetNotFoundError: if an archive is missing.
        UnreadableFileError: if the metadata are damaged, or frames are missing.
        ValueError: if an option is invalid.
    """

    classes = ('unlabelled', *CLASSES[:37])
    labels = 'SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat'
    metadata = 'SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat'
    official = 'SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat'
    farthest = 8.0

    def name(self, item: SUNFrame) -> str:
        """Return the folder of a frame as its name."""
        return item.scene

    def group(self, item: SUNFrame) -> str:
        """Return the video of a SUN3D frame, or the frame itself for other sources."""
        parent, _, _ = item.scene.rpartition('/')
        return parent if '/sun3ddata/' in item.scene else item.scene

    def _find(self) -> list[SUNFrame]:
        root = Path(self.root)
        wanted = [root / f for f in (self.labels, self.metadata, self.official)]
        if absent := [f for f in (*wanted, root / 'SUNRGBD') if not f.exists()]:
            raise not_found(
                self,
                f'{absent[0]}: unzip SUNRGBD.zip (6.4 GB) and SUNRGBDtoolbox.zip (MD5 '
                '18d22e1761d36352f37232cba102f91f) from https://rgbd.cs.princeton.edu/data '
                f'to {root}',
            )
        frames = np.atleast_1d(loadmat(wanted[1], 'SUNRGBDMeta'))
        found = {}
        for number, meta in enumerate(frames):
            scene = _scene(str(meta.rgbpath).rsplit('/', 2)[0])
            frame = SUNFrame(scene, str(meta.rgbname), str(meta.depthname), number)
            found[scene] = frame
        with hdf5(wanted[0]) as file:
            count = file['SUNRGBD2Dseg']['seglabel'].size
        if count != len(frames):
            raise UnreadableFileError(
                f'{wanted[0]}: expected labels for {len(frames)} frames as in '
                f'{wanted[1].name}, found {count}; unzip SUNRGBDtoolbox.zip again'
            )
        listed = loadmat(wanted[2], f'all{self.split}')
        scenes = [_scene(str(s)) for s in np.atleast_1d(listed)]
        missing = [
            s for s in scenes if s not in found or not (root / 'SUNRGBD' / s).is_dir()
        ]
        if missing and not self.skip_unreadable:
            raise UnreadableFileError(
                f'{root / "SUNRGBD"}: expected {len(scenes)} frames of the {self.split} '
                f'split, but {len(missing)} are missing, such as {missing[0]}; unzip '
                'SUNRGBD.zip again, or set skip_unreadable=True'
            )
        lost = set(missing)
        return [found[s] for s in scenes if s not in lost]

    def _folder(self, item: SUNFrame) -> Path:
        return Path(self.root) / 'SUNRGBD' / item.scene

    def _rgb(self, item: SUNFrame) -> Tensor:
        return read_image(self._folder(item) / 'image' / item.rgb, 3)

    def _depth(self, item: SUNFrame) -> Tensor:
        image = read_image(self._folder(item) / 'depth_bfx' / item.depth)[0]
        # The stored bits are rotated: the three lowest bits are stored as the highest.
        stored = image.int()
        millimetres = (stored >> 3) | ((stored & 7) << 13)
        return (millimetres / 1000).clamp(max=self.farthest)

    def _mask(self, item: SUNFrame) -> Tensor:
        path = Path(self.root) / self.labels
        with hdf5(path) as file:
            reference = file['SUNRGBD2Dseg']['seglabel'][()].flatten()[item.number]
            # Arrays are transposed relative to MATLAB.
            return torch.from_numpy(file[reference][()].T.astype(np.int64))

    def _intrinsics(self, item: SUNFrame) -> Intrinsics:
        path = self._folder(item) / 'intrinsics.txt'
        try:
            matrix = np.array(path.read_text().split(), dtype=float).reshape(3, 3)
        except (OSError, ValueError) as error:
            raise UnreadableFileError(
                f'{path} must contain nine numbers ({error}); restore it, or set '
                'skip_unreadable=True'
            ) from error
        return Intrinsics(matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])


def _scene(path: str) -> str:
    """Return the part of a path that starts with the sensor."""
    tail = path.rpartition('SUNRGBD/')[2]
    return '/'.join(part for part in tail.split('/') if part)
