"""The batches of one split of a datamodule, outside a trainer."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader
from torchgeo.datamodules import BaseDataModule
from tqdm.auto import tqdm

Split = Literal['train', 'val', 'test', 'predict']
_STAGES = {'train': 'fit', 'val': 'validate', 'test': 'test', 'predict': 'predict'}


def split_batches(
    datamodule: BaseDataModule,
    split: Split,
    device: torch.device | str = 'cpu',
    max_samples: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Load a split in its order, scaled as in training, with a progress bar.

    Args:
        datamodule: the data.
        split: which split.
        device: where the batches go.
        max_samples: number of samples after which to stop; by default all are loaded.

    Yields:
        Batches with images in [0, 1], not augmented.

    Raises:
        ValueError: if the datamodule has no dataset for the split.
    """
    datamodule.prepare_data()
    datamodule.setup(_STAGES[split])
    dataset: Any = getattr(datamodule, f'{split}_dataset', None)
    if dataset is None:
        raise ValueError(
            f'split must be one that {type(datamodule).__name__} has a dataset for, '
            f'got {split!r}'
        )
    if max_samples is not None and max_samples < len(dataset):
        # Of all classes, in case they come one after the other.
        places = torch.linspace(0, len(dataset) - 1, max_samples).round().long()
        dataset = torch.utils.data.Subset(dataset, places.tolist())
    loader: DataLoader[Any] = DataLoader(
        dataset, datamodule.batch_size or 1, num_workers=datamodule.num_workers
    )
    where = torch.device(device)
    # TorchGeo applies this itself, but only under a trainer.
    scale = datamodule._valid_attribute('val_aug', 'aug')
    for batch in tqdm(loader, desc=split, unit='batch'):
        moved = datamodule.transfer_batch_to_device(batch, where, 0)
        yield scale(datamodule.on_after_batch_transfer(moved, 0))
