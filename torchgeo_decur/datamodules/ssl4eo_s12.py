"""Datamodule of SSL4EO-S12 for pretraining."""

from typing import Any, Literal

from ..datasets.date_sampling import DateSampling
from ..datasets.ssl4eo_s12 import Level, SSL4EOS12Pair
from ..deprecation import renamed_arguments
from .base import FileDataModule, check_val_fraction


class SSL4EOS12PairDataModule(FileDataModule):
    """Datamodule of SSL4EO-S12 image pairs from one or more dates.

    Images are scaled to [0, 1]. The test split is the validation split. The prediction
    split contains all locations, in order.

    Args:
        root: folder with ``s1`` and ``s2c`` (or ``s2a``). A download requires about
            1.5 TB.
        date_sampling: 'all', 'same' or 'independent'; see
            :class:`~torchgeo_decur.datasets.SSL4EOS12Pair`. If a sample has several
            dates, the task selects one for each view. A single date requires reading only
            a quarter of the files.
        level: Sentinel-2 processing level: 'l1c' (13 bands) or 'l2a' (12 bands).
        num_dates: number of dates per sample for 'same' and 'independent'.
        val_fraction: fraction of the locations for validation, chosen at random. If 0,
            there is no validation split; set ``limit_val_batches: 0``.
        skip_incomplete: how to treat locations without a modality: 'keep' to use them,
            True to skip them, or False to raise an error.
        options: options of :class:`~torchgeo_decur.datamodules.FileDataModule`.

    Raises:
        ValueError: if an option is invalid.
    """

    @renamed_arguments(dates='date_sampling')
    def __init__(
        self,
        root: str = 'data',
        *,
        date_sampling: DateSampling = 'all',
        level: Level = 'l1c',
        num_dates: int = 1,
        val_fraction: float = 0.01,
        skip_incomplete: Literal['keep'] | bool = True,
        **options: Any,
    ) -> None:
        """Initialize a new SSL4EOS12PairDataModule instance."""
        if level not in ('l1c', 'l2a'):
            raise ValueError(f"level must be 'l1c' or 'l2a', got {level!r}")
        super().__init__(
            {'s1': 'sentinel1_grd', 's2': f'sentinel2_{level}'}, root, **options
        )
        self.val_fraction = check_val_fraction(val_fraction)
        self.kwargs |= {
            'date_sampling': date_sampling,
            'level': level,
            'num_dates': num_dates,
            'skip_incomplete': skip_incomplete,
        }

    def freeze(self) -> None:
        """Include all dates in packed data so that the task can select one for each view."""
        self.kwargs['date_sampling'] = 'all'

    def prepare_data(self) -> None:
        """Download the dataset if ``download`` is True."""
        if self.kwargs['download']:
            self._make()

    def setup(self, stage: str) -> None:
        """Create the datasets of all stages and hold out locations for validation."""
        dataset = self._make()
        self.hold_out(dataset, dataset.samples, self.val_fraction)
        if self.val_fraction:
            self.test_dataset = self.val_dataset
        self.predict_dataset = dataset

    def _make(self) -> SSL4EOS12Pair:
        return SSL4EOS12Pair(seed=self.seed, **self.kwargs)
