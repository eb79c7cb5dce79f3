"""SSL4EO-S12 for pretraining."""

from typing import Any

from ..datasets.ssl4eo_s12 import DateSampling, Level, SSL4EOS12Pair
from ..deprecation import renamed_arguments
from ..modalities import converted
from .base import MultimodalDataModule


class SSL4EOS12PairDataModule(MultimodalDataModule):
    """Pairs of Sentinel-1 and Sentinel-2 at one or more dates, scaled to [0, 1].

    Args:
        root: folder that has ``s1`` and ``s2c`` (or ``s2a``), or that receives them.
        date_sampling: 'all', 'same' or 'independent', see
            :class:`~torchgeo_decur.datasets.SSL4EOS12Pair`. With several dates the task
            picks one for each view; drawing one here opens a quarter of the files.
        level: level of Sentinel-2, 'l1c' (13 bands) or 'l2a' (12 bands).
        num_dates: dates of a sample for 'same' and 'independent'.
        val_fraction: fraction of the places, drawn at random, that training leaves out.
            With 0 all train and there is no validation (``limit_val_batches: 0``).
        batch_size: places of a batch on each device.
        num_workers: worker processes of each data loader.
        seed: seed of the split, the shuffle and the dates; by default that of
            ``seed_everything``.
        download: whether to download what is missing (about 1.5 TB).
        checksum: whether to verify downloads.
        skip_unreadable: whether the next place replaces one with a damaged file.
        conversion: where files hold other numbers than those of the unit, ``scale``,
            ``offset`` and ``nodata`` by modality, such as ``{s2: {offset: -1000}}``
            for Sentinel-2 products since processing baseline 04.00.

    Raises:
        ValueError: if an option is not valid.

    The test split is the validation split; the predict split has every place, in order.
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
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int | None = None,
        download: bool = False,
        checksum: bool = True,
        skip_unreadable: bool = False,
        conversion: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """Initialize a new SSL4EOS12PairDataModule instance."""
        if not 0 <= val_fraction < 1:
            raise ValueError(f'val_fraction must be in [0, 1), got {val_fraction}')
        if level not in ('l1c', 'l2a'):
            raise ValueError(f"level must be 'l1c' or 'l2a', got {level!r}")
        super().__init__(
            converted({'s1': 'sentinel1_grd', 's2': f'sentinel2_{level}'}, conversion),
            batch_size,
            num_workers,
            seed=seed,
        )
        self.val_fraction = val_fraction
        self.kwargs = {
            'root': root,
            'date_sampling': date_sampling,
            'level': level,
            'num_dates': num_dates,
            'download': download,
            'checksum': checksum,
            'skip_unreadable': skip_unreadable,
            'conversion': conversion,
        }

    def freeze(self) -> None:
        """Ask for all dates of each place: the task picks one for each view."""
        self.kwargs['date_sampling'] = 'all'

    def prepare_data(self) -> None:
        """Download the dataset if asked to."""
        if self.kwargs['download']:
            self._make()

    def setup(self, stage: str) -> None:
        """Split the places.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        dataset = self._make()
        self.hold_out(dataset, dataset.samples, self.val_fraction)
        if self.val_fraction:
            self.test_dataset = self.val_dataset
        self.predict_dataset = dataset

    def _make(self) -> SSL4EOS12Pair:
        return SSL4EOS12Pair(seed=self.seed, **self.kwargs)
