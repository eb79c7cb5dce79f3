"""Views of samples: their dates, and flipped images."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.datasets.utils import Sample

# Dimensions to flip: none, columns, rows, both.
_FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))


class SampleViews(Dataset[Sample]):
    """Several views of each sample, one after another.

    The views are the dates, then the dates of images flipped by columns, by rows and by
    both. Values never change, so that units stay valid.

    Args:
        dataset: dataset with images (C, H, W), or (T, C, H, W) with T dates.
        views: number of views of each sample.

    Raises:
        ValueError: if ``views`` exceeds four times the number of dates.
    """

    def __init__(self, dataset: Any, views: int) -> None:
        """Initialize a new SampleViews instance."""
        dates = [len(x) for x in _images(dataset[0]).values() if x.ndim == 4]
        self.dataset, self.views = dataset, views
        self.dates = max(dates, default=1)
        most = self.dates * len(_FLIPS)
        if not 1 <= views <= most:
            raise ValueError(
                f'views must be from 1 to {most}, four flips of {self.dates} dates, got '
                f'{views}'
            )

    def __len__(self) -> int:
        """Return the number of views of all samples."""
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
        """Return a table with one row for each view, and its number.

        Args:
            places: table with one row for each sample.
        """
        number = [v for _ in range(len(places)) for v in range(self.views)]
        repeated = places.loc[places.index.repeat(self.views)].reset_index(drop=True)
        return repeated.assign(view=number)


def _images(sample: Sample) -> dict[str, Tensor]:
    return {str(k): x for k, x in sample.items() if str(k).startswith('image')}
