"""SUN RGB-D and NYU Depth v2 for pretraining and segmentation."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from ..datasets.resizing import check_size
from ..datasets.rgbd.base import Depth, RGBDDataset, rgbd_modalities
from ..datasets.rgbd.nyu_depth_v2 import NYUDepthV2
from ..datasets.rgbd.sunrgbd import SUNRGBD
from .base import MultimodalDataModule


class RGBDDataModule(MultimodalDataModule):
    """Base of the datamodules of photographs with depth, images in [0, 1].

    Training and test split are the official ones. The validation split is drawn at random
    from the *places* of the training split: frames of one place are never on both sides.
    The predict split is the test split.

    HHA images are computed when they are first asked for, about half a second each, and
    kept in the cache.

    Args:
        root: folder of the dataset.
        depth: 'hha' (three bands, modality ``hha``) or 'raw' (metres, ``depth``).
        size: height and width that images and masks are brought to.
        cache: folder of the HHA images, by default ``hha`` in the root.
        val_fraction: fraction of the training places that training leaves out. With 0
            all train and there is no validation (``limit_val_batches: 0``).
        label_fraction: fraction of the remaining frames to train with, drawn at random.
        batch_size: frames of a batch on each device.
        num_workers: worker processes of each data loader.
        seed: seed of split, fraction and shuffle; by default that of
            ``seed_everything``.
        skip_unreadable: whether the next frame replaces one with a damaged file.

    Raises:
        ValueError: if an option is not valid.
    """

    source: ClassVar[type[RGBDDataset]]

    def __init__(
        self,
        root: str = 'data',
        *,
        depth: Depth = 'hha',
        size: Sequence[int] = (480, 640),
        cache: str | None = None,
        val_fraction: float = 0.1,
        label_fraction: float = 1.0,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        """Initialize a new RGBDDataModule instance."""
        if not 0 <= val_fraction < 1:
            raise ValueError(f'val_fraction must be in [0, 1), got {val_fraction}')
        super().__init__(
            rgbd_modalities(depth),
            batch_size,
            num_workers,
            seed=seed,
            label_fraction=label_fraction,
        )
        self.val_fraction = val_fraction
        self.kwargs: dict[str, Any] = {
            'root': root,
            'depth': depth,
            'size': check_size(size),
            'cache': cache,
            'skip_unreadable': skip_unreadable,
        }

    def setup(self, stage: str) -> None:
        """Split the places.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        if stage in ('fit', 'validate'):
            dataset = self._make('train')
            places = [dataset.group(item) for item in dataset.samples]
            self.hold_out(dataset, places, self.val_fraction)
        if stage == 'test':
            self.test_dataset = self._make('test')
        if stage == 'predict':
            self.predict_dataset = self._make('test')

    def _make(self, split: Literal['train', 'test']) -> RGBDDataset:
        return self.source(split=split, **self.kwargs)


class SUNRGBDDataModule(RGBDDataModule):
    """Frames of SUN RGB-D, 37 classes, 0 where not labelled.

    Args and splits are those of :class:`RGBDDataModule`. Frames of one video are never
    on both sides of the validation split.
    """

    source = SUNRGBD


class NYUDepthV2DataModule(RGBDDataModule):
    """Frames of NYU Depth v2, 40 classes, 0 where not labelled.

    Args and splits are those of :class:`RGBDDataModule`.
    """

    source = NYUDepthV2
