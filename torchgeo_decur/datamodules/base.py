"""What every datamodule of several modalities shares."""

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchgeo.datamodules import BaseDataModule
from torchgeo.datasets.utils import Sample

from ..datasets.base import FileDataset
from ..modalities import FirstBatches, Modality, check_names, split
from ..transforms import PerModality, ScaleToUnit
from .loaders import ResumableLoader, ResumableSampler
from .splits import split_groups, take_budget
from .unconverted_batches import (
    Unconverted,
    collate_unconverted,
    convert_images,
    converts,
)

Split = Literal['train', 'val', 'test', 'predict']


class MultimodalDataModule(BaseDataModule):
    """Base of the datamodules: scaling, the check of the first batch, exact resuming.

    A subclass sets ``train_dataset``, ``val_dataset``, ``test_dataset`` and
    ``predict_dataset`` in ``setup``, map-style datasets whose samples have
    ``image_<m>`` for every modality in its physical unit. Batches leave the datamodule
    scaled to [0, 1] (:class:`~torchgeo_decur.transforms.ScaleToUnit`), on the device.

    Args:
        modalities: what each modality is: a :class:`~torchgeo_decur.modalities.Modality`,
            the name of a known one, or a dictionary of its fields.
        batch_size: samples of a batch on each device.
        num_workers: worker processes of each data loader.
        seed: seed of shuffles, splits and budgets; by default that of
            ``seed_everything`` when the datamodule is built, or 0 if there is none. A
            resumed fit keeps the seed that it began with, unless one is given.
        label_fraction: fraction of the training samples to train with, such as 0.01: the
            same on every device and in every run of one seed, a smaller one within a
            larger one, and stratified where the subclass knows the labels.

    Raises:
        ValueError: if a modality is not valid, ``batch_size`` is not positive or
            ``label_fraction`` out of range.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality | str | Mapping[str, Any]],
        batch_size: int = 64,
        num_workers: int = 0,
        *,
        seed: int | None = None,
        label_fraction: float = 1.0,
    ) -> None:
        """Initialize a new MultimodalDataModule instance."""
        if not 0 < label_fraction <= 1:
            raise ValueError(f'label_fraction must be in (0, 1], got {label_fraction}')
        if batch_size < 1:
            raise ValueError(f'batch_size must be positive, got {batch_size}')
        super().__init__(Dataset, batch_size, num_workers)
        self.seed = global_seed() if seed is None else seed
        self._seed_is_given = seed is not None
        self.label_fraction = label_fraction
        self.set_modalities(modalities)

    def set_modalities(
        self, modalities: Mapping[str, Modality | str | Mapping[str, Any]]
    ) -> None:
        """Say what the modalities are, and so how they are scaled.

        Args:
            modalities: as in the constructor. A subclass that learns statistics or
                nodata values in ``setup`` calls this again then.
        """
        check_names(modalities)
        self.modalities = {m: Modality.of(value) for m, value in modalities.items()}
        self.first_batches = FirstBatches(self.modalities)
        known = {
            m: ScaleToUnit(modality)
            for m, modality in self.modalities.items()
            if modality.limits or modality.kind in ('elevation', 'depth')
        }
        self.aug = PerModality(known)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the seed, on which the splits depend."""
        return {'seed': self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seed of the checkpoint, unless one was given, and split again.

        Otherwise a fit that is resumed, or tested, under another ``seed_everything``
        would validate on samples that it was trained with.

        Args:
            state_dict: as :meth:`state_dict` returned it.
        """
        seed = state_dict.get('seed', self.seed)
        if self._seed_is_given or seed == self.seed:
            return
        self.seed = seed
        # Lightning calls setup before it reads the checkpoint.
        if self.trainer is not None and self.trainer.state.fn is not None:
            self.setup(self.trainer.state.fn)

    def freeze(self) -> None:
        """Ask for samples that are the same in every epoch, as packing needs them.

        Called before ``setup``. A subclass whose samples change with the epoch overrides
        it.
        """

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Take a batch out of what kept Lightning from converting it.

        Args:
            batch: a batch, as the data loader has it.
            dataloader_idx: index of the data loader.

        Returns:
            The batch, in the precision of its files.
        """
        batch = batch.batch if isinstance(batch, Unconverted) else batch
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def on_after_batch_transfer(self, batch: Sample, dataloader_idx: int) -> Sample:
        """Check the first batches of each stage, then scale every batch to [0, 1].

        Args:
            batch: a batch on the device, in physical units.
            dataloader_idx: index of the data loader.

        Returns:
            The batch with scaled images, in the precision of the trainer.

        Raises:
            ValueError: if a first batch is not what the modalities say.
        """
        trainer = self.trainer
        training = trainer is not None and trainer.training
        # The sanity check sees the validation split.
        checking = trainer is not None and (
            trainer.validating or trainer.sanity_checking
        )
        stage = 'train' if training else 'val' if checking else 'other'
        # Cached features come without images.
        has_images = any(str(key).startswith('image') for key in batch)
        if has_images and not self.first_batches.done(stage):
            channels = {m: modality.channels for m, modality in self.modalities.items()}
            images = split(batch, channels)
            self.first_batches.look(images, stage, training)
        scaled: Sample = super().on_after_batch_transfer(batch, dataloader_idx)
        return cast(Sample, convert_images(scaled, trainer))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Load shuffled batches, from where the fit stands.

        Returns:
            The data loader.

        Raises:
            ValueError: if a batch has fewer than two samples, or there are fewer
                samples than a batch.
        """
        dataset = self._dataset('train')
        trainer = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        # torch shuffles by seed + epoch: neighbouring seeds must not share their epochs.
        seed = 1_000_003 * self.seed
        sampler = ResumableSampler(
            dataset, world, rank, shuffle=True, seed=seed, drop_last=True
        )
        if self.batch_size < 2 or len(sampler) < self.batch_size:
            raise ValueError(
                f'batch_size must be from 2 to the number of training samples on each '
                f'device ({len(sampler)}), got {self.batch_size}: the losses and '
                'BatchNorm compare the samples of a batch, and the last, smaller batch '
                'is left out'
            )
        return ResumableLoader(
            dataset,
            sampler=sampler,
            trainer=trainer,
            drop_last=True,
            **self._loader_options,
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Load the validation split in order."""
        return self._loader(self._dataset('val'))

    def test_dataloader(self) -> DataLoader[Sample]:
        """Load the test split in order."""
        return self._loader(self._dataset('test'))

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Load the predict split in order."""
        return self._loader(self._dataset('predict'))

    def budget(
        self,
        number: int,
        labels: Callable[[], Tensor] | None = None,
        names: Sequence[str] = (),
    ) -> list[int]:
        """Choose the training samples of ``label_fraction``; warn of classes it loses.

        Args:
            number: number of training samples.
            labels: gives their labels, shape (N,) or (N, K), if they are known; called
                only when there is something to choose.
            names: name of each class, for the warning.

        Returns:
            Numbers of the samples to train with, in order.
        """
        if self.label_fraction == 1:
            return list(range(number))
        known = torch.zeros(number, dtype=torch.long) if labels is None else labels()
        chosen, lost = take_budget(known, self.label_fraction, self.seed)
        if lost:
            rank_zero_warn(
                f'label_fraction {self.label_fraction} keeps {len(chosen)} of {number} '
                f'training samples and none of the classes '
                f'{[names[i] if names else i for i in lost]}'
            )
        return chosen

    def hold_out(
        self, dataset: FileDataset, groups: Sequence[Hashable], fraction: float
    ) -> None:
        """Set the training and the validation split; no group is on both sides.

        Without a fraction there is no validation split.

        Args:
            dataset: the samples of both.
            groups: group of each sample, such as its place.
            fraction: fraction of the groups to validate on.
        """
        kept, held_out = split_groups(groups, fraction, self.seed)
        some = self.budget(len(kept))
        self.train_dataset = dataset.subset(kept[i] for i in some)
        if held_out:
            self.val_dataset = dataset.subset(held_out)

    def _dataset(self, name: Split) -> Dataset[Sample]:
        dataset: Dataset[Sample] = self._valid_attribute(f'{name}_dataset', 'dataset')
        return dataset

    def _loader(self, dataset: Dataset[Sample]) -> DataLoader[Sample]:
        return DataLoader(dataset, **self._loader_options)

    @property
    def _loader_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            'batch_size': self.batch_size,
            'num_workers': self.num_workers,
            'persistent_workers': self.num_workers > 0,
            'pin_memory': torch.cuda.is_available(),
        }
        if converts(self.trainer):
            options['collate_fn'] = collate_unconverted
        return options


def global_seed() -> int:
    """Return the seed that ``seed_everything`` has set for all processes of a run.

    Returns:
        The seed; 0 if none is set. The state of PyTorch's generator, which is random
        then, is not used: splits must be those of the next run.
    """
    return int(os.environ.get('PL_GLOBAL_SEED', 0))
