"""Check that NaN and infinite losses end a fit."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from torchgeo_decur.tasks import DeCUR
from torchgeo_decur.tasks.base import FiniteGuard

OK = {'loss': torch.tensor(1.0), 'a': torch.tensor(1.0), 'b': torch.tensor(2.0)}
BAD = {**OK, 'loss': torch.tensor(torch.nan), 'a': torch.tensor(torch.nan)}
ALL_BAD = dict.fromkeys(OK, torch.tensor(torch.inf))


class TestFiniteGuard:
    def test_names_the_first_bad_part(self) -> None:
        guard = FiniteGuard()
        guard.add(OK)
        guard.check(step=0)
        for terms in (BAD, ALL_BAD, OK):
            guard.add(terms)
        with pytest.raises(FloatingPointError, match=r"in \['a'\] by step 2"):
            guard.check(step=2)

    def test_names_the_loss_of_an_objective_without_parts(self) -> None:
        guard = FiniteGuard()
        guard.add({'loss': torch.tensor(1.0)})
        guard.check(step=0)
        guard.add({'loss': torch.tensor(torch.nan)})
        with pytest.raises(FloatingPointError, match=r"in \['loss'\] by step 1"):
            guard.check(step=1)

    def test_allows_skipped_steps(self) -> None:
        guard = FiniteGuard(patience=2)
        for terms in (OK, ALL_BAD, ALL_BAD, OK, BAD, ALL_BAD):
            guard.add(terms)
            guard.check(step=0)
        guard.check(step=6, ended=True)
        guard.add(ALL_BAD)
        guard.add(OK)
        with pytest.raises(FloatingPointError, match=r"in \['a'\] by step 7"):
            guard.check(step=7)

    def test_refuses_a_fit_that_skipped_all_steps(self) -> None:
        guard = FiniteGuard(patience=9)
        guard.add(ALL_BAD)
        guard.check(step=1)
        with pytest.raises(FloatingPointError, match=r"in \['a', 'b'\]"):
            guard.check(step=1, ended=True)


class MeanSquare(nn.Module):
    """Loss without named parts."""

    def forward(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {'loss': torch.stack([x.square().mean() for x in z.values()]).mean()}


class Own(DeCUR):
    """DeCUR with another loss, infinite in some batches."""

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        super().__init__(
            MODALITIES, 'test_resnet', None, [8], size=32, optimizer='adamw'
        )
        self.criterion = MeanSquare()
        self.bad = bad

    def compute_loss(self, images: Any, available: Any = None) -> Any:
        terms, h, z = super().compute_loss(images, available)
        step = self.trainer.fit_loop.total_batch_idx
        if self.trainer.training and step in self.bad:
            terms = {'loss': terms['loss'] * torch.inf}
        return terms, h, z


def mixed() -> MixedPrecision:
    """Precision 16-mixed, which Lightning refuses on a CPU."""
    return MixedPrecision('16-mixed', 'cpu', torch.amp.GradScaler('cpu'))


def test_own_objective_trains() -> None:
    run = trainer()
    run.fit(Own(), datamodule())
    assert run.callback_metrics['train_loss'] > 0
    with pytest.raises(FloatingPointError, match=r"\['loss'\] by step 1"):
        trainer().fit(Own(bad=(1,)), datamodule())


def test_a_step_skipped_by_the_scaler_does_not_end_the_fit() -> None:
    run, task = trainer(max_epochs=2, plugins=mixed()), Own(bad=(0,))
    run.fit(task, datamodule())
    scaler: Any = run.precision_plugin.scaler  # type: ignore[attr-defined]
    assert scaler.get_scale() < 2**16
    assert all(p.isfinite().all() for p in task.parameters())
    with pytest.raises(FloatingPointError, match=r"got NaN or infinity in \['loss'\]"):
        trainer(plugins=mixed()).fit(Own(bad=(0, 1)), datamodule())
