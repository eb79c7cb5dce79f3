"""Datamodule of GeoNRW for pretraining and segmentation."""

from typing import Any, Literal

from ..datasets.geonrw import GeoNRWPatches
from .base import FileDataModule, check_val_fraction


class GeoNRWPatchDataModule(FileDataModule):
    """Datamodule of GeoNRW patches with aerial photographs, elevation and land cover.

    Images are scaled to [0, 1]. The published test split is also the prediction split.
    The validation split consists of random training *tiles*. All patches of a tile are
    therefore in the same split.

    Args:
        root: folder with one subfolder per city, also used for downloads.
        size: height and width of a patch in pixels.
        val_fraction: fraction of the training tiles for validation. If 0, there is no
            validation split; set ``limit_val_batches: 0``.
        options: options of :class:`~torchgeo_decur.datamodules.FileDataModule`.

    Raises:
        ValueError: if an option is invalid.
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
        """Download the dataset if ``download`` is True."""
        if self.kwargs['download']:
            self._make('train')

    def setup(self, stage: str) -> None:
        """Create the datasets of a stage and hold out training tiles for validation."""
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
