"""Check that a fit names the collapse of its features, and only a collapse."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate
from torch.utils.data import DataLoader

from tests.helpers.small_fits import MODALITIES, trainer
from torchgeo_decur.callbacks import StopOnCollapse
from torchgeo_decur.losses import DeCURLoss
from torchgeo_decur.tasks import DeCUR, LateFusionClassification
from torchgeo_decur.tasks.collapse import CollapseGuard

NAN = float('nan')


def guard_after(name: str, untrained: float, *epochs: float) -> CollapseGuard:
    guard = CollapseGuard()
    guard.add({name: untrained}, ended=False)
    for value in epochs:
        guard.add({name: value}, ended=True)
    return guard


class TestCollapseGuard:
    @pytest.mark.parametrize(
        'values',
        [
            pytest.param(('std_s1', 0.16, 0.011, 0.006), id='untrained transformer'),
            pytest.param(('std_s1', 0.02, 0.6, 0.01, 0.01), id='after learning'),
            pytest.param(('std_s1', 0.7, 0.01, NAN, 0.01), id='unknown between'),
            pytest.param(('std_s1', 0.7, 0.0, 0.0), id='dead'),
            pytest.param(('rank_joint', 8.6, 1.26, 1.21), id='rank'),
        ],
    )
    def test_names_a_collapse(self, values: Any) -> None:
        assert guard_after(*values).collapsed == [values[0]]
        assert not guard_after(*values[:-1]).collapsed

    @pytest.mark.parametrize(
        'values',
        [
            pytest.param(('std_s1', 0.56, 0.72, 0.68, 0.57), id='recorded'),
            pytest.param(('std_s1', 0.13, 0.07, 0.05, 0.044), id='transformer'),
            pytest.param(('std_s1', 0.008, 0.007, 0.006, 0.006), id='low untrained'),
            pytest.param(('std_s1', 0.0, 0.0, 0.0), id='constant images'),
            pytest.param(('std_s1', 0.7, 0.01, 0.3, 0.01, 0.3), id='single epochs'),
            pytest.param(('std_s1', 0.7, NAN, NAN, NAN), id='unknown'),
            pytest.param(('rank_s1', 12, 4, 1.5, 1.5), id='clusters'),
            pytest.param(('rank_s1', 1.9, 1.2, 1.2, 1.2), id='two dimensions'),
            pytest.param(('rank_s1', 1.0, 1.0, 1.0), id='one dimension'),
        ],
    )
    def test_healthy_fits_raise_no_alarm(self, values: Any) -> None:
        for end in range(2, len(values) + 1):
            assert not guard_after(*values[:end]).collapsed

    def test_warns_once(self) -> None:
        guard = guard_after('std_s1', 0.5, 0.01, 0.015)
        message = guard.warning(epoch=1)
        assert message is not None
        assert 'end of epoch 1, std_s1 is 0.015 (highest so far 0.5)' in message
        assert all(word in message for word in ('lr', 'warmup_epochs', 'batch_size'))
        again = CollapseGuard()
        again.load_state_dict(guard.state_dict())
        assert again.collapsed == ['std_s1']
        for one in (guard, again):
            assert one.warning(epoch=2) is None

    def test_recovers(self) -> None:
        assert not guard_after('std_s1', 0.5, 0.01, 0.015, 0.4).collapsed


class Attract(DeCURLoss):
    """Loss that only attracts, so that equal embeddings are optimal."""

    def forward(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        loss = -cosine_similarity(z['s1'][0], z['s1'][1]).mean()
        loss = loss - cosine_similarity(z['s2'][0], z['s2'][1]).mean()
        return {'loss': loss - cosine_similarity(z['s1'][0], z['s2'][0]).mean()}


class Fit(Callback):
    """A fit of images, which records loss and validations."""

    def __init__(
        self, collapse: bool = True, lr: float = 3e-3, masks: Any = None, **options: Any
    ) -> None:
        torch.manual_seed(0)
        self.task = DeCUR(
            MODALITIES, 'test_vit', None, [16], size=32, optimizer='adamw', lr=lr
        )
        if collapse:
            self.task.criterion = Attract(8)
        images = {
            m: interpolate(torch.rand(16, c, 4, 4), size=(32, 32))
            for m, c in MODALITIES.items()
        }
        samples: Any = [
            {f'image_{m}': x[i] for m, x in images.items()}
            | {f'available_{m}': x[i] for m, x in (masks or {}).items()}
            for i in range(16)
        ]
        self.losses: list[float] = []
        self.metrics = 0
        self.validated = 0
        callbacks = [self, *options.pop('callbacks', [])]
        options = {'max_epochs': 12, 'callbacks': callbacks, **options}
        ckpt_path = options.pop('ckpt_path', None)
        self.run = trainer(**options)
        task: Any = self.task
        compute = task.collapse_metrics

        def count(*args: Any) -> Any:
            self.metrics += 1
            return compute(*args)

        task.collapse_metrics = count
        loader = DataLoader(samples, 8)
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings('always', 'features or embeddings collapse')
            self.run.fit(self.task, loader, loader, ckpt_path=ckpt_path)
        self.warnings = [str(w.message) for w in caught if 'collapse' in str(w.message)]

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.losses.append(trainer.callback_metrics['train_loss'].item())

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self.validated += 1


class StopAfter(Callback):
    """End a fit after an epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.epochs


@pytest.fixture(scope='module')
def collapsed() -> Fit:
    return Fit()


def test_warns_once_while_the_loss_falls(collapsed: Fit) -> None:
    (message,) = collapsed.warnings
    assert 'std_s1 is 0.0' in message or 'std_s2 is 0.0' in message
    assert collapsed.losses[-1] < collapsed.losses[0]
    assert {'std_s1', 'std_s2'} <= set(collapsed.task.collapsed)
    # Once before training, and once for each epoch of two steps.
    assert collapsed.metrics == 1 + 12


def test_callback_stops_after_validation(collapsed: Fit) -> None:
    stopped = Fit(callbacks=[StopOnCollapse()])
    assert stopped.warnings == collapsed.warnings
    epochs = stopped.run.current_epoch
    assert f'at the end of epoch {epochs - 1},' in stopped.warnings[0]
    assert 2 <= epochs == stopped.validated < 12


def test_resumed_fit_counts_epochs_before_it(collapsed: Fit, tmp_path: Path) -> None:
    epoch = int(collapsed.warnings[0].partition('end of epoch ')[2].partition(',')[0])
    save = ModelCheckpoint(tmp_path, save_last=True)
    options: dict[str, Any] = {
        'enable_checkpointing': True,
        'default_root_dir': tmp_path,
    }
    first = Fit(callbacks=[save, StopAfter(epoch)], **options)
    assert first.warnings == [] and first.run.current_epoch == epoch
    last = str(tmp_path / 'last.ckpt')
    resumed = Fit(callbacks=[StopAfter(epoch + 1)], ckpt_path=last, **options)
    assert resumed.warnings == collapsed.warnings


def test_healthy_fit_does_not_warn() -> None:
    healthy = Fit(collapse=False, lr=1e-4, callbacks=[StopOnCollapse()])
    assert healthy.warnings == [] and healthy.run.current_epoch == 12
    assert healthy.task.collapsed == []


def test_modality_with_few_images_is_not_judged() -> None:
    some = torch.arange(16) % 8
    fit = Fit(masks={'s1': some >= 0, 's2': some < 3}, callbacks=[StopOnCollapse()])
    assert 'std_s1' in fit.task.collapsed and 1 == len(fit.warnings)
    assert not {'std_s2', 'rank_s2'} & set(fit.task.collapsed)


def test_callback_rejects_another_task() -> None:
    task = LateFusionClassification({'s1': 2}, 'test_resnet', num_classes=2)
    with pytest.raises(ValueError, match='StopOnCollapse needs a task with one enc'):
        StopOnCollapse().on_fit_start(trainer(), task)
