"""Check schedules of callbacks and users together with those of tasks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import (
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from torchgeo_decur.tasks import DeCUR, LateFusionClassification
from torchgeo_decur.tasks.optimizers import WarmupCosine

# What Lightning says of its own loading, and of the interval of the schedule.
pytestmark = [
    pytest.mark.filterwarnings('ignore:.*LeafSpec'),
    pytest.mark.filterwarnings('ignore:SWA is currently only supported every epoch'),
]


def pretraining(**options: Any) -> DeCUR:
    torch.manual_seed(0)
    small: dict[str, Any] = {'projector': [16, 16], 'size': 32}
    return DeCUR(MODALITIES, 'test_resnet', **{**small, **options})


def transfer(**options: Any) -> LateFusionClassification:
    torch.manual_seed(0)
    chosen = {'num_classes': 8, 'label_key': 'label_common', **options}
    return LateFusionClassification(MODALITIES, 'test_resnet', **chosen)


def rates(run: Any) -> list[float]:
    return [group['initial_lr'] for group in run.optimizers[0].param_groups]


class TestLearningRateFinder:
    @pytest.mark.parametrize('ratio', [0.096, 1.0])
    def test_found_rate_counts(self, tmp_path: Path, ratio: float) -> None:
        find = LearningRateFinder(num_training_steps=15, early_stop_threshold=None)
        run = trainer(callbacks=[find], default_root_dir=tmp_path, max_epochs=8)
        task: Any = transfer() if ratio == 1 else pretraining(optimizer='lars')
        run.fit(task, datamodule())
        found = task.hparams['lr']
        assert find.optimal_lr is not None and found == find.optimal_lr.suggestion()
        expected = [found, ratio * found]
        assert rates(run) == pytest.approx(expected)
        assert task.lr_schedulers().base_lrs == pytest.approx(expected)

    def test_search_may_diverge_and_find_nothing(self, tmp_path: Path) -> None:
        find = LearningRateFinder(min_lr=1e12, max_lr=1e30, num_training_steps=4)
        run = trainer(callbacks=[find], default_root_dir=tmp_path)
        task = pretraining(optimizer='adamw', lr=1e-3)
        run.fit(task, datamodule())
        assert find.optimal_lr is not None
        assert not all(torch.tensor(find.optimal_lr.results['loss']).isfinite())
        # What it tried last is not what the fit trains with.
        assert rates(run) == [1e-3, 1e-3]
        assert all(p.isfinite().all() for p in task.parameters())


@pytest.mark.parametrize('kind', [pretraining, transfer])
def test_resumes_after_weight_averaging_began(tmp_path: Path, kind: Any) -> None:
    def fit(epochs: int, checkpoint: Path | None = None) -> Any:
        average = StochasticWeightAveraging(0.01, 1, annealing_epochs=1)
        save = ModelCheckpoint(tmp_path, save_top_k=-1, filename='{epoch}')
        run = trainer(
            max_epochs=epochs, callbacks=[average, save], enable_checkpointing=True
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(save, '_ModelCheckpoint__warn_if_dir_not_empty', lambda _: 0)
            run.fit(kind(), datamodule(), ckpt_path=checkpoint)
        return run.optimizers[0].param_groups[0]['lr']

    assert fit(3) == fit(3, tmp_path / 'epoch=1.ckpt') == pytest.approx(0.01)


def test_keeps_the_schedule_of_a_user() -> None:
    class Own(DeCUR):
        def configure_optimizers(self) -> Any:
            optimizer = SGD(self.parameters(), 1e-3)
            return [optimizer], [LambdaLR(optimizer, lambda _: 0.5)]

    task = Own(MODALITIES, 'test_resnet', projector=[16], size=32, warmup_epochs=9)
    trainer().fit(task, datamodule())
    schedule: Any = task.lr_schedulers()
    assert not isinstance(schedule, WarmupCosine)
    assert schedule.get_last_lr() == [5e-4]
