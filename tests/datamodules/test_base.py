import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchgeo.datamodules.utils import MisconfigurationException

from tests.helpers.small_fits import trainer as small
from torchgeo_decur.datamodules import base
from torchgeo_decur.datamodules.base import MultimodalDataModule
from torchgeo_decur.datamodules.loaders import ResumableLoader, ResumableSampler

MODALITIES: dict[str, Any] = {
    's1': {
        'bands': ['VV', 'VH'],
        'kind': 'sar',
        'unit': 'dB',
        'mean': [-12.0, -20.0],
        'std': [2.0, 4.0],
    },
    'dem': {'bands': ['height'], 'kind': 'elevation', 'unit': 'm'},
    'other': {'bands': ['x'], 'kind': 'multispectral', 'unit': 'native'},
}


class Numbers(Dataset[dict[str, Tensor]]):
    """Dataset whose sample i has the number i and the epoch."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        x = torch.rand(4, 6, 6, generator=generator)
        return {
            'image_s1': torch.stack([-9 - x[0], -18 - x[1]]),
            'image_dem': 500 * x[2:3],
            'image_other': 100 + index + x[3:],
            'number': torch.tensor(index),
            'epoch': self.epoch.clone(),
        }


class NumbersDataModule(MultimodalDataModule):
    def setup(self, stage: str) -> None:
        for i, split in enumerate(('train', 'val', 'test', 'predict')):
            setattr(self, f'{split}_dataset', Numbers(10 + i))


def datamodule(**options: Any) -> NumbersDataModule:
    made = NumbersDataModule(**{'modalities': MODALITIES, 'batch_size': 3, **options})
    made.setup('fit')
    return made


def numbers(batches: Any) -> list[list[int]]:
    return [batch['number'].tolist() for batch in batches]


def at(epochs: int, batches: int, over: bool) -> Any:
    """Make a trainer whose loop has started these epochs and finished these batches."""
    current = SimpleNamespace(ready=batches, processed=batches)
    progress = SimpleNamespace(current=current, is_last_batch=over)
    epoch = SimpleNamespace(started=epochs, processed=max(epochs - 1, 0))
    loop = SimpleNamespace(
        epoch_loop=SimpleNamespace(batch_progress=progress),
        epoch_progress=SimpleNamespace(current=epoch),
    )
    return SimpleNamespace(fit_loop=loop, world_size=1, global_rank=0)


class Recorder(LightningModule):
    """Task that learns nothing and records its batches; it can fail at a given step."""

    def __init__(self, fails: int | None = None) -> None:
        super().__init__()
        self.fails = fails
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == self.fails:
            raise RuntimeError('out of memory')
        self.seen.append(batch['number'].tolist())
        return 0 * self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class TestSampler:
    @given(
        length=st.integers(1, 40),
        world=st.integers(1, 5),
        seed=st.integers(0, 100),
        epoch=st.integers(0, 3),
    )
    def test_ranks_share_without_overlap(
        self, length: int, world: int, seed: int, epoch: int
    ) -> None:
        shares = []
        for rank in range(world):
            sampler = ResumableSampler(
                range(length), world, rank, seed=seed, drop_last=True
            )
            sampler.set_epoch(epoch)
            shares.append(list(sampler))
        each = len(shares[0])
        assert [len(share) for share in shares] == [each] * world
        assert length - each * world < world
        seen = [i for share in shares for i in share]
        assert len(set(seen)) == len(seen) and set(seen) <= set(range(length))

    def test_order_depends_only_on_seed_and_epoch(self) -> None:
        def order(seed: int, epoch: int) -> list[int]:
            sampler = ResumableSampler(range(50), 1, 0, seed=seed)
            sampler.set_epoch(epoch)
            torch.rand(seed + epoch)  # the generator of the run is elsewhere each time
            return list(sampler)

        assert order(1, 2) == order(1, 2)
        orders = {str(order(seed, epoch)) for seed in (0, 9) for epoch in (0, 1)}
        assert len(orders) == 4

    def test_skips_once(self) -> None:
        sampler = ResumableSampler(range(10), 1, 0)
        whole = list(sampler)
        sampler.skip = 4
        assert list(sampler) == whole[4:]
        assert list(sampler) == whole

    def test_epoch_reaches_the_dataset(self) -> None:
        dataset = Numbers(4)
        ResumableSampler(dataset, 1, 0).set_epoch(5)
        assert dataset.epoch == 5


class TestLoader:
    @pytest.mark.parametrize(
        ('epochs', 'batches', 'epoch', 'skipped'),
        [
            pytest.param(0, 0, 0, 0, id='new fit'),
            pytest.param(1, 0, 0, 0, id='first epoch, nothing done'),
            pytest.param(1, 2, 0, 2, id='inside the first epoch'),
            pytest.param(3, 1, 2, 1, id='inside the third'),
            pytest.param(3, 3, 3, 0, id='at the end of the third'),
        ],
    )
    def test_begins_where_the_loop_stands(
        self, epochs: int, batches: int, epoch: int, skipped: int
    ) -> None:
        expected = datamodule().train_dataloader()
        expected.sampler.set_epoch(epoch)
        made = datamodule()
        made.trainer = at(epochs, batches, over=epoch == epochs > 0)
        loader = made.train_dataloader()
        assert numbers(loader) == numbers(expected)[skipped:]
        assert len(loader) == 3  # as Lightning counts the batches of an epoch
        assert numbers(loader) == numbers(expected)

    @pytest.mark.parametrize(
        ('before', 'after'),
        [
            ({'limit_train_batches': 2}, {'limit_train_batches': 2}),
            ({'limit_train_batches': 0.7}, {}),
            ({}, {'batch_size': 2}),
        ],
    )
    def test_resumes_after_an_epoch(
        self, tmp_path: Path, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        def fit(
            epochs: int, batch_size: int = 3, ckpt_path: Any = None, **options: Any
        ) -> tuple[Trainer, list[list[int]]]:
            model = Recorder()
            run = small(max_epochs=epochs, limit_val_batches=0, **options)
            data = NumbersDataModule(MODALITIES, batch_size)
            run.fit(model, datamodule=data, ckpt_path=ckpt_path)
            return run, model.seen

        run, _ = fit(1, **before)
        run.save_checkpoint(tmp_path / 'epoch.ckpt')
        _, whole = fit(3, **after)
        _, rest = fit(3, ckpt_path=tmp_path / 'epoch.ckpt', **after)
        assert rest == whole[len(whole) // 3 :]

    @pytest.mark.parametrize('num_workers', [0, 1])
    @pytest.mark.parametrize('step', [1, 2, 4, 5])
    def test_resumes_a_batch_that_failed(
        self, tmp_path: Path, num_workers: int, step: int
    ) -> None:
        def fit(model: Recorder, ckpt_path: Any = None) -> list[list[int]]:
            data = NumbersDataModule(MODALITIES, 3, num_workers)
            run = small(
                max_epochs=2,
                limit_val_batches=0,
                enable_checkpointing=True,
                callbacks=[
                    ModelCheckpoint(
                        tmp_path / str(model.fails),
                        save_on_exception=True,
                        every_n_train_steps=100,
                    )
                ],
            )
            run.fit(model, datamodule=data, ckpt_path=ckpt_path)
            return model.seen

        whole = fit(Recorder())
        failed = Recorder(fails=step)
        with pytest.raises(RuntimeError, match='out of memory'):
            fit(failed)
        (stored,) = (tmp_path / str(step)).glob('*.ckpt')
        assert failed.seen + fit(Recorder(), stored) == whole

    def test_resumes_after_an_epoch_that_was_cut_short(self, tmp_path: Path) -> None:
        def fit(ckpt_path: Any = None, *callbacks: Callback) -> list[list[int]]:
            model = Recorder()
            run = small(
                max_epochs=2,
                limit_val_batches=0,
                enable_checkpointing=True,
                callbacks=[ModelCheckpoint(tmp_path, save_last=True), *callbacks],
            )
            data = NumbersDataModule(MODALITIES, 3)
            run.fit(model, datamodule=data, ckpt_path=ckpt_path)
            return model.seen

        # As Timer and EarlyStopping do; Lightning goes on with the next epoch.
        stop = LambdaCallback(
            on_train_batch_end=lambda run, *_: setattr(run, 'should_stop', True)
        )
        begun = fit(None, stop)
        rest = fit(tmp_path / 'last.ckpt')
        whole = fit()
        assert begun == whole[:1]
        assert rest == whole[3:]

    def test_overfits_a_few_batches(self) -> None:
        model = Recorder()
        run = small(max_epochs=2, overfit_batches=2)
        with pytest.warns(UserWarning, match='turning off the train dataloader shuff'):
            run.fit(model, datamodule=NumbersDataModule(MODALITIES, 3))
        assert model.seen == [[0, 1, 2], [3, 4, 5]] * 2

    def test_has_no_state_of_its_own(self) -> None:
        loader = datamodule().train_dataloader()
        assert isinstance(loader, ResumableLoader)
        before = numbers(loader)
        loader.load_state_dict(loader.state_dict())
        assert loader.state_dict() == {} and numbers(loader) == before

    def test_workers_do_not_change_batches(self) -> None:
        def batches(workers: int) -> Iterator[dict[str, Tensor]]:
            loader = datamodule(num_workers=workers).train_dataloader()
            for epoch in (0, 1):
                loader.sampler.set_epoch(epoch)
                yield from loader

        alone, helped = list(batches(0)), list(batches(1))
        assert len(alone) == len(helped) == 6
        for a, b in zip(alone, helped, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[k], b[k]) for k in a)
        assert [b['epoch'].unique().tolist() for b in helped] == [[0]] * 3 + [[1]] * 3
        assert numbers(alone[:3]) != numbers(alone[3:])

    @pytest.mark.parametrize('split', ['val', 'test', 'predict'])
    def test_other_splits_keep_their_order(self, split: str) -> None:
        made = datamodule(batch_size=4)
        loader = getattr(made, f'{split}_dataloader')()
        length = {'val': 11, 'test': 12, 'predict': 13}[split]
        seen = [i for batch in numbers(loader) for i in batch]
        assert seen == list(range(length))
        assert numbers(loader)[0] == [0, 1, 2, 3]

    def test_rank_gets_its_share(self) -> None:
        shares = []
        for rank in (0, 1):
            made = datamodule(batch_size=2)
            made.trainer = SimpleNamespace(
                **{**vars(at(0, 0, False)), 'world_size': 2, 'global_rank': rank}
            )
            loader = made.train_dataloader()
            shares.append({i for batch in numbers(loader) for i in batch})
        assert [len(share) for share in shares] == [4, 4]
        assert not shares[0] & shares[1]

    def test_absent_split_is_refused(self) -> None:
        made = datamodule()
        made.test_dataset = None
        with pytest.raises(MisconfigurationException, match='test_dataset'):
            made.test_dataloader()

    @pytest.mark.parametrize('batch_size', [1, 11])
    def test_refuses_a_batch_size_that_does_not_fit(self, batch_size: int) -> None:
        made = datamodule(batch_size=batch_size)
        with pytest.raises(
            ValueError,
            match=rf'between 2 and the number .*\(10\), got {batch_size}; change',
        ):
            made.train_dataloader()

    def test_batch_size_is_positive(self) -> None:
        with pytest.raises(ValueError, match='batch_size must be positive, got 0'):
            datamodule(batch_size=0)


class Watch(LightningModule):
    """Callback that records batches and calls of the check."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[dict[str, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        self.batches.append(batch)
        return self.weight * 0

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.batches.append(batch)

    test_step = validation_step

    def predict_step(self, batch: dict[str, Tensor]) -> Tensor:
        self.batches.append(batch)
        return batch['number']

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer() -> Trainer:
    return small(max_epochs=2, num_sanity_val_steps=2)


class TestTransfer:
    def test_every_stage_is_scaled(self) -> None:
        task = Watch()
        trainer().fit(task, datamodule=datamodule())
        trainer().validate(task, datamodule(), verbose=False)
        trainer().test(task, datamodule(), verbose=False)
        trainer().predict(task, datamodule())
        # sanity, 2 x (training and validation), validation, test, prediction
        assert len(task.batches) == 2 + 2 * (3 + 4) + 4 + 4 + 5
        for batch in task.batches:
            raw = [Numbers(99)[i] for i in batch['number'].tolist()]
            # Mean -12 and -20, std 2 and 4: limits -16, -8 and -28, -12.
            s1 = torch.stack([sample['image_s1'] for sample in raw])
            expected = torch.stack([(s1[:, 0] + 16) / 8, (s1[:, 1] + 28) / 16], 1)
            torch.testing.assert_close(batch['image_s1'], expected)
            # Elevation: by the percentiles of each patch.
            dem = batch['image_dem'].flatten(1)
            assert (dem.amin(1) == 0).all() and (dem.amax(1) == 1).all()
            # Without statistics: as it is.
            other = torch.stack([sample['image_other'] for sample in raw])
            assert torch.equal(batch['image_other'], other)

    def test_only_first_batches_are_checked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[str, set[str]]] = []
        look = base.FirstBatches.look

        def spy(self: Any, images: Any, stage: str, training: bool) -> None:
            calls.append((stage, set(images)))
            look(self, images, stage, training)

        monkeypatch.setattr(base.FirstBatches, 'look', spy)
        made = datamodule()
        trainer().fit(Watch(), datamodule=made)
        every = set(MODALITIES)
        assert calls == [('val', every), ('train', every)]
        made.set_modalities({'s1': MODALITIES['s1']})
        trainer().validate(Watch(), made, verbose=False)
        assert calls[2:] == [('val', {'s1'})]

    def test_refuses_values_of_another_unit(self) -> None:
        wrong = {**MODALITIES['other'], 'unit': 'DN', 'bands': ['x']}
        made = datamodule(modalities={**MODALITIES, 'dem': {**wrong, 'unit': 'uint8'}})
        with pytest.raises(ValueError, match='dem: expected values from 0 to 255'):
            trainer().fit(Watch(), datamodule=made)

    def test_refuses_another_number_of_channels(self) -> None:
        wrong = {**MODALITIES['other'], 'bands': ['x', 'y']}
        made = datamodule(modalities={'other': wrong})
        with pytest.raises(ValueError, match='other: expected 2 channels, found 1'):
            trainer().fit(Watch(), datamodule=made)

    def test_unknown_modality_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"modality must be one of .* got 'radar'"):
            datamodule(modalities={'s1': 'radar'})


@pytest.mark.parametrize('absent', [0.0, float('nan')])
def test_the_first_check_ignores_absent_images(absent: float) -> None:
    datamodule = NumbersDataModule(
        {'s1': 'sentinel1_grd', 'dem': MODALITIES['dem']}, batch_size=4
    )
    datamodule.trainer = SimpleNamespace(  # type: ignore[assignment]
        training=True, validating=False, sanity_checking=False
    )
    batch = default_collate([Numbers(4)[i] for i in range(4)])
    batch['image_s1'][:3] = absent
    kept = {**batch, 'available_s1': torch.tensor([False, False, False, True])}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        scaled = datamodule.on_after_batch_transfer(dict(kept), 0)
        # No sample of the batch has the modality.
        kept['available_s1'] = torch.zeros(4, dtype=torch.bool)
        datamodule.set_modalities(datamodule.modalities)
        datamodule.on_after_batch_transfer(dict(kept), 0)
    assert 0 < scaled['image_s1'][3].mean() < 1
    datamodule.set_modalities(datamodule.modalities)
    with pytest.raises((ValueError, UserWarning), match='s1: '):
        datamodule.on_after_batch_transfer(batch, 0)
