"""BigEarthNet-MM for multi-label classification."""

from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.figure import Figure
from torchgeo.datasets.utils import Sample
from torchvision.transforms import Compose

from ..datasets.bigearthnet import BigEarthNetMM, Version
from ..modalities import MODALITIES, converted
from ..transforms import PadBands, PerModality, SelectBands
from .base import MultimodalDataModule

_L1C, _L2A = (MODALITIES[f'sentinel2_{level}'].bands for level in ('l1c', 'l2a'))


class BigEarthNetMMDataModule(MultimodalDataModule):
    """Sentinel-1 and Sentinel-2 patches with labels, scaled to [0, 1].

    The splits are the published ones. The predict split is the test split.

    Args:
        root: folder of the dataset, or that receives it.
        version: 'v1' or 'v2'.
        modalities: 's1', 's2' or both.
        num_classes: 19, or 43 in v1.
        s2_bands: bands of a Sentinel-2 image in a batch: 12 as in the files, or 13 for
            encoders of Level-1C, with a band B10 that is 0 everywhere.
        label_fraction: fraction of the training patches to train with, such as 0.01 for
            the experiments with few labels; stratified by the rarest class of a patch.
        batch_size: patches of a batch on each device.
        num_workers: worker processes of each data loader.
        seed: seed of the fraction and of the shuffle; by default that of
            ``seed_everything``.
        download: whether to download what is missing (more than 100 GB).
        checksum: whether to verify downloads.
        skip_unreadable: whether the next patch replaces one with a damaged file.
        conversion: where files hold other numbers than those of the unit, ``scale``,
            ``offset`` and ``nodata`` by modality, such as ``{s2: {offset: -1000}}``
            for Sentinel-2 products since processing baseline 04.00.

    Raises:
        ValueError: if an option is not valid.
    """

    def __init__(
        self,
        root: str = 'data',
        *,
        version: Version = 'v2',
        modalities: Sequence[str] = ('s1', 's2'),
        num_classes: int = 19,
        s2_bands: Literal[12, 13] = 12,
        label_fraction: float = 1.0,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int | None = None,
        download: bool = False,
        checksum: bool = True,
        skip_unreadable: bool = False,
        conversion: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """Initialize a new BigEarthNetMMDataModule instance."""
        known = {'s1': 'sentinel1_grd', 's2': 'sentinel2_l2a'}
        if not modalities or any(m not in known for m in modalities):
            raise ValueError(
                f'modalities must be one or both of {list(known)}, '
                f'got {list(modalities)}'
            )
        if s2_bands not in (12, 13):
            raise ValueError(f's2_bands must be 12 or 13, got {s2_bands}')
        super().__init__(
            converted({m: known[m] for m in modalities}, conversion),
            batch_size,
            num_workers,
            seed=seed,
            label_fraction=label_fraction,
        )
        self.s2_bands = s2_bands
        if s2_bands == 13 and 's2' in self.modalities:
            pad = PadBands(_L2A, _L1C)
            self.aug = Compose([self.aug, PerModality({'s2': pad})])
        self.kwargs = {
            'root': root,
            'version': version,
            'modalities': tuple(modalities),
            'num_classes': num_classes,
            'download': download,
            'checksum': checksum,
            'skip_unreadable': skip_unreadable,
            'conversion': conversion,
        }

    def prepare_data(self) -> None:
        """Download the dataset if asked to."""
        if self.kwargs['download']:
            for split in ('train', 'val', 'test'):
                BigEarthNetMM(split=split, **self.kwargs)

    def setup(self, stage: str) -> None:
        """Find the patches of the splits that a stage needs.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        if stage == 'fit':
            train = self._make('train')
            kept = self.budget(len(train), train.labels, train.classes)
            self.train_dataset = train.subset(kept)
        if stage in ('fit', 'validate'):
            self.val_dataset = self._make('val')
        if stage == 'test':
            self.test_dataset = self._make('test')
        if stage == 'predict':
            self.predict_dataset = self._make('test')

    def plot(self, sample: Sample, **kwargs: Any) -> Figure | None:
        """Draw a sample of the validation split.

        Args:
            sample: one of a batch.
            kwargs: passed to the dataset.

        Returns:
            The figure, or None without a validation dataset.
        """
        if self.s2_bands == 13 and 'image_s2' in sample:
            image = SelectBands(_L1C, _L2A)(sample['image_s2'])
            sample = {**sample, 'image_s2': image}
        return super().plot(sample, **kwargs)

    def _make(self, split: Literal['train', 'val', 'test']) -> BigEarthNetMM:
        return BigEarthNetMM(split=split, **self.kwargs)
