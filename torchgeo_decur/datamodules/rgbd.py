"""Datamodules of SUN RGB-D and NYU Depth v2 for pretraining and segmentation."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from ..datasets.resizing import check_size
from ..datasets.rgbd.base import Depth, RGBDDataset, rgbd_modalities
from ..datasets.rgbd.nyu_depth_v2 import NYUDepthV2
from ..datasets.rgbd.sunrgbd import SUNRGBD
from .base import MultimodalDataModule, check_val_fraction


class RGBDDataModule(MultimodalDataModule):
    """Base class of datamodules for photographs with depth maps.

    Images are scaled to [0, 1]. The official test split is also the prediction split. The
    validation split consists of random *scenes* of the official training split. All frames
    of a scene are therefore in the same split.

    HHA images are computed on first access, in about half a second each, and cached.

    Args:
        root: folder of the dataset.
        depth: 'hha' for the three-band modality ``hha``, or 'raw' for the modality
            ``depth`` in meters.
        size: height and width of images and masks after resizing.
        cache: folder of the HHA images, by default ``hha`` in the root.
        val_fraction: fraction of the training scenes for validation. If 0, there is no
            validation split; set ``limit_val_batches: 0``.
        skip_unreadable: whether to replace a frame that has a damaged file with the next
            one.
        batch_size: frames per batch and device.
        options: other options of :class:`~torchgeo_decur.datamodules.MultimodalDataModule`.

    Raises:
        ValueError: if an option is invalid.
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
        skip_unreadable: bool = False,
        batch_size: int = 8,
        **options: Any,
    ) -> None:
        """Initialize a new RGBDDataModule instance."""
        super().__init__(rgbd_modalities(depth), batch_size, **options)
        self.val_fraction = check_val_fraction(val_fraction)
        self.kwargs: dict[str, Any] = {
            'root': root,
            'depth': depth,
            'size': check_size(size),
            'cache': cache,
            'skip_unreadable': skip_unreadable,
        }

    def setup(self, stage: str) -> None:
        """Create the datasets of a stage and hold out training scenes for validation."""
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
    """Datamodule of SUN RGB-D frames with 37 classes and 0 for unlabeled pixels.

    For arguments and splits, see :class:`RGBDDataModule`. All frames of a video are in the
    same split.
    """

    source = SUNRGBD


class NYUDepthV2DataModule(RGBDDataModule):
    """Datamodule of NYU Depth v2 frames with 40 classes and 0 for unlabeled pixels.

    For arguments and splits, see :class:`RGBDDataModule`.
    """

    source = NYUDepthV2
