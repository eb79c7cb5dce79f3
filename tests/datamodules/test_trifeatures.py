"""Check splits, scale, budgets and pairing of TrifeaturesDataModule."""

from typing import Any

import pytest
import torch
from torch.utils.data import Subset

from torchgeo_decur.datamodules import TrifeaturesDataModule
from torchgeo_decur.datasets import Trifeatures

SPLITS = ('train', 'val', 'test', 'predict')


def datamodule(**options: Any) -> TrifeaturesDataModule:
    small = {'length': 40, 'val_length': 8, 'batch_size': 4, 'size': 16}
    made = TrifeaturesDataModule(**{**small, **options})
    made.setup('fit')
    return made


def test_splits_have_the_requested_lengths() -> None:
    made = datamodule()
    datasets = [getattr(made, f'{split}_dataset') for split in SPLITS]
    assert [len(d) for d in datasets] == [40, 8, 8, 8]
    assert [d.split for d in datasets] == ['train', 'val', 'test', 'test']


def test_options_reach_the_pairs() -> None:
    made = datamodule(seed=3, pairing='biased')
    for split in SPLITS[:3]:
        found = getattr(made, f'{split}_dataset')
        expected = Trifeatures(split, 8, 16, 3, 'biased')  # type: ignore[arg-type]
        for k, v in expected[5].items():
            assert torch.equal(found[5][k], v)
        assert all(d['label_synergy'] == 1 for d in map(found.draw_labels, range(8)))


def test_batches_are_scaled() -> None:
    made = datamodule(pairing='balanced')
    batch = made.aug(next(iter(made.train_dataloader())))
    for m in ('first', 'second'):
        image = batch[f'image_{m}']
        assert image.shape == (4, 3, 16, 16)
        assert 0 <= image.min() and 0.6 < image.max() <= 1
        assert image[0, 0, 0, 0] == pytest.approx(128 / 255)
    synergy = [
        int(d['label_synergy']) for d in map(made.val_dataset.__getitem__, range(8))
    ]
    assert sum(synergy) == 4


def test_budget_is_stratified() -> None:
    made = datamodule(length=1000, label_fraction=0.02)
    assert isinstance(made.train_dataset, Subset)
    shapes = {
        made.train_dataset.dataset.draw_labels(i)['label_share']
        for i in made.train_dataset.indices
    }
    assert len(made.train_dataset) == 20
    assert shapes == set(range(10))


def test_pairing_is_checked() -> None:
    with pytest.raises(ValueError, match=r"pairing must be one of .*, got 'any'"):
        datamodule(pairing='any')
