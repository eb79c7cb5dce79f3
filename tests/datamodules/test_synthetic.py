from typing import Any

import pytest
import torch

from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.datasets import SyntheticEO
from torchgeo_decur.modalities import MODALITIES

SPLITS = ('train', 'val', 'test', 'predict')


def datamodule(**options: Any) -> SyntheticEODataModule:
    small = {'length': 6, 'val_length': 4, 'batch_size': 2, 'size': 16}
    made = SyntheticEODataModule(**{**small, **options})
    made.setup('fit')
    return made


def test_no_scene_is_in_two_splits() -> None:
    scenes = [
        getattr(datamodule(seed=seed), f'{split}_dataset')[i]['image_s2']
        for seed in (0, 1)
        for split in SPLITS
        for i in range(4)
    ]
    sums = {round(scene.sum().item(), 3) for scene in scenes}
    assert len(sums) == len(scenes)


def test_splits_have_the_requested_lengths() -> None:
    made = datamodule()
    lengths = [len(getattr(made, f'{split}_dataset')) for split in SPLITS]
    assert lengths == [6, 4, 4, 4]


def test_setup_again_gives_the_same_scenes() -> None:
    for split in SPLITS:
        a, b = (getattr(datamodule(seed=3), f'{split}_dataset')[1] for _ in range(2))
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_options_reach_the_scenes() -> None:
    made = datamodule(
        modalities=('rgb', 'dem'), num_dates=3, common_strength=0.0, unique_strength=0.5
    )
    assert made.modalities == {
        'rgb': MODALITIES['geonrw_rgb'],
        'dem': MODALITIES['geonrw_dem'],
    }
    expected = SyntheticEO(
        4,
        seed=1,
        modalities=('rgb', 'dem'),
        size=16,
        num_dates=3,
        common_strength=0.0,
        unique_strength=0.5,
    )[2]
    found = made.val_dataset[2]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in found)
    assert found['image_rgb'].shape == (3, 3, 16, 16)


def test_refuses_an_unknown_modality() -> None:
    with pytest.raises(
        ValueError,
        match=r"among \['s1', 's2', 'dem', 'rgb'\], got \['radar', 'lidar'\]",
    ):
        SyntheticEODataModule(modalities=['radar', 's2', 'lidar'])


def test_old_name_of_the_cache_warns() -> None:
    with pytest.warns(FutureWarning, match='keep is deprecated .*; use cache'):
        assert SyntheticEODataModule(keep=True).cache
    with pytest.warns(FutureWarning, match='keep is deprecated .*; use cache'):
        assert SyntheticEO(keep=True).cache
