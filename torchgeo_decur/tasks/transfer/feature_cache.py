"""Features of a split, computed once: what a linear probe needs of its encoders."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


class CachedFeatures(Dataset[dict[str, Tensor]]):
    """Samples that are rows of tensors in memory.

    Args:
        columns: tensor of each key, shape (N, ...).

    Example:
        >>> CachedFeatures({'label': torch.arange(3)})[2]
        {'label': tensor(2)}
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        """Initialize a new CachedFeatures instance."""
        self.columns = dict(columns)

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Take a row.

        Args:
            index: number of the sample.

        Returns:
            The row of each key.
        """
        return {key: column[index] for key, column in self.columns.items()}


def cache_features(
    datamodule: LightningDataModule,
    splits: tuple[str, ...],
    encode: Callable[[str, dict[str, Any]], dict[str, Tensor]],
) -> dict[str, Any]:
    """Put features in place of the datasets of a datamodule.

    Args:
        datamodule: has ``<split>_dataset``, map-style, and ``batch_size``.
        splits: names of the splits.
        encode: from split and batch to what to keep of the batch, each (B, ...).

    Returns:
        The datasets that were replaced, by the name of their attribute.

    Raises:
        ValueError: if a dataset has other samples in every epoch, or none at all.
    """
    replaced = {}
    for split in splits:
        name = f'{split}_dataset'
        dataset: Any = getattr(datamodule, name, None)
        if dataset is None and split != 'train':
            continue
        if dataset is None or hasattr(dataset, 'set_epoch'):
            raise ValueError(
                f'cache_features needs a datamodule whose {name} has the same samples '
                f'in every epoch, got {type(dataset).__name__}'
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


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Set a module to evaluation for a while.

    Args:
        module: the module.

    Yields:
        Nothing.
    """
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)
