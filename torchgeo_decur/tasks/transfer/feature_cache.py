"""Feature cache for linear probes of frozen encoders."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class CachedFeatures(Dataset[dict[str, Tensor]]):
    """In-memory dataset that stores samples as rows of one tensor per key.

    Args:
        columns: tensor for each key of a sample, shape (N, ...).

    Example:
        >>> CachedFeatures({'label': torch.arange(3)})[2]
        {'label': tensor(2)}
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        """Initialize a new CachedFeatures instance."""
        self.columns = dict(columns)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return a sample.

        Args:
            index: index of the sample.

        Returns:
            Row ``index`` of each tensor, by key.
        """
        return {key: column[index] for key, column in self.columns.items()}


def cache_features(
    datamodule: LightningDataModule,
    splits: tuple[str, ...],
    encode: Callable[[str, dict[str, Any]], dict[str, Tensor]],
) -> dict[str, Any]:
    """Replace the datasets of a datamodule with datasets of cached features.

    Args:
        datamodule: datamodule with ``batch_size`` and map-style datasets
            ``<split>_dataset``.
        splits: names of the splits.
        encode: function that maps a split and a batch to the tensors to cache, each of
            shape (B, ...).

    Returns:
        The original datasets, by attribute name.

    Raises:
        ValueError: if a dataset is absent or changes its samples in every epoch.
    """
    replaced = {}
    for split in splits:
        name = f'{split}_dataset'
        dataset: Any = getattr(datamodule, name, None)
        if dataset is None and split != 'train':
            continue
        if dataset is None or hasattr(dataset, 'set_epoch'):
            raise ValueError(
                f'cache_features needs a {name} with the same samples in every epoch, '
                f'got {type(dataset).__name__}; set cache_features to False'
            )
        loader = DataLoader(
            dataset,
            batch_size=getattr(datamodule, 'batch_size', 64),
            num_workers=getattr(datamodule, 'num_workers', 0),
        )
        with torch.no_grad():
            rows = [encode(split, batch) for batch in loader]
        replaced[name] = dataset
        columns = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
        setattr(datamodule, name, CachedFeatures(columns))
    return replaced
