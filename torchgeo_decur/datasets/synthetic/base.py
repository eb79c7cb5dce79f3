"""Base class of datasets of synthetic scenes."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from ...modalities import MODALITIES, Modality, mark_available
from .landscapes import Floats


class SyntheticScenes(NonGeoDataset):
    """Base class of datasets whose scenes are generated on access.

    Args:
        modalities: names of the modalities in order.
        length: number of scenes.
        size: height and width in pixels.
        seed: seed of all scenes.
        num_dates: number of dates T per scene.
        cache: whether each process keeps generated scenes in memory.
        paired: probability that a scene has all modalities. Other scenes have a single
            random modality. Absent images are zeros, and each sample has
            ``available_<m>``.
        transforms: function that transforms each sample and returns a new one.
        numbers: other options by name. Each must be a nonnegative number.

    Raises:
        ValueError: if a number is out of range.
    """

    #: Predefined modality with the same bands and unit, by name.
    all_modalities: ClassVar[dict[str, str]]

    def __init__(
        self,
        modalities: Sequence[str],
        length: int,
        size: int,
        seed: int,
        num_dates: int,
        cache: bool,
        paired: float,
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None,
        **numbers: float,
    ) -> None:
        """Initialize a new SyntheticScenes instance."""
        limits: dict[str, tuple[float, int]] = {
            'length': (length, 1),
            'size': (size, 16),
            'seed': (seed, 0),
            'num_dates': (num_dates, 1),
            **{name: (value, 0) for name, value in numbers.items()},
        }
        for name, (value, low) in limits.items():
            if not value >= low:
                raise ValueError(f'{name} must be at least {low}, got {value}')
        if not 0 <= paired <= 1:
            raise ValueError(f'paired must be in [0, 1], got {paired}')
        self.modalities = tuple(modalities)
        self.length = length
        self.size = size
        self.seed = seed
        self.num_dates = num_dates
        self.cache = cache
        self.paired = paired
        self.transforms = transforms
        self._cached: dict[int, dict[str, Any]] = {}

    @cached_property
    def availability(self) -> dict[str, NDArray[np.bool_]]:
        """Boolean array per modality that is True for scenes with this modality."""
        return dict(zip(self.modalities, self._draw_available(), strict=True))

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Generate a scene.

        Args:
            index: index of the scene.

        Returns:
            The sample from :meth:`render` after ``transforms``.

        Raises:
            IndexError: if ``index`` is out of range.
        """
        sample = self._cached.get(index) or self.render(index)
        if self.cache:
            self._cached[index] = sample
        sample = dict(sample)
        return sample if self.transforms is None else self.transforms(sample)

    @abstractmethod
    def render(self, index: int) -> dict[str, Any]:
        """Generate the sample of a scene without ``transforms``."""

    @abstractmethod
    def _draw_available(self) -> NDArray[np.bool_]:
        """Draw the availability mask of each modality, shape (M, ``length``)."""

    def _images(
        self, index: int, image: Callable[[str, int], Floats]
    ) -> dict[str, Tensor]:
        """Generate the images of a scene and mark absent images.

        Args:
            index: index of the scene.
            image: function that generates the image of a modality for a date, shape
                (C, H, W).

        Returns:
            The images and, if scenes may be incomplete, ``available_<m>``.
        """
        found: dict[str, Tensor] = {}
        absent = [m for m, has in self.availability.items() if not has[index]]
        for m in self.modalities:
            shape = (self.num_dates, self._records[m].channels, self.size, self.size)
            dates = (
                torch.zeros(shape)
                if m in absent
                else torch.from_numpy(
                    np.stack([image(m, date) for date in range(self.num_dates)])
                )
            )
            found[f'image_{m}'] = dates[0] if self.num_dates == 1 else dates
        if self.paired < 1:
            found |= mark_available(self.modalities, absent)
        return found

    @property
    def _records(self) -> dict[str, Modality]:
        return {m: MODALITIES[self.all_modalities[m]] for m in self.modalities}

    def _present_images(self, sample: dict[str, Any]) -> dict[str, Tensor]:
        return {
            m: sample[f'image_{m}']
            for m in self.modalities
            if sample.get(f'available_{m}', True)
        }

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.length:
            raise IndexError(f'index must be in [0, {self.length - 1}], got {index}')
