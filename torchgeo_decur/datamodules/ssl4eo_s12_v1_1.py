"""Datamodule of SSL4EO-S12 v1.1 for pretraining."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..datasets.archives.ssl4eo_s12_v1_1 import (
    MODALITIES,
    SSL4EOS12V11,
    published_conversion,
)
from ..datasets.date_sampling import DateSampling
from .archives import ArchiveDataModule


class SSL4EOS12V11DataModule(ArchiveDataModule):
    """Datamodule of seasonal SSL4EO-S12 v1.1 images.

    Images are scaled to [0, 1]. The test split is the validation split.

    Args:
        root: folder that contains the split folders, such as ``train`` and ``val``.
        modalities: folder of each modality, by default ``{s1: S1GRD, s2: S2L1C}``. See
            :class:`~torchgeo_decur.datasets.SSL4EOS12V11`.
        date_sampling: 'all', 'same' or 'independent'. If a sample has several dates, the
            task selects one for each view. A single date requires reading only a quarter
            of the data.
        num_dates: number of dates per sample for 'same' and 'independent'.
        options: options of :class:`~torchgeo_decur.datamodules.ArchiveDataModule`:
            ``train``, ``val``, ``predict``, ``val_fraction``, ``skip_incomplete``,
            ``conversion``, ``batch_size``, ``num_workers``, ``seed``, ...

    Raises:
        ValueError: if an option is invalid.
    """

    def __init__(
        self,
        root: str = 'data',
        modalities: dict[str, str | list[str]] | None = None,
        *,
        date_sampling: DateSampling = 'all',
        num_dates: int = 1,
        **options: Any,
    ) -> None:
        """Initialize a new SSL4EOS12V11DataModule instance."""
        super().__init__(root, modalities or MODALITIES, **options)
        self.kwargs |= {'date_sampling': date_sampling, 'num_dates': num_dates}

    @staticmethod
    def published_conversion(
        modalities: Mapping[str, str | Sequence[str]],
        conversion: Mapping[str, Mapping[str, Any]] | None,
    ) -> Mapping[str, Mapping[str, Any]]:
        """Merge the conversion of published files with the conversion set by the user."""
        return published_conversion(modalities, conversion)

    def freeze(self) -> None:
        """Include all dates in packed data so that the task can select one for each view."""
        self.kwargs['date_sampling'] = 'all'

    def make(self, split: str) -> SSL4EOS12V11:
        """Create the dataset of a split.

        Args:
            split: name of the split folder.

        Returns:
            The dataset.
        """
        return SSL4EOS12V11(split=split, seed=self.seed, **self.kwargs)
