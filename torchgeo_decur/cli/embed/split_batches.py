"""Load the batches of a split as the Trainer does."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from torchgeo.datamodules import BaseDataModule
from tqdm import tqdm

from ...analysis import NotApplicable
from ...modalities import split
from ...packed.dataset import Split

# Stage and Trainer property of each split. Training samples are read in order and without
# augmentation, like validation samples.
_STAGES = {
    'train': ('fit', 'validating'),
    'val': ('validate', 'validating'),
    'test': ('test', 'testing'),
    'predict': ('predict', 'predicting'),
}


class Batches:
    """Iterable over the batches of a split, scaled to [0, 1] and moved to the device.

    Args:
        datamodule: the datamodule.
        split: 'train', 'val', 'test' or 'predict'.
        device: Lightning accelerator: 'auto', 'cpu', 'gpu' or 'mps'.

    Raises:
        ValueError: if the split is unknown.
    """

    def __init__(
        self, datamodule: BaseDataModule, split: Split = 'val', device: str = 'auto'
    ) -> None:
        """Initialize a new Batches instance."""
        if split not in _STAGES:
            raise ValueError(f'split must be one of {list(_STAGES)}, got {split!r}')
        stage, running = _STAGES[split]
        trainer = Trainer(
            accelerator=device,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        # TorchGeo checks the trainer stage before it scales a batch.
        setattr(trainer, running, True)
        datamodule.trainer = trainer
        datamodule.prepare_data()
        datamodule.setup(stage)
        self.datamodule = datamodule
        self.device: torch.device = trainer.strategy.root_device
        self.loader: DataLoader[Any]
        if split == 'train':
            dataset: Any = datamodule.train_dataset
            self.loader = DataLoader(
                dataset, datamodule.batch_size or 1, num_workers=datamodule.num_workers
            )
        else:
            self.loader = getattr(datamodule, f'{split}_dataloader')()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over all batches, with a progress bar."""
        return self.over(tqdm(self.loader, desc='embeddings', unit='batch'))

    def images(
        self, modalities: dict[str, int], number: int, batch_size: int
    ) -> Iterator[dict[str, Tensor]]:
        """Iterate over images of complete samples, evenly spaced over the split.

        Args:
            modalities: number of channels of each modality.
            number: maximum number of samples.
            batch_size: samples per batch.

        Yields:
            Images of the first date by modality, shape (B, C, H, W).

        Raises:
            NotApplicable: if no sample has all modalities.
        """
        dataset: Any = self.loader.dataset
        order = list(self.loader.sampler)
        if known := getattr(dataset, 'availability', None):
            has = np.all([known[m] for m in modalities if m in known], axis=0)
            order = [i for i in order if has[i]]
        if not order:
            raise NotApplicable(
                f'expected samples with all modalities {[*modalities]}, found none; '
                'choose another split'
            )
        places = np.linspace(0, len(order) - 1, min(number, len(order)))
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size,
            sampler=[order[int(i)] for i in places.round()],
            num_workers=self.loader.num_workers,
            collate_fn=self.loader.collate_fn,
        )
        for batch in self.over(loader):
            yield split(batch, modalities, date=0)

    def over(self, loader: Any) -> Iterator[dict[str, Any]]:
        """Iterate over the batches of a data loader, moved to the device and scaled."""
        for batch in loader:
            moved = self.datamodule.transfer_batch_to_device(batch, self.device, 0)
            yield self.datamodule.on_after_batch_transfer(moved, 0)
