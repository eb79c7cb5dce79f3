"""NYU Depth v2: indoor frames from a Kinect."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..base import UnreadableFileError
from ..io import not_found
from .base import CLASSES, RGBDDataset, hdf5, loadmat
from .hha import Intrinsics


class NYUDepthV2(RGBDDataset):
    """NYU Depth v2 (Silberman et al., ECCV 2012): 1,449 Kinect frames, 40 classes.

    A sample has the keys of :class:`SUNRGBD`, with classes from 1 to 40 and depth without
    gaps (``depths``). Frames have 480 x 640 pixels. The official split has 795 frames for
    training and 654 frames of other scenes for testing.

    The root must contain three files: ``nyu_depth_v2_labeled.mat`` (2.8 GB) and
    ``splits.mat`` from the authors, and ``classMapping40.mat`` with the 40 classes of Gupta
    et al. (CVPR 2013). Reading these files requires h5py and scipy
    (``pip install torchgeo-decur[rgbd]``).

    Args:
        root: folder of the dataset.
        split: 'train' or 'test'.
        depth: 'hha' or 'raw'.
        size: height and width of images and masks after resizing.
        cache: folder of the HHA images, by default ``hha`` in the root.
        transforms: function that transforms each sample and returns a new one.
        skip_unreadable: whether to replace an unreadable frame with the next one.

    Raises:
        DatasetNotFoundError: if a file is missing.
        UnreadableFileError: if a file is damaged.
        ValueError: if an option is invalid.
    """

    classes = ('unlabelled', *CLASSES)
    labelled = 'nyu_depth_v2_labeled.mat'
    urls: ClassVar[dict[str, str]] = {
        labelled: 'http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2',
        'splits.mat': 'http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup',
        'classMapping40.mat': 'https://github.com/ankurhanda/nyuv2-meta-data',
    }
    # Color camera in the authors' toolbox; the depth is projected into its image.
    camera = Intrinsics(518.857901, 519.469611, 325.582449, 253.736166)

    def name(self, item: int) -> str:
        """Return the frame number as text, starting at 1."""
        return f'{item + 1:04d}'

    def group(self, item: int) -> str:
        """Return the scene of a frame."""
        return self._places[item]

    def _find(self) -> list[int]:
        root = Path(self.root)
        absent = {f: url for f, url in self.urls.items() if not (root / f).exists()}
        if absent:
            listed = ', '.join(f'{f} (from {url})' for f, url in absent.items())
            raise not_found(self, f'the files {listed} in {root}')
        path = root / self.labelled
        with hdf5(path) as file:
            sizes = {k: len(file[k]) for k in ('images', 'depths', 'labels')}
            self._places = [_text(file[r]) for r in file['scenes'][()].flatten()]
        sizes['scenes'] = len(self._places)
        if len(set(sizes.values())) > 1:
            raise UnreadableFileError(
                f'{path}: expected the same number of entries in all arrays, found '
                f'{sizes}; download the file again'
            )
        mapping = np.atleast_1d(loadmat(root / 'classMapping40.mat', 'mapClass'))
        self._to_class = torch.from_numpy(np.append(0, mapping).astype(np.int64))
        numbers = np.atleast_1d(loadmat(root / 'splits.mat', f'{self.split}Ndxs'))
        frames = [int(n) - 1 for n in numbers]
        if not frames or min(frames) < 0 or max(frames) >= sizes['images']:
            raise UnreadableFileError(
                f'{root / "splits.mat"}: expected frame numbers from 1 to '
                f'{sizes["images"]}, found {[f + 1 for f in frames][:3]} ...; download the '
                'file again'
            )
        return frames

    def _read(self, key: str, item: int) -> Tensor:
        """Read one frame from an array, shape (..., H, W)."""
        path = Path(self.root) / self.labelled
        with hdf5(path) as file:
            return torch.from_numpy(np.swapaxes(file[key][item], -1, -2).copy())

    def _rgb(self, item: int) -> Tensor:
        return self._read('images', item).float()

    def _depth(self, item: int) -> Tensor:
        return self._read('depths', item).float()

    def _mask(self, item: int) -> Tensor:
        labels = self._read('labels', item).long()
        if labels.max() >= len(self._to_class):
            raise ValueError(
                f'{self.name(item)}: expected labels up to {len(self._to_class) - 1} '
                f'according to classMapping40.mat, found {labels.max().item()}; download '
                'the files again'
            )
        return self._to_class[labels]

    def _intrinsics(self, item: int) -> Intrinsics:
        return self.camera


def _text(characters: Any) -> str:
    return ''.join(map(chr, characters[()].flatten()))
