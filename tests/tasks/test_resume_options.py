"""Check fits that resume from a checkpoint with other options."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from tests.helpers.small_fits import MODALITIES, trainer
from torchgeo_decur.tasks import DeCUR, LateFusionClassification

type Build = Callable[..., LightningModule]


def scenes(length: int = 8) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            'image_s1': torch.rand(2, 32, 32, generator=generator),
            'image_s2': torch.rand(13, 32, 32, generator=generator),
            'label': torch.tensor(i % 2),
            'index': i,
        }
        for i in range(length)
    ]


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(scenes(), batch_size=4, **options)  # type: ignore[arg-type]


def pretraining(**options: Any) -> LightningModule:
    given: dict[str, Any] = {'modalities': MODALITIES, 'optimizer': 'adamw'}
    return DeCUR(model='test_resnet', projector=[8], size=32, **{**given, **options})


def transfer(**options: Any) -> LightningModule:
    given: dict[str, Any] = {'modalities': MODALITIES, 'num_classes': 2}
    return LateFusionClassification(model='test_resnet', **{**given, **options})


class Watch(Callback):
    """Record samples, and rate and weight decay of the first group, of each epoch."""

    def __init__(self) -> None:
        self.order: dict[int, list[int]] = {}
        self.rates: dict[int, float] = {}
        self.decay: set[float] = set()

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        group = trainer.optimizers[0].param_groups[0]
        self.order.setdefault(trainer.current_epoch, []).extend(batch['index'].tolist())
        self.rates[trainer.current_epoch] = group['lr']
        self.decay.add(group['weight_decay'])


@pytest.fixture
def stopped(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that fits an epoch and returns the path of its checkpoint."""

    def fit(module: LightningModule) -> Path:
        run = trainer(limit_val_batches=0)
        run.fit(module, loader(), loader())
        run.save_checkpoint(tmp_path / 'stopped.ckpt')
        return tmp_path / 'stopped.ckpt'

    return fit


def resume(module: LightningModule, checkpoint: Path, epochs: int = 3) -> Watch:
    watch = Watch()
    run = trainer(max_epochs=epochs, callbacks=[watch], limit_val_batches=0)
    run.fit(module, loader(), loader(), ckpt_path=checkpoint)
    assert set(watch.rates) == set(range(1, epochs))
    return watch


class TestOptions:
    def test_options_of_a_pretraining_replace_those_of_the_checkpoint(
        self, stopped: Callable[..., Path]
    ) -> None:
        found = resume(
            pretraining(lr=1e-2, weight_decay=0.5), stopped(pretraining(lr=1e-4))
        )
        assert found.decay == {0.5}
        assert 1e-3 < found.rates[1] < 1e-2

    def test_options_of_a_transfer_replace_those_of_the_checkpoint(
        self, stopped: Callable[..., Path]
    ) -> None:
        found = resume(transfer(lr=0.5, weight_decay=0.3), stopped(transfer()))
        assert found.decay == {0.3} and set(found.rates.values()) == {0.5}

    @pytest.mark.parametrize(
        ('lr_schedule', 'expected'),
        [
            ('step', [1.0, 1.0, 0.1, 0.01]),
            ('cosine', [0.9045, 0.6545, 0.3455, 0.0955]),
            ('constant', [1.0] * 4),
        ],
    )
    @pytest.mark.parametrize('before', ['cosine', 'step'])
    def test_a_longer_transfer_has_the_schedule_of_its_length(
        self,
        stopped: Callable[..., Path],
        lr_schedule: str,
        expected: list[float],
        before: str,
    ) -> None:
        options: dict[str, Any] = {'optimizer': 'sgd', 'lr': 1.0}
        checkpoint = stopped(transfer(**options, lr_schedule=before))
        found = resume(
            transfer(**options, lr_schedule=lr_schedule), checkpoint, epochs=5
        )
        assert list(found.rates.values()) == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize(
        ('build', 'before', 'after', 'message'),
        [
            (pretraining, 'adamw', 'lars', r'expected lars of .*, found adamw of'),
            (pretraining, 'lars', 'adamw', r'expected adamw of .*, found lars of'),
            (transfer, 'adamw', 'sgd', r'expected sgd of .*, found adamw of'),
        ],
    )
    def test_another_optimizer_is_refused(
        self,
        stopped: Callable[..., Path],
        build: Build,
        before: str,
        after: str,
        message: str,
    ) -> None:
        checkpoint = stopped(build(optimizer=before))
        with pytest.raises(ValueError, match=message):
            resume(build(optimizer=after), checkpoint)

    def test_other_parameters_are_refused(self, stopped: Callable[..., Path]) -> None:
        checkpoint = stopped(transfer())
        with pytest.raises(ValueError, match=r'expected adamw of 2 parameters, found'):
            resume(transfer(freeze_backbone=True), checkpoint)


@pytest.mark.parametrize('build', [pretraining, transfer])
def test_another_order_of_modalities_is_refused(
    stopped: Callable[..., Path], build: Build
) -> None:
    checkpoint = stopped(build())
    turned = dict(reversed(MODALITIES.items()))
    message = r"order of modalities: expected \['s2', 's1'\], found \['s1', 's2'\]"
    with pytest.raises(ValueError, match=message):
        resume(build(modalities=turned), checkpoint)


def test_every_epoch_has_its_own_order() -> None:
    seed_everything(0, verbose=False)
    watch = Watch()
    run = trainer(max_epochs=4, callbacks=[watch])
    run.fit(pretraining(), loader(shuffle=True), loader())
    assert len({tuple(order) for order in watch.order.values()}) == 4


def test_validation_sees_the_same_views_in_every_epoch() -> None:
    seed_everything(0, verbose=False)
    module = pretraining()
    losses = []
    for _ in range(2):
        torch.rand(1)
        run = trainer()
        (found,) = run.validate(module, loader(), verbose=False)
        losses.append(found['val_loss'])
    assert losses[0] == losses[1]
