"""GeoNRW for pretraining and segmentation."""

from typing import Any, Literal

from ..datasets.geonrw import GeoNRWPatches
from .base import FileDataModule, check_val_fraction


class GeoNRWPatchDataModule(FileDataModule):
    """Patches of aerial photographs, elevation and land cover, images in [0, 1].

    The test split is as published, and is also the predict split. The validation split
    is drawn from the training *tiles*: all patches of a tile are in one split.

    Args:
        root: folder with one folder per city, or of the download.
        size: height and width of a patch in pixels.
        val_fraction: fraction of the training tiles for validation. With 0 there is no
            validation (``limit_val_batches: 0``).
        options: options of :class:`~torchgeo_decur.datamodules.FileDataModule`.

    Raises:
        ValueError: if an option is not valid.
    """

    def __init__(
        self,
        root: str = 'data',
        *,
        size: int = 250,
        val_fraction: float = 0.1,
        **options: Any,
    ) -> None:
        """Initialize a new GeoNRWPatchDataModule instance."""
        super().__init__(GeoNRWPatches.modalities, root, **options)
        self.val_fraction = check_val_fraction(val_fraction)
        self.kwargs['size'] = size

    def prepare_data(self) -> None:
        """Download the dataset if ``download`` is set."""
        if self.kwargs['download']:
            self._make('train')

    def setup(self, stage: str) -> None:
        """Split the tiles."""
        if stage in ('fit', 'validate'):
            dataset = self._make('train')
            tiles = [patch.tile for patch in dataset.samples]
            self.hold_out(dataset, tiles, self.val_fraction)
        if stage == 'test':
            self.test_dataset = self._make('test')
        if stage == 'predict':
            self.predict_dataset = self._make('test')

    def _make(self, split: Literal['train', 'test']) -> GeoNRWPatches:
        return GeoNRWPatches(split=split, **self.kwargs)
