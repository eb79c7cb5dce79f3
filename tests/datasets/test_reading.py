import warnings

import pytest
import torch
from torchgeo.datasets.utils import Sample

from torchgeo_decur.datasets.base import FileDataset, UnreadableFileError
from torchgeo_decur.datasets.resizing import resize


class Damaged(FileDataset):
    """Numbers; all except the last of each hundred are damaged."""

    def __init__(self, length: int) -> None:
        self.samples = range(length)
        self.skip_unreadable = True
        self.loaded: list[int] = []

    def load(self, item: int) -> Sample:
        self.loaded.append(item)
        if item % 100 != 99:
            raise UnreadableFileError(f'{item} is damaged')
        return {'number': torch.tensor(item)}


def test_damaged_samples_are_counted_at_powers_of_ten() -> None:
    dataset = Damaged(200)
    with pytest.warns(UserWarning) as caught:
        assert dataset[0]['number'] == 99
        assert dataset[100]['number'] == 199
    counts = [str(w.message).split()[1] for w in caught]
    assert counts == ['1', '10', '100']
    assert 'skipped 10 of 200 samples after read errors' in str(caught[1].message)
    assert len(dataset.unreadable) == 198


def test_damaged_sample_is_tried_once_and_the_end_wraps_around() -> None:
    dataset = Damaged(105)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert dataset[102]['number'] == 99
        dataset.loaded.clear()
        assert dataset[102]['number'] == 99
    assert dataset.loaded == [99]


def test_resize_is_bilinear_between_the_centres_of_pixels() -> None:
    image = torch.tensor([[[0.0, 4.0], [8.0, 12.0]]])
    row = torch.tensor([0.0, 1.0, 3.0, 4.0])
    assert torch.equal(resize(image, 4)[0], row + 2 * row[:, None])
    assert resize(image, 2) is image
