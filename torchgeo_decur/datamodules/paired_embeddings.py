"""Datamodule of embeddings from frozen models."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..datasets.embeddings.paired_embeddings import PairedEmbeddings, check_entries
from ..modalities import Modality
from .base import MultimodalDataModule
from .splits import check_fractions, split_groups


class PairedEmbeddingsDataModule(MultimodalDataModule):
    """Datamodule that scales :class:`~torchgeo_decur.datasets.PairedEmbeddings` to [0, 1].

    The mean and standard deviation of each dimension are computed from the training samples
    and stored in checkpoints. Values are clipped at 4 standard deviations from the mean. In
    the task, use the model ``identity`` so that only the projectors are trained.

    Args:
        root: folder that the paths are relative to.
        embeddings: entry of each modality, by name, see
            :class:`~torchgeo_decur.datasets.PairedEmbeddings`.
        key: columns that identify a sample.
        tolerance: maximum distance in meters between the places of a sample.
        views: whether the rows of one key are views of one sample.
        skip_incomplete: False to raise an error if a sample lacks a modality, True to skip
            the sample, or 'keep' to use its other modalities.
        labels: label columns; by default the columns ``label`` and ``label_*`` that have a
            value for every sample.
        group: column that assigns samples to groups, such as tiles. A split keeps each
            group together. By default, each sample is a group.
        val_fraction: fraction of the groups for validation. With 0, there is no validation
            and the trainer needs ``limit_val_batches: 0``.
        test_fraction: fraction of the groups for testing. With 0, the validation samples
            are also used for testing.
        options: options of :class:`~torchgeo_decur.datamodules.MultimodalDataModule`.

    Raises:
        ValueError: if an option or entry is not valid.

    Attributes:
        statistics: ``mean`` and ``std`` of the training samples, by modality.
    """

    def __init__(
        self,
        root: str,
        embeddings: dict[str, dict[str, Any]],
        *,
        key: str | Sequence[str] = 'sample',
        tolerance: float = 1.0,
        views: bool = False,
        skip_incomplete: Literal['keep'] | bool = False,
        labels: Sequence[str] | None = None,
        group: str | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.0,
        **options: Any,
    ) -> None:
        """Initialize a new PairedEmbeddingsDataModule instance."""
        check_fractions(val_fraction, test_fraction)
        check_entries(embeddings)
        # The files define the number of bands.
        super().__init__({}, **options)
        self.fractions = (val_fraction, test_fraction)
        self.statistics: dict[str, dict[str, list[float]]] = {}
        self.kwargs: dict[str, Any] = {
            'root': root,
            'embeddings': embeddings,
            'key': key,
            'tolerance': tolerance,
            'views': views,
            'skip_incomplete': skip_incomplete,
            'labels': labels,
            'group': group,
        }
        self._all: PairedEmbeddings | None = None

    def setup(self, stage: str) -> None:
        """Read the files once, split the samples, and compute statistics.

        Raises:
            FileNotFoundError: if a file does not exist.
            ValueError: if the files cannot be paired, or there are too few samples.
        """
        if self._all is None:
            self._all = PairedEmbeddings(**self.kwargs)
        dataset = self._all
        train, val, test = self._split(dataset)
        samples = dataset.subset(train)
        some = (
            self.budget(len(train), samples.labels, samples.classes)
            if 'label' in samples.label_names
            else self.budget(len(train))
        )
        self.train_dataset = samples.subset(some)
        self.statistics = self.statistics or {
            m: _statistics(self.train_dataset.vectors(m)) for m in dataset.modalities
        }
        self._scale(dataset)
        if val:
            self.val_dataset = dataset.subset(val)
        self.test_dataset = dataset.subset(test or val)
        self.predict_dataset = dataset

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: the seed and the statistics."""
        return {**super().state_dict(), 'statistics': self.statistics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed and the statistics of a checkpoint."""
        self.statistics = state_dict.get('statistics', {})
        super().load_state_dict(state_dict)
        if self._all is not None:
            self._scale(self._all)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes of ``label``, empty unless the labels are text."""
        return self._all.classes if self._all is not None else ()

    def _split(self, dataset: PairedEmbeddings) -> tuple[list[int], ...]:
        """Return the samples for training, validation and testing."""
        groups = [dataset.groups[item] for item in dataset.samples]
        val_fraction, test_fraction = self.fractions
        # Draw test samples first, so that they do not depend on val_fraction.
        rest, test = split_groups(groups, test_fraction, self.seed)
        train, val = split_groups(
            [groups[i] for i in rest], val_fraction / (1 - test_fraction), self.seed
        )
        return [rest[i] for i in train], [rest[i] for i in val], test

    def _scale(self, dataset: PairedEmbeddings) -> None:
        """Set the modalities with the statistics of the training samples."""
        self.set_modalities(
            {
                m: Modality.of({**vars(record), **self.statistics[m]})
                for m, record in dataset.modalities.items()
            }
        )


def _statistics(x: Tensor) -> dict[str, list[float]]:
    """Return means and standard deviations, with the deviation 1 for constants."""
    std, mean = torch.std_mean(x.double(), dim=0, correction=0)
    # Rounding can make the deviation of a constant positive.
    constant = std <= 1e-6 * mean.abs().clamp(min=1e-30)
    std = torch.where(constant, torch.ones_like(std), std)
    return {'mean': mean.tolist(), 'std': std.tolist()}
