"""The built-in data, for a first run, for tests and for controlled comparisons."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..datasets import SyntheticEO
from ..deprecation import renamed_arguments
from .base import MultimodalDataModule


class SyntheticEODataModule(MultimodalDataModule):
    """Scenes of :class:`~torchgeo_decur.datasets.SyntheticEO`, made as they are needed.

    Args:
        modalities: which of 's1', 's2', 'dem' and 'rgb'.
        length: number of training scenes.
        val_length: number of scenes of the validation, the test and the predict split.
        size: height and width of a scene in pixels.
        num_dates: number of dates T of each place.
        common_strength: contrast of what both sensors see.
        unique_strength: contrast of what one sensor alone sees.
        multilabel: whether samples have ``label``, the classes of ``label_common``,
            ``label_s1`` and ``label_s2`` as one multi-label task.
        cache: whether training scenes stay in memory once they are made, in each process.
        label_fraction: fraction of the training scenes to train with, stratified by
            ``label_common``.
        batch_size: samples of a batch on each device.
        num_workers: worker processes of each data loader.
        seed: seed of the training scenes and of the shuffle; the other splits have
            seeds of their own. By default that of ``seed_everything``.

    Raises:
        ValueError: if a modality is unknown or a number is out of range.

    Example:
        >>> datamodule = SyntheticEODataModule(length=8, val_length=4, batch_size=4, size=32)
        >>> datamodule.setup('fit')
        >>> next(iter(datamodule.train_dataloader()))['image_s2'].shape
        torch.Size([4, 13, 32, 32])
    """

    @renamed_arguments(keep='cache')
    def __init__(
        self,
        modalities: Sequence[str] = ('s1', 's2'),
        *,
        length: int = 4096,
        val_length: int = 1024,
        size: int = 64,
        num_dates: int = 1,
        common_strength: float = 1.0,
        unique_strength: float = 1.0,
        multilabel: bool = False,
        cache: bool = False,
        label_fraction: float = 1.0,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """Initialize a new SyntheticEODataModule instance."""
        known = SyntheticEO.all_modalities
        unknown = [m for m in modalities if m not in known]
        if unknown:
            raise ValueError(f'modalities must be among {list(known)}, got {unknown}')
        super().__init__(
            {m: known[m] for m in modalities},
            batch_size,
            num_workers,
            seed=seed,
            label_fraction=label_fraction,
        )
        self.length = length
        self.val_length = val_length
        self.cache = cache
        self.kwargs = {
            'modalities': tuple(modalities),
            'size': size,
            'num_dates': num_dates,
            'common_strength': common_strength,
            'unique_strength': unique_strength,
            'multilabel': multilabel,
        }

    def setup(self, stage: str) -> None:
        """Make the datasets; scenes are made when they are read.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        splits = {'train': 0, 'val': 1, 'test': 2, 'predict': 3}
        scenes = {
            name: SyntheticEO(
                self.length if name == 'train' else self.val_length,
                seed=len(splits) * self.seed + number,
                cache=self.cache and name == 'train',
                **self.kwargs,
            )
            for name, number in splits.items()
        }
        for name, dataset in scenes.items():
            setattr(self, f'{name}_dataset', dataset)
        if self.label_fraction < 1:
            train = scenes['train']
            kept = self.budget(len(train), partial(_labels, train))
            self.train_dataset = Subset(train, kept)


def _labels(dataset: SyntheticEO) -> Tensor:
    drawn = (dataset.draw_labels(i)['label_common'] for i in range(len(dataset)))
    return torch.tensor(list(drawn))
