"""Batches with enough samples that have all modalities."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import Subset

from tests.helpers.small_fits import datamodule, trainer
from torchgeo_decur.datamodules import PairedSampler, SyntheticEODataModule
from torchgeo_decur.datamodules.paired_sampler import get_availability
from torchgeo_decur.datasets import SyntheticEO


class Partly:
    """Samples 0, 3, 6, ... have both modalities, the others have one of them."""

    def __init__(self, length: int) -> None:
        number = np.arange(length)
        self.availability = {'s1': number % 3 < 2, 's2': number % 3 != 1}

    def __len__(self) -> int:
        return len(self.availability['s1'])


def sampler(dataset: Any, world: int = 1, rank: int = 0, **kwargs: Any) -> Any:
    options = {'batch_size': 4, 'paired_fraction': 0.5, 'seed': 3, **kwargs}
    return PairedSampler(dataset, world, rank, **options)


@settings(max_examples=30)
@given(
    length=st.integers(48, 90),
    world=st.integers(1, 3),
    fraction=st.floats(0.01, 1),
    epoch=st.integers(0, 3),
)
def test_each_batch_has_the_share(
    length: int, world: int, fraction: float, epoch: int
) -> None:
    dataset = Partly(length)
    shares = []
    for rank in range(world):
        made = sampler(dataset, world, rank, paired_fraction=fraction)
        made.set_epoch(epoch)
        shares.append(np.array(list(made)).reshape(-1, 4))
        assert len(shares[rank]) == len(made) // 4
    number = max(round(4 * fraction), 1)
    for rows in zip(*shares, strict=True):
        assert all((row % 3 == 0).sum() == number for row in rows)
        assert len(np.unique(np.concatenate(rows))) == 4 * world


def test_passes_are_shuffled() -> None:
    made = sampler(Partly(90))
    first, again = np.array(list(made)), np.array(list(made))
    assert np.array_equal(first, again)
    made.set_epoch(1)
    assert not np.array_equal(first, list(made))
    # 22 batches draw 44 of 30 complete samples and 44 of 60 others.
    _, counts = np.unique(first[first % 3 == 0], return_counts=True)
    assert len(counts) == 30 and set(counts) == {1, 2}
    others = first[first % 3 != 0]
    assert len(others) == len(np.unique(others)) == 44
    # Micro-batches have both kinds.
    assert len({int((half % 3 == 0).sum()) for half in first.reshape(-1, 2)}) == 3


def test_skips_once() -> None:
    made = sampler(Partly(60))
    whole = list(made)
    made.skip = 8
    assert list(made) == whole[8:] and list(made) == whole


@pytest.mark.parametrize(
    ('fraction', 'world', 'message'),
    [
        (1.0, 3, r'complete training samples must be at least 12, got 10'),
        (0.1, 7, r'incomplete training samples must be at least 21, got 20'),
    ],
)
def test_refuses_too_few_samples(fraction: float, world: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(Partly(30), world, paired_fraction=fraction)


class Recorder(LightningModule):
    """A task that records its batches and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch['image_s1'].sum((1, 2, 3)))
        return 0 * self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing: Lightning expects the method."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class TestDataModule:
    def loader(self, **options: Any) -> Any:
        made = datamodule(length=60, paired=0.4, seed=1, **options)
        made.setup('fit')
        return made.train_dataloader()

    def test_resumes_inside_an_epoch(self, tmp_path: Path) -> None:
        def fit(path: Path | None) -> list[torch.Tensor]:
            data = datamodule(
                length=24, size=16, batch_size=4, paired=0.5, paired_fraction=0.5
            )
            store = ModelCheckpoint(
                tmp_path, '{step}', save_top_k=-1, every_n_train_steps=4
            )
            task = Recorder()
            trainer(
                max_epochs=2,
                limit_val_batches=0,
                callbacks=[store],
                enable_checkpointing=True,
            ).fit(task, datamodule=data, ckpt_path=path)
            return task.seen

        whole, rest = fit(None), fit(tmp_path / 'step=4.ckpt')
        assert len(whole) == 12
        assert torch.stack(rest).equal(torch.stack(whole[4:]))

    def test_batches_have_the_share(self) -> None:
        for fraction in (0.25, 0.75):
            for batch in self.loader(paired_fraction=fraction):
                both = batch['available_s1'] & batch['available_s2']
                assert both.sum() == 8 * fraction
                for m in ('s1', 's2'):
                    has = batch[f'image_{m}'].flatten(1).any(1)
                    assert has.equal(batch[f'available_{m}'])

    def test_samples_pairs_from_part_of_the_labels(self) -> None:
        loader = self.loader(paired_fraction=0.5, label_fraction=0.5)
        assert isinstance(loader.dataset, Subset) and len(loader.sampler) == 30
        (batch, *_) = loader
        assert (batch['available_s1'] & batch['available_s2']).sum() == 4

    def test_complete_data_need_no_sampler(self) -> None:
        made = datamodule(paired_fraction=0.5)
        made.setup('fit')
        with pytest.warns(UserWarning, match=r'paired_fraction 0\.5 has no effect'):
            assert not isinstance(made.train_dataloader().sampler, PairedSampler)

    @pytest.mark.parametrize('fraction', [0.0, 1.5])
    def test_rejects_a_fraction_out_of_range(self, fraction: float) -> None:
        message = rf'paired_fraction must be in \(0, 1\], got {fraction}'
        with pytest.raises(ValueError, match=message):
            SyntheticEODataModule(paired_fraction=fraction)


class TestScenes:
    def test_scenes_have_all_modalities_or_one(self) -> None:
        scenes = SyntheticEO(400, 16, modalities=('s1', 's2', 'dem'), paired=0.25)
        table = np.stack(list(scenes.availability.values()))
        assert set(table.sum(0)) == {1, 3}
        assert (table.sum(0) == 3).mean() == pytest.approx(0.25, abs=0.05)
        singles = table[:, table.sum(0) == 1]
        assert singles.mean(1) == pytest.approx(1 / 3, abs=0.1)

    def test_other_values_stay_the_same(self) -> None:
        whole = SyntheticEO(8, 16, num_dates=2)
        partly = SyntheticEO(8, 16, num_dates=2, paired=0.5)
        assert 'available_s1' not in whole[0]
        for index in range(8):
            one, other = whole[index], partly[index]
            for m in ('s1', 's2'):
                has = bool(partly.availability[m][index])
                assert bool(other[f'available_{m}']) is has
                expected = one[f'image_{m}'] * has
                assert other[f'image_{m}'].equal(expected)
            assert other['label_common'] == one['label_common']
        absent = next(i for i in range(8) if not partly.availability['s2'][i])
        titles = [axis.get_title() for axis in partly.plot(partly[absent]).axes]
        assert not any('s2' in title for title in titles)

    def test_unpaired_scenes_may_be_dropped(self) -> None:
        made = datamodule(length=60, paired=0.4, drop_unpaired=True)
        made.setup('fit')
        found = get_availability(made.train_dataset)
        assert found is not None and np.all([*found.values()])
        assert 16 < len(made.train_dataset) < 32
        assert get_availability(made.val_dataset)['s1'].all()  # type: ignore[index]

    def test_rejects_a_fraction_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r'paired must be in \[0, 1\], got 2'):
            SyntheticEO(paired=2)
