"""Datamodule of BigEarthNet-MM for multi-label classification."""

from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.figure import Figure
from torchgeo.datasets.utils import Sample
from torchvision.transforms import Compose

from ..datasets.bigearthnet import BigEarthNetMM, Version
from ..modalities import MODALITIES
from ..transforms import PadBands, PerModality, SelectBands
from .base import FileDataModule

_L1C, _L2A = (MODALITIES[f'sentinel2_{level}'].bands for level in ('l1c', 'l2a'))


class BigEarthNetMMDataModule(FileDataModule):
    """Datamodule of BigEarthNet-MM patches with multi-label targets.

    Images are scaled to [0, 1]. The published splits are used. The test split is also the
    prediction split. With
    ``label_fraction``, training patches are stratified by their rarest class.

    Args:
        root: folder of the dataset. A download requires more than 100 GB.
        version: 'v1' or 'v2'.
        modalities: names of the modalities: 's1', 's2' or both.
        num_classes: number of classes: 19, or 43 for version 'v1' only.
        s2_bands: number of Sentinel-2 bands in a batch. Files have 12 bands. If 13, band
            B10 is added with zeros, as Level-1C encoders require.
        options: options of :class:`~torchgeo_decur.datamodules.FileDataModule`.

    Raises:
        ValueError: if an option is invalid.
    """

    def __init__(
        self,
        root: str = 'data',
        *,
        version: Version = 'v2',
        modalities: Sequence[str] = ('s1', 's2'),
        num_classes: int = 19,
        s2_bands: Literal[12, 13] = 12,
        **options: Any,
    ) -> None:
        """Initialize a new BigEarthNetMMDataModule instance."""
        known = {'s1': 'sentinel1_grd', 's2': 'sentinel2_l2a'}
        if not modalities or any(m not in known for m in modalities):
            raise ValueError(
                f'modalities must contain one or both of {list(known)}, '
                f'got {list(modalities)}'
            )
        if s2_bands not in (12, 13):
            raise ValueError(f's2_bands must be 12 or 13, got {s2_bands}')
        super().__init__({m: known[m] for m in modalities}, root, **options)
        self.s2_bands = s2_bands
        if s2_bands == 13 and 's2' in self.modalities:
            pad = PadBands(_L2A, _L1C)
            self.aug = Compose([self.aug, PerModality({'s2': pad})])
        self.kwargs |= {
            'version': version,
            'modalities': tuple(modalities),
            'num_classes': num_classes,
        }

    def prepare_data(self) -> None:
        """Download the dataset if ``download`` is True."""
        if self.kwargs['download']:
            for split in ('train', 'val', 'test'):
                BigEarthNetMM(split=split, **self.kwargs)

    def setup(self, stage: str) -> None:
        """Create the datasets of a stage."""
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
        """Plot a sample, or return None if there is no validation dataset."""
        if self.s2_bands == 13 and 'image_s2' in sample:
            image = SelectBands(_L1C, _L2A)(sample['image_s2'])
            sample = {**sample, 'image_s2': image}
        return super().plot(sample, **kwargs)

    def _make(self, split: Literal['train', 'val', 'test']) -> BigEarthNetMM:
        return BigEarthNetMM(split=split, **self.kwargs)
