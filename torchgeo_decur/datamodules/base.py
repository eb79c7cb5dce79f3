"""Base classes of datamodules."""

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchgeo.datamodules import BaseDataModule
from torchgeo.datasets.utils import Sample

from ..datasets.base import FileDataset
from ..modalities import (
    FirstBatches,
    Modality,
    check_names,
    converted,
    drop_absent,
    get_available,
    split,
)
from ..transforms import PerModality, ScaleToUnit
from .loaders import ResumableLoader, ResumableSampler
from .paired_sampler import PairedSampler, get_availability
from .recycled_memory import RecyclingCollate
from .splits import split_groups, take_budget
from .subset_counts import count_subsets, report_subsets
from .unconverted_batches import (
    Unconverted,
    collate_unconverted,
    convert_images,
    converts,
)

Split = Literal['train', 'val', 'test', 'predict']


class MultimodalDataModule(BaseDataModule):
    """Base class of datamodules with scaling, data checks and exact resuming.

    Subclasses create ``train_dataset``, ``val_dataset``, ``test_dataset`` and
    ``predict_dataset`` in ``setup``. Each is a map-style dataset whose samples have an
    ``image_<m>`` for every modality in its physical unit. The datamodule checks the first
    batches of each stage and scales all batches to [0, 1] on the device with
    :class:`~torchgeo_decur.transforms.ScaleToUnit`.

    Args:
        modalities: modalities by name. Each is a
            :class:`~torchgeo_decur.modalities.Modality`, the name of a predefined
            modality, or a dictionary of its fields.
        batch_size: samples per batch and device.
        num_workers: number of worker processes per data loader.
        seed: seed for splits, sampling and other random choices. The default is the seed
            set by ``seed_everything``, or 0 if none is set. If ``seed`` is not given, a
            resumed fit restores the original seed.
        label_fraction: fraction of the training samples to use, such as 0.01. With the
            same seed, larger subsets contain the smaller ones. The choice is stratified
            if the samples have class labels.
        paired_fraction: fraction of complete samples in each training batch, in (0, 1],
            for partly paired data; see
            :class:`~torchgeo_decur.datamodules.PairedSampler`. By default, samples are
            drawn regardless of their modalities.

    Raises:
        ValueError: if a modality is invalid, ``batch_size`` is not positive, ``seed`` is
            negative, or ``label_fraction`` or ``paired_fraction`` is out of range.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality | str | Mapping[str, Any]],
        batch_size: int = 64,
        num_workers: int = 0,
        *,
        seed: int | None = None,
        label_fraction: float = 1.0,
        paired_fraction: float | None = None,
    ) -> None:
        """Initialize a new MultimodalDataModule instance."""
        if paired_fraction is not None and not 0 < paired_fraction <= 1:
            raise ValueError(
                f'paired_fraction must be in (0, 1], got {paired_fraction}'
            )
        if not 0 < label_fraction <= 1:
            raise ValueError(f'label_fraction must be in (0, 1], got {label_fraction}')
        if batch_size < 1:
            raise ValueError(f'batch_size must be positive, got {batch_size}')
        if seed is not None and seed < 0:
            raise ValueError(f'seed must not be negative, got {seed}')
        super().__init__(Dataset, batch_size, num_workers)
        self.seed = global_seed() if seed is None else seed
        self._seed_is_given = seed is not None
        self._has_reported = False
        self.label_fraction = label_fraction
        self.paired_fraction = paired_fraction
        self.set_modalities(modalities)

    def set_modalities(
        self, modalities: Mapping[str, Modality | str | Mapping[str, Any]]
    ) -> None:
        """Set the modalities and their scaling.

        A subclass may call this method again in ``setup`` to use statistics or nodata
        values from the data.

        Args:
            modalities: modalities in the form that the constructor accepts.
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
        """Return the seed for a checkpoint."""
        return {'seed': self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed from a checkpoint and repeat the split.

        With another seed, a resumed fit would validate on training samples. A seed that
        was passed to the constructor takes precedence.
        """
        seed = state_dict.get('seed', self.seed)
        if self._seed_is_given or seed == self.seed:
            return
        self.seed = seed
        # Repeat setup, because Lightning calls it before it loads the checkpoint.
        if self.trainer is not None and self.trainer.state.fn is not None:
            self.setup(self.trainer.state.fn)

    def freeze(self) -> None:
        """Make samples independent of the epoch before they are packed.

        This method is called before ``setup``. Subclasses whose samples change with the
        epoch override it.
        """

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Unwrap a batch that was protected from conversion to another precision."""
        batch = batch.batch if isinstance(batch, Unconverted) else batch
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(
        self, batch: Sample, device: torch.device, dataloader_idx: int
    ) -> Sample:
        """Move all tensors of a batch to the device except ``available_<m>``.

        Tasks read availability on the CPU to select samples. Copying it back from the
        device would require a synchronization.
        """
        kept = {k: v for k, v in batch.items() if str(k).startswith('available_')}
        if not kept:
            moved: Sample = super().transfer_batch_to_device(
                batch, device, dataloader_idx
            )
            return moved
        rest = {k: v for k, v in batch.items() if k not in kept}
        return {
            **super().transfer_batch_to_device(rest, device, dataloader_idx),
            **kept,
        }

    def on_after_batch_transfer(self, batch: Sample, dataloader_idx: int) -> Sample:
        """Check the first batches of each stage and scale every batch to [0, 1].

        Returns:
            The batch with scaled images, in the precision of the trainer.

        Raises:
            ValueError: if the values in a checked batch contradict the modalities.
        """
        trainer = self.trainer
        training = trainer is not None and trainer.training
        # Lightning's sanity check uses the validation split.
        checking = trainer is not None and (
            trainer.validating or trainer.sanity_checking
        )
        stage = 'train' if training else 'val' if checking else 'other'
        # Batches of cached features have no images.
        has_images = any(str(key).startswith('image') for key in batch)
        if has_images and not self.first_batches.done(stage):
            channels = {m: modality.channels for m, modality in self.modalities.items()}
            images = drop_absent(split(batch, channels), get_available(batch, channels))
            self.first_batches.look(images, stage, training)
        scaled: Sample = super().on_after_batch_transfer(batch, dataloader_idx)
        return cast(Sample, convert_images(scaled, trainer))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Create a loader of shuffled batches that starts at the current training step.

        Raises:
            ValueError: if the batch size is less than two or exceeds the number of
                training samples on each device.
        """
        dataset = self._dataset('train')
        self._report_subsets()
        trainer = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        sampler = self._sampler(dataset, world, rank)
        if self.batch_size < 2 or len(sampler) < self.batch_size:
            raise ValueError(
                f'batch_size must be between 2 and the number of training samples per '
                f'device ({len(sampler)}), got {self.batch_size}; change batch_size'
            )
        return ResumableLoader(
            dataset,
            sampler=sampler,
            trainer=trainer,
            drop_last=True,
            **self._loader_options,
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Create a loader of the validation split without shuffling."""
        return self._loader(self._dataset('val'))

    def test_dataloader(self) -> DataLoader[Sample]:
        """Create a loader of the test split without shuffling."""
        return self._loader(self._dataset('test'))

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Create a loader of the prediction split without shuffling."""
        return self._loader(self._dataset('predict'))

    def budget(
        self,
        number: int,
        labels: Callable[[], Tensor] | None = None,
        names: Sequence[str] = (),
    ) -> list[int]:
        """Choose training samples according to ``label_fraction``.

        A warning lists the classes without any chosen sample.

        Args:
            number: number of training samples.
            labels: function that returns the labels, shape (N,) or (N, K), or None for
                unlabeled samples. The function is called only if ``label_fraction`` is
                less than 1.
            names: class names for the warning.

        Returns:
            Sorted indices of the chosen samples.
        """
        if self.label_fraction == 1:
            return list(range(number))
        known = torch.zeros(number, dtype=torch.long) if labels is None else labels()
        chosen, lost = take_budget(known, self.label_fraction, self.seed)
        if lost:
            rank_zero_warn(
                f'label_fraction {self.label_fraction} keeps {len(chosen)} of {number} '
                f'training samples, but none with the classes '
                f'{[names[i] if names else i for i in lost]}; increase label_fraction'
            )
        return chosen

    def hold_out(
        self, dataset: FileDataset, groups: Sequence[Hashable], fraction: float
    ) -> None:
        """Split a dataset by group into training and validation datasets.

        Args:
            dataset: dataset to split.
            groups: group of each sample, such as its location. All samples of a group are
                in the same split.
            fraction: fraction of groups for validation. If 0, there is no validation
                split.
        """
        kept, held_out = split_groups(groups, fraction, self.seed)
        some = self.budget(len(kept))
        self.train_dataset = dataset.subset(kept[i] for i in some)
        if held_out:
            self.val_dataset = dataset.subset(held_out)

    def _sampler(
        self, dataset: Dataset[Sample], world: int, rank: int
    ) -> ResumableSampler:
        # PyTorch shuffles with seed + epoch, so nearby seeds would share permutations.
        seed = 1_000_003 * self.seed
        if self.paired_fraction is not None and self.batch_size > 1:
            availability = get_availability(dataset)
            if availability and not np.all(list(availability.values())):
                return PairedSampler(
                    dataset,
                    world,
                    rank,
                    batch_size=self.batch_size,
                    paired_fraction=self.paired_fraction,
                    seed=seed,
                )
            rank_zero_warn(
                f'paired_fraction {self.paired_fraction} has no effect, because all '
                'training samples have all modalities according to the dataset; remove '
                'the option paired_fraction'
            )
        return ResumableSampler(
            dataset, world, rank, shuffle=True, seed=seed, drop_last=True
        )

    def _dataset(self, name: Split) -> Dataset[Sample]:
        dataset: Dataset[Sample] = self._valid_attribute(f'{name}_dataset', 'dataset')
        return dataset

    def _report_subsets(self) -> None:
        """Print the number of samples per modality subset on the first call only."""
        if self._has_reported:
            return
        self._has_reported = True
        found = {
            name: get_availability(getattr(self, f'{name}_dataset'))
            for name in ('train', 'val')
        }
        report_subsets(
            {name: count_subsets(x) for name, x in found.items() if x is not None},
            list(self.modalities),
        )

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
        unconverted = converts(self.trainer)
        if self.num_workers:
            options['collate_fn'] = RecyclingCollate(self.num_workers, unconverted)
        elif unconverted:
            options['collate_fn'] = collate_unconverted
        return options


class FileDataModule(MultimodalDataModule):
    """Base class of datamodules for downloadable datasets.

    Args:
        modalities: modalities by name.
        root: dataset folder, also used for downloads.
        download: whether to download missing files.
        checksum: whether to verify checksums of downloaded files.
        skip_unreadable: whether to replace a sample that has a damaged file with the next
            one.
        conversion: ``scale``, ``offset`` and ``nodata`` by modality, to convert file
            values to the unit of the modality. Examples are ``{dem: {nodata: -9999}}``
            and, for Sentinel-2 products since processing baseline 04.00,
            ``{s2: {offset: -1000}}``.
        options: options of :class:`MultimodalDataModule`.

    Raises:
        ValueError: if an option is invalid.

    Attributes:
        kwargs: arguments for the dataset.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality | str],
        root: str = 'data',
        *,
        download: bool = False,
        checksum: bool = True,
        skip_unreadable: bool = False,
        conversion: dict[str, dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        """Initialize a new FileDataModule instance."""
        super().__init__(converted(modalities, conversion), **options)
        self.kwargs: dict[str, Any] = {
            'root': root,
            'download': download,
            'checksum': checksum,
            'skip_unreadable': skip_unreadable,
            'conversion': conversion,
        }


def check_val_fraction(val_fraction: float) -> float:
    """Check that a validation fraction is in [0, 1) and return it."""
    if not 0 <= val_fraction < 1:
        raise ValueError(f'val_fraction must be in [0, 1), got {val_fraction}')
    return val_fraction


def global_seed() -> int:
    """Return the seed set by ``seed_everything``, or 0 if none is set.

    All processes of a run have the same global seed. PyTorch's initial seed is random, so
    splits based on it would change with every run.
    """
    return int(os.environ.get('PL_GLOBAL_SEED', 0))
