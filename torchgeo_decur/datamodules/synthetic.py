"""Datamodules of synthetic scenes for first runs, tests and controlled comparisons."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..datasets import SyntheticEO, SyntheticFactors
from ..deprecation import renamed_arguments
from .base import MultimodalDataModule


class SyntheticDataModule(MultimodalDataModule):
    """Base class of datamodules of synthetic scenes.

    Scenes are generated on access, scaled to [0, 1] and different in each split.

    Args:
        modalities: name of the predefined modality for each modality.
        length: number of training scenes.
        val_length: number of scenes in each of the validation, test and prediction
            splits.
        cache: whether each process keeps its training scenes in memory.
        paired: probability that a training scene has all modalities. Other scenes have
            only one.
        drop_unpaired: whether to train only on scenes that have all modalities.
        options: options of :class:`~torchgeo_decur.datamodules.MultimodalDataModule`.

    Raises:
        ValueError: if a number is out of range.

    Attributes:
        kwargs: options of the dataset.
    """

    source: ClassVar[type[SyntheticEO] | type[SyntheticFactors]]
    kwargs: dict[str, Any]

    @renamed_arguments(keep='cache')
    def __init__(
        self,
        modalities: Mapping[str, str],
        *,
        length: int = 4096,
        val_length: int = 1024,
        cache: bool = False,
        paired: float = 1.0,
        drop_unpaired: bool = False,
        **options: Any,
    ) -> None:
        """Initialize a new SyntheticDataModule instance."""
        super().__init__(modalities, **options)
        self.length = length
        self.val_length = val_length
        self.cache = cache
        self.paired = paired
        self.drop_unpaired = drop_unpaired

    def setup(self, stage: str) -> None:
        """Create the datasets of all splits."""
        splits = {'train': 0, 'val': 1, 'test': 2, 'predict': 3}
        scenes = {
            name: self.source(
                self.length if name == 'train' else self.val_length,
                seed=len(splits) * self.seed + number,
                cache=self.cache and name == 'train',
                paired=self.paired if name == 'train' else 1.0,
                **self.kwargs,
            )
            for name, number in splits.items()
        }
        for name, dataset in scenes.items():
            setattr(self, f'{name}_dataset', dataset)
        train = scenes['train']
        kept = self._choose(train)
        if self.drop_unpaired:
            has = train.availability.values()
            kept = [i for i in kept if all(x[i] for x in has)]
        if len(kept) < len(train):
            self.train_dataset = Subset(train, kept)

    def _choose(self, train: Any) -> list[int]:
        """Choose training scenes according to ``label_fraction``."""
        return self.budget(len(train))


class SyntheticEODataModule(SyntheticDataModule):
    """Datamodule of :class:`~torchgeo_decur.datasets.SyntheticEO` scenes.

    Scenes are generated on access, scaled to [0, 1] and different in each split. With
    ``label_fraction``, training scenes are stratified by ``label_common``.

    Args:
        modalities: names of one or more modalities: 's1', 's2', 'dem' and 'rgb'.
        size: height and width of a scene in pixels.
        num_dates: number of dates T per scene.
        common_strength: contrast of the factor that all sensors observe.
        unique_strength: contrast of the factors that only one sensor observes.
        multilabel: whether to add ``label``, a multi-label target that combines
            ``label_common``, ``label_s1`` and ``label_s2``.
        options: options of :class:`~torchgeo_decur.datamodules.SyntheticDataModule`, such
            as ``length``.

    Raises:
        ValueError: if a modality is unknown or a number is out of range.

    Example:
        >>> datamodule = SyntheticEODataModule(length=8, val_length=4, batch_size=4, size=32)
        >>> datamodule.setup('fit')
        >>> next(iter(datamodule.train_dataloader()))['image_s2'].shape
        torch.Size([4, 13, 32, 32])
    """

    source = SyntheticEO

    def __init__(
        self,
        modalities: Sequence[str] = ('s1', 's2'),
        *,
        size: int = 64,
        num_dates: int = 1,
        common_strength: float = 1.0,
        unique_strength: float = 1.0,
        multilabel: bool = False,
        **options: Any,
    ) -> None:
        """Initialize a new SyntheticEODataModule instance."""
        known = SyntheticEO.all_modalities
        unknown = [m for m in modalities if m not in known]
        if unknown:
            raise ValueError(f'modalities must be among {list(known)}, got {unknown}')
        super().__init__({m: known[m] for m in modalities}, **options)
        self.kwargs = {
            'modalities': tuple(modalities),
            'size': size,
            'num_dates': num_dates,
            'common_strength': common_strength,
            'unique_strength': unique_strength,
            'multilabel': multilabel,
        }

    def _choose(self, train: SyntheticEO) -> list[int]:
        return self.budget(len(train), partial(_labels, train))


class SyntheticFactorsDataModule(SyntheticDataModule):
    """Datamodule of :class:`~torchgeo_decur.datasets.SyntheticFactors` scenes.

    Scenes are generated on access, scaled to [0, 1] and different in each split. With
    ``label_fraction``, training uses a random subset of the scenes.

    Args:
        size: height and width of a scene in pixels.
        shared: number of factors that both sensors observe.
        unique: number of factors that only one sensor observes, by modality.
        states: number of states per factor, or 0 for continuous factors.
        strength: contrast of the factor textures.
        noise: standard deviation of the noise, relative to a texture of strength 1.
        num_dates: number of dates T per scene.
        options: options of :class:`~torchgeo_decur.datamodules.SyntheticDataModule`, such
            as ``length``.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> datamodule = SyntheticFactorsDataModule(length=8, batch_size=4, size=32)
        >>> datamodule.setup('fit')
        >>> next(iter(datamodule.train_dataloader()))['image_s2'].shape
        torch.Size([4, 13, 32, 32])
    """

    source = SyntheticFactors

    def __init__(
        self,
        *,
        size: int = 48,
        shared: int = 2,
        unique: Mapping[str, int] | None = None,
        states: int = 0,
        strength: float = 1.0,
        noise: float = 0.5,
        num_dates: int = 1,
        **options: Any,
    ) -> None:
        """Initialize a new SyntheticFactorsDataModule instance."""
        super().__init__(dict(SyntheticFactors.all_modalities), **options)
        self.kwargs = {
            'size': size,
            'shared': shared,
            'unique': unique,
            'states': states,
            'strength': strength,
            'noise': noise,
            'num_dates': num_dates,
        }


def _labels(dataset: SyntheticEO) -> Tensor:
    drawn = (dataset.draw_labels(i)['label_common'] for i in range(len(dataset)))
    return torch.tensor(list(drawn))
