"""Base class of datamodules for archives with published splits."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..datasets.archives.base import ArchiveDataset
from ..datasets.archives.products import records
from ..modalities import converted
from .base import MultimodalDataModule, check_val_fraction


class ArchiveDataModule(MultimodalDataModule):
    """Base class of datamodules for archives with one folder per split.

    Images are scaled to [0, 1]. Each subclass adds its options to ``kwargs`` and creates
    the dataset of a split in :meth:`make`.

    Args:
        root: folder that contains the split folders.
        modalities: folder or folders of each modality.
        train: folder of the training split.
        val: folder of the validation split, which is also the test split.
        predict: folder of the prediction split, by default ``train``.
        val_fraction: fraction of the training locations to use for validation instead of
            ``val``. If 0, there is no validation split; set ``limit_val_batches: 0``.
        skip_incomplete: how to treat locations without a modality: 'keep' to use them,
            True to skip them, or False to raise an error.
        skip_unreadable: whether to replace a location that has a damaged file with the
            next one.
        index: folder with the indices of tar shards, by default ``index`` in the root.
        conversion: ``scale``, ``offset`` and ``nodata`` by modality, for files that
            differ from the published ones.
        options: options of :class:`MultimodalDataModule`: ``batch_size``,
            ``num_workers``, ``seed`` and ``label_fraction``.

    Raises:
        ValueError: if an option is invalid.

    Attributes:
        kwargs: arguments for the dataset.
    """

    def __init__(
        self,
        root: str,
        modalities: Mapping[str, str | Sequence[str]],
        *,
        train: str = 'train',
        val: str = 'val',
        predict: str | None = None,
        val_fraction: float | None = None,
        skip_incomplete: Literal['keep'] | bool = 'keep',
        skip_unreadable: bool = False,
        index: str | None = None,
        conversion: dict[str, dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        """Initialize a new ArchiveDataModule instance."""
        entries = self.published_conversion(modalities, conversion)
        super().__init__(converted(records(modalities), entries), **options)
        self.named = {'train': train, 'val': val, 'predict': predict or train}
        if val_fraction is not None:
            check_val_fraction(val_fraction)
        self.val_fraction = val_fraction
        self.kwargs: dict[str, Any] = {
            'root': root,
            'modalities': modalities,
            'skip_incomplete': skip_incomplete,
            'skip_unreadable': skip_unreadable,
            'index': index,
            'conversion': conversion,
        }

    @staticmethod
    def published_conversion(
        modalities: Mapping[str, str | Sequence[str]],
        conversion: Mapping[str, Mapping[str, Any]] | None,
    ) -> Mapping[str, Mapping[str, Any]] | None:
        """Return the conversion to apply. Subclasses may add values for published files.

        Args:
            modalities: folder or folders of each modality.
            conversion: conversion set by the user.

        Returns:
            The conversion by modality.
        """
        return conversion

    @abstractmethod
    def make(self, split: str) -> ArchiveDataset:
        """Create the dataset of a split.

        Args:
            split: name of the split folder.
        """

    def prepare_data(self) -> None:
        """Index the archive in one process before other processes read it."""
        for split in dict.fromkeys(self.named.values()):
            if split == self.named['train'] or self.val_fraction is None:
                self.make(split)

    def setup(self, stage: str) -> None:
        """Create the datasets of a stage.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        if stage == 'predict':
            self.predict_dataset = self.make(self.named['predict'])
            return
        if self.val_fraction is not None:
            dataset = self.make(self.named['train'])
            self.hold_out(dataset, dataset.samples, self.val_fraction)
        else:
            self.val_dataset = self.make(self.named['val'])
            if stage == 'fit':
                dataset = self.make(self.named['train'])
                if self.label_fraction < 1:
                    dataset = dataset.subset(self.budget(len(dataset)))
                self.train_dataset = dataset
        if getattr(self, 'val_dataset', None) is not None:
            self.test_dataset = self.val_dataset
