"""Check every precision of the trainer, on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from torchgeo_decur.callbacks import OnlineProbe
from torchgeo_decur.datamodules import SyntheticEODataModule
from torchgeo_decur.tasks import DeCUR, LateFusionClassification

PRECISIONS = ['64-true', 'bf16-true', '16-true', 'bf16-mixed']


def pretraining() -> DeCUR:
    return DeCUR(MODALITIES, 'test_resnet', projector=[8], size=32, optimizer='adamw')


def transfer() -> LateFusionClassification:
    return LateFusionClassification(
        MODALITIES,
        'test_resnet',
        num_classes=8,
        label_key='label_common',
        crop_scale=[0.5, 1.0],
    )


@pytest.mark.parametrize('build', [pretraining, transfer])
@pytest.mark.parametrize('precision', PRECISIONS)
def test_fits_in_every_precision(
    build: Callable[[], Any], precision: Any, tmp_path: Path
) -> None:
    callbacks = [OnlineProbe(k=1)] if build is pretraining else []
    task = build()
    run = trainer(
        precision=precision,
        callbacks=callbacks,
        limit_train_batches=1,
        # Where the probe writes its table.
        default_root_dir=tmp_path,
    )
    run.fit(task, datamodule=datamodule())
    assert run.global_step == 1
    assert all(p.isfinite().all() for p in task.parameters())
    if callbacks:
        assert {r['epoch'] for r in callbacks[0].rows} == {-1, 0}


@pytest.mark.parametrize(
    ('precision', 'workers'),
    [('32-true', 0), ('bf16-true', 0), ('16-true', 0), ('bf16-true', 1)],
)
def test_data_are_scaled_before_they_are_converted(
    precision: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    place = torch.tensor([500010.0, 4999990.0], dtype=torch.float64)

    def scaled(self: Any, batch: Any, dataloader_idx: int) -> Any:
        assert batch['image_s2'].dtype == torch.float32
        batch['bounds'] = place.expand(len(batch['image_s2']), 2)
        batch = super(SyntheticEODataModule, self).on_after_batch_transfer(
            batch, dataloader_idx
        )
        assert batch['bounds'].equal(place.expand(len(batch['image_s2']), 2))
        seen.append(batch['image_s2'])
        return batch

    monkeypatch.setattr(SyntheticEODataModule, 'on_after_batch_transfer', scaled)
    run = trainer(precision=precision, limit_train_batches=1, limit_val_batches=0)
    run.fit(pretraining(), datamodule=datamodule(num_workers=workers))
    types = {'bf16-true': torch.bfloat16, '16-true': torch.float16}
    assert seen[0].dtype == types.get(precision, torch.float32)
    # Scaled in the precision of the files, a band has the levels that its type allows.
    assert len(seen[0][:, 1].unique()) > 150
