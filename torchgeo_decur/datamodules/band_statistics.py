"""Estimate the mean and standard deviation of bands."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from ..datasets.base import FileDataset
from ..modalities import Modality, invalid_pixels, nodata_hint
from .base import MultimodalDataModule

# Maximum number of samples for estimating statistics.
_MOST = 64


class StatisticsDataModule(MultimodalDataModule):
    """Base class of datamodules that estimate and checkpoint the statistics of bands.

    Attributes:
        entries: config entry of each modality. The ``mean`` and ``std`` of an entry take
            precedence over estimates.
        statistics: estimated ``mean`` and ``std`` by modality.
    """

    entries: Mapping[str, Mapping[str, Any]]
    statistics: dict[str, dict[str, list[float]]]

    def state_dict(self) -> dict[str, Any]:
        """Return the seed and the estimated statistics for a checkpoint."""
        return {**super().state_dict(), 'statistics': self.statistics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed and the statistics from a checkpoint."""
        super().load_state_dict(state_dict)
        found = state_dict.get('statistics', {})
        self.use({m: s for m, s in found.items() if m in self.modalities})

    def wanted(self) -> list[str]:
        """Return the modalities that require statistics for scaling but have none."""
        return [
            m
            for m, modality in self.modalities.items()
            if modality.limits is None
            and modality.kind not in ('elevation', 'depth')
            and m not in self.statistics
        ]

    def use(self, statistics: Mapping[str, dict[str, list[float]]]) -> None:
        """Set statistics of modalities whose config entries have no ``mean``.

        Args:
            statistics: ``mean`` and ``std`` by modality.
        """
        own = {m for m in statistics if self.entries[m].get('mean') is None}
        self.statistics = {m: statistics[m] for m in own}
        self.set_modalities(
            {
                m: Modality.of({**vars(modality), **self.statistics.get(m, {})})
                for m, modality in self.modalities.items()
            }
        )

    def estimate(
        self, dataset: FileDataset, what: str = 'frames', where: str = 'images'
    ) -> None:
        """Estimate and print missing statistics from up to 64 samples per modality.

        Args:
            dataset: training dataset.
            what: plural noun for the samples in messages.
            where: config key of the entries, for messages.

        Raises:
            ValueError: if a modality is absent from all samples, a band is constant, or a
                value is NaN or infinite without being nodata.
        """
        wanted = self.wanted()
        if not wanted:
            return
        order = torch.randperm(
            len(dataset), generator=torch.Generator().manual_seed(self.seed)
        ).tolist()
        available = dataset.availability
        moments = {m: Moments(self.modalities[m], f'training {what}') for m in wanted}
        chosen = {m: [i for i in order if available[m][i]][:_MOST] for m in wanted}
        for m, indices in chosen.items():
            if not indices:
                raise ValueError(
                    f'{m}: expected {what} with this modality to estimate mean and std, '
                    f'found none among {len(dataset)}; check the entry of this modality, '
                    'or set its mean and std'
                )
        some = set().union(*chosen.values())
        for index in filter(some.__contains__, order):
            sample = dataset[index]
            for m in wanted:
                if index in chosen[m]:
                    # Use only the first of several dates.
                    image = sample[f'image_{m}']
                    moments[m].add(m, image[0] if image.ndim == 4 else image)
        self.use({**self.statistics, **{m: moments[m].result(m) for m in wanted}})
        report(
            {m: self.statistics[m] for m in wanted},
            f'Statistics of {len(some)} training {what}. To reuse them, copy them to '
            f'{where}:',
        )


class Moments:
    """Accumulator for the mean and standard deviation of each band.

    Args:
        modality: metadata of the modality.
        windows: plural noun for the images in messages.
    """

    def __init__(self, modality: Modality, windows: str = 'training windows') -> None:
        """Initialize a new Moments instance."""
        self.modality = modality
        self.windows = windows
        self.count, self.mean, self.squares = torch.zeros(
            3, modality.channels, dtype=torch.double
        )

    def add(self, name: str, image: Tensor) -> None:
        """Update the statistics with one image.

        Args:
            name: modality name for error messages.
            image: image, shape (C, H, W).

        Raises:
            ValueError: if values other than nodata are NaN or infinite.
        """
        x = image.double().flatten(1)
        invalid = invalid_pixels(x, self.modality.nodata)
        valid = torch.ones_like(x) if invalid is None else (~invalid).double()
        if not (x.isfinite() | (valid == 0)).all():
            raise ValueError(
                f'{name}: expected finite values, found NaN or infinity; '
                f'{nodata_hint(self.modality)}'
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
        """Return the mean and standard deviation of all added images.

        Args:
            name: modality name for error messages.

        Returns:
            ``mean`` and ``std`` of each band.

        Raises:
            ValueError: if a band is constant.
        """
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        flat = [b for b, s in zip(self.modality.bands, std, strict=True) if s <= 0]
        if flat:
            raise ValueError(
                f'{name}: expected varying values, found constant bands {flat} in the '
                f'{self.windows}; correct the option nodata or remove these bands'
            )
        # Round as in the printed report so that copied values give the same scaling.
        return {
            key: [float(f'{v:.6g}') for v in values.tolist()]
            for key, values in (('mean', self.mean), ('std', std))
        }


@rank_zero_only
def report(statistics: Mapping[str, dict[str, list[float]]], first: str) -> None:
    """Print a heading and the statistics of each modality in YAML format."""
    print(first)
    for m, values in statistics.items():
        print(f'  {m}:', *(f'    {k}: {v}' for k, v in values.items()), sep='\n')
