"""Mean and standard deviation of bands, estimated where nobody gives them."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ..modalities import Modality, cure_of_holes, invalid_pixels
from .base import MultimodalDataModule


class StatisticsDataModule(MultimodalDataModule):
    """Base of the datamodules that estimate statistics, and keep them in checkpoints.

    Attributes:
        entries: what the user says of each modality; ``mean`` given there stays.
        statistics: ``mean`` and ``std`` of each modality that were estimated.
    """

    entries: Mapping[str, Mapping[str, Any]]
    statistics: dict[str, dict[str, list[float]]]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the seed, and statistics that were estimated."""
        return {**super().state_dict(), 'statistics': self.statistics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seed and the statistics of a checkpoint instead of those found here.

        Args:
            state_dict: as :meth:`state_dict` returned it.
        """
        super().load_state_dict(state_dict)
        found = state_dict.get('statistics', {})
        self.use({m: s for m, s in found.items() if m in self.modalities})

    def wanted(self) -> list[str]:
        """Modalities that cannot be scaled without statistics, and have none yet."""
        return [
            m
            for m, modality in self.modalities.items()
            if modality.limits is None
            and modality.kind not in ('elevation', 'depth')
            and m not in self.statistics
        ]

    def use(self, statistics: Mapping[str, dict[str, list[float]]]) -> None:
        """Scale by these statistics where the entries give none.

        Args:
            statistics: ``mean`` and ``std`` of modalities, by name.
        """
        own = {m for m in statistics if self.entries[m].get('mean') is None}
        self.statistics = {m: statistics[m] for m in own}
        self.set_modalities(
            {
                m: Modality.of({**vars(modality), **self.statistics.get(m, {})})
                for m, modality in self.modalities.items()
            }
        )


class Moments:
    """Mean and standard deviation of each band, one image after another.

    Args:
        modality: what the images are.
        windows: what they are called in messages.
    """

    def __init__(self, modality: Modality, windows: str = 'training windows') -> None:
        """Initialize a new Moments instance."""
        self.modality = modality
        self.windows = windows
        self.count, self.mean, self.squares = torch.zeros(
            3, modality.channels, dtype=torch.double
        )

    def add(self, name: str, image: Tensor) -> None:
        """Count one image.

        Args:
            name: name of the modality, for the message.
            image: shape (C, H, W).

        Raises:
            ValueError: if values are NaN or infinite that are not nodata.
        """
        x = image.double().flatten(1)
        invalid = invalid_pixels(x, self.modality.nodata)
        valid = torch.ones_like(x) if invalid is None else (~invalid).double()
        if not (x.isfinite() | (valid == 0)).all():
            raise ValueError(
                f'{name}: expected finite values, found NaN or infinite ones; '
                f'{cure_of_holes(self.modality)}'
            )
        x = torch.where(valid > 0, x, 0.0)
        n = valid.sum(1)
        mean = x.sum(1) / n.clamp(min=1)
        squares = ((x - mean[:, None]).square() * valid).sum(1)
        total = (self.count + n).clamp(min=1)
        delta = mean - self.mean
        self.squares = self.squares + squares + delta.square() * self.count * n / total
        self.mean = self.mean + delta * n / total
        self.count = self.count + n

    def result(self, name: str) -> dict[str, list[float]]:
        """Mean and standard deviation of what was counted.

        Args:
            name: name of the modality, for the message.

        Returns:
            ``mean`` and ``std``.

        Raises:
            ValueError: if a band is constant.
        """
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        flat = [b for b, s in zip(self.modality.bands, std, strict=True) if s <= 0]
        if flat:
            raise ValueError(
                f'{name}: expected values that vary, found a constant in bands {flat} of '
                f'the {self.windows}; correct nodata, or leave the bands out'
            )
        # As many digits as are printed: pasted numbers are then those used here.
        return {
            key: [float(f'{v:.6g}') for v in values.tolist()]
            for key, values in (('mean', self.mean), ('std', std))
        }


@rank_zero_only
def report(statistics: Mapping[str, dict[str, list[float]]], first: str) -> None:
    """Print statistics so that they can be pasted into the configuration.

    Args:
        statistics: ``mean`` and ``std`` of modalities, by name.
        first: the line before them.
    """
    print(first)
    for m, values in statistics.items():
        print(f'  {m}:', *(f'    {k}: {v}' for k, v in values.items()), sep='\n')
