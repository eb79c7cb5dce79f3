"""Access to the training targets for statistics that a fit needs."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Subset

# Maximum number of samples to read, because each read includes the images.
_MOST = 4096


def training_targets(trainer: Trainer, key: str, purpose: str) -> Iterator[Tensor]:
    """Iterate over the targets of the training split, in batches.

    If the dataset has a method ``labels()``, all labels are read, without images.
    Otherwise, up to 4096 random samples are read, the same ones in every process.

    Args:
        trainer: trainer of a fit with a datamodule.
        key: key of the target in a sample.
        purpose: name of the option that needs the targets, for error messages.

    Yields:
        Batches of targets, shape (B, ...).

    Raises:
        ValueError: if there is no datamodule with a training split, or a sample has no
            target.
    """
    datamodule: Any = getattr(trainer, 'datamodule', None)
    dataset: Any = getattr(datamodule, 'train_dataset', None)
    if not hasattr(dataset, '__len__'):
        raise ValueError(
            f'{purpose} needs a datamodule with a train_dataset, got '
            f'{type(datamodule).__name__}; pass such a datamodule to fit, or '
            'turn the option off'
        )
    if key == 'label' and hasattr(dataset, 'labels'):
        yield dataset.labels()
        return
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    loader: DataLoader[Any] = DataLoader(
        Subset(dataset, order[:_MOST].sort().values.tolist()),
        batch_size=getattr(datamodule, 'batch_size', None) or 64,
        num_workers=getattr(datamodule, 'num_workers', 0),
        collate_fn=partial(_stack, key),
    )
    yield from loader


def _stack(key: str, samples: Sequence[dict[str, Any]]) -> Tensor:
    """Stack the targets of samples."""
    if key not in samples[0]:
        raise ValueError(
            f'samples must have the target {key!r}, got only {sorted(samples[0])}; set '
            'label_key to the key of the target'
        )
    return torch.stack([torch.as_tensor(sample[key]) for sample in samples])
