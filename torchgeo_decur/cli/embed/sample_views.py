"""Create views of samples from their dates and from flips."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.datasets.utils import Sample

# Dimensions to flip: none, columns, rows, both.
_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


class SampleViews(Dataset[Sample]):
    """Dataset with several consecutive views of each sample.

    The first views are the dates. The next ones are the dates flipped left to right, then
    top to bottom, then in both directions. Flips keep all values, so units remain valid.

    Args:
        dataset: dataset with images of shape (C, H, W), or (T, C, H, W) for T dates.
        views: number of views per sample.

    Raises:
        ValueError: if ``views`` is not between 1 and four times the number of dates.
    """

    def __init__(self, dataset: Any, views: int) -> None:
        """Initialize a new SampleViews instance."""
        dates = [len(x) for x in _images(dataset[0]).values() if x.ndim == 4]
        self.dataset, self.views = dataset, views
        self.dates = max(dates, default=1)
        most = self.dates * len(_FLIPS)
        if not 1 <= views <= most:
            raise ValueError(
                f'views must be from 1 to {most}, the number of dates times 4 '
                f'orientations, got {views}'
            )

    def __len__(self) -> int:
        """Return the total number of views."""
        return len(self.dataset) * self.views

    def __getitem__(self, index: int) -> Sample:
        """Return a view.

        Args:
            index: number of the view.
        """
        sample: Sample = dict(self.dataset[index // self.views])
        flip, date = divmod(index % self.views, self.dates)
        for key, x in _images(sample).items():
            # A modality may have fewer dates than another.
            image = x[date % len(x)] if x.ndim == 4 else x
            sample[key] = torch.flip(image, _FLIPS[flip])
        return sample

    def repeat(self, places: pd.DataFrame) -> pd.DataFrame:
        """Return a table with one row per view and the column ``view`` with its number.

        Args:
            places: table with one row for each sample.
        """
        number = [v for _ in range(len(places)) for v in range(self.views)]
        repeated = places.loc[places.index.repeat(self.views)].reset_index(drop=True)
        return repeated.assign(view=number)


def _images(sample: Sample) -> dict[str, Tensor]:
    return {str(k): x for k, x in sample.items() if str(k).startswith('image')}
