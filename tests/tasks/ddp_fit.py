"""Run the small fits of `test_distributed.py`, in one process or in several.

Usage: python ddp_fit.py FOLDER DEVICES

FOLDER/packed holds packed scenes.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightly.utils import dist
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from torchgeo_decur.callbacks import (
    ExportEncoders,
    OnlineProbe,
    StopOnCollapse,
    export,
    online_probe,
)
from torchgeo_decur.datamodules import (
    PackedDataModule,
    ResumableSampler,
    SyntheticEODataModule,
)
from torchgeo_decur.tasks import DeCUR

BATCH = 8


class GatheredBatchNorm(LayerSync):
    """BatchNorm over the batch of all processes: torch's SyncBatchNorm has no CPU kernel."""

    def apply(self, model: nn.Module) -> nn.Module:
        self.handles = []
        for module in model.modules():
            if isinstance(module, _BatchNorm) and dist.world_size() > 1:
                self.handles += [
                    module.register_forward_pre_hook(self.gather),
                    module.register_forward_hook(self.own),
                ]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for handle in self.handles:
            handle.remove()
        return model

    @staticmethod
    def gather(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return torch.cat(dist.gather(inputs[0].contiguous()))

    @staticmethod
    def own(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        size = len(output) // dist.world_size()
        return output[dist.rank() * size :][:size].clone()


class IdentityThenFlip(nn.Module):
    """Augmentation that alternates between the image and its mirror image."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x if self.calls % 2 else x.flip(-1)


class PartlyPaired(SyntheticEODataModule):
    """16 scenes in one batch; the second of two processes sees no optical image."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        length = len(self.train_dataset)
        order = list(ResumableSampler(range(length), 1, 0, seed=1_000_003 * self.seed))
        place = np.argsort(order)
        self.train_dataset.paired = 0.0
        self.train_dataset.availability = {'s1': place % 8 > 0, 's2': place % 2 == 0}


class Record(Callback):
    """Record the inputs and gradients of each step in this process."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seen: list[Tensor] = []
        self.gradients: dict[str, Tensor] = {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *args: Any
    ) -> None:
        self.seen.append(batch['image_s1'].flatten(1).mean(1))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        self.gradients = {n: p.grad.clone() for n, p in pl_module.named_parameters()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        self.losses.append(outputs['loss'].item())


class StopAfter(Callback):
    """End a fit after some steps, in the middle of an epoch."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == self.steps


class Collapse(Callback):
    """Let features collapse after the first step, further on the first device."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        values = iter([0.5, *[0.03 * dist.rank()] * 9])
        task: Any = pl_module
        task.collapse_metrics = lambda *_: {'std_s1': torch.tensor(next(values))}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        collapsed: list[str] = pl_module.collapsed  # type: ignore[assignment]
        self.found = {'collapsed': collapsed, 'epochs': trainer.current_epoch}


def fit(
    folder: Path,
    devices: int,
    epochs: int,
    scenes: type[SyntheticEODataModule] = SyntheticEODataModule,
    batch: int = BATCH,
    **options: Any,
) -> dict[str, Any]:
    """Fit a task of one batch an epoch, shared by all processes."""
    seed_everything(0, verbose=False)
    still = {m: IdentityThenFlip() for m in ('s1', 's2')}
    model = {'model': 'test_resnet', 'projector': [16, 16]} | options.pop('model', {})
    task = DeCUR(
        {'s1': 2, 's2': 13}, augmentations=still, optimizer='adamw', lr=1e-3, **model
    )
    data = scenes(length=batch, val_length=24, batch_size=batch // devices, size=32)
    record = Record()
    callbacks = [record, *options.pop('callbacks', [])]
    trainer = Trainer(
        accelerator='cpu',
        devices=devices,
        strategy='ddp' if devices > 1 else 'auto',
        max_epochs=epochs,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(task, datamodule=data)
    metrics = {k: v.item() for k, v in trainer.callback_metrics.items()}
    weights = {n: p.detach() for n, p in task.named_parameters()}
    return {
        'losses': record.losses,
        'seen': record.seen,
        'gradients': record.gradients,
        'metrics': metrics,
        'weights': weights,
    }


def fit_as_one(folder: Path, devices: int) -> dict[str, Any]:
    """Run one step with BatchNorm over the batch of all processes."""
    return fit(
        folder,
        devices,
        epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        plugins=[GatheredBatchNorm()],
        precision='64-true',
    )


def fit_in_micro_batches(
    folder: Path, devices: int, micro_batch_size: int | None
) -> dict[str, Any]:
    """Run one step of a model without BatchNorm, in micro-batches."""
    return fit(
        folder,
        devices,
        epochs=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        precision='64-true',
        model={
            'model': 'test_vit',
            'projector': [16],
            'micro_batch_size': micro_batch_size,
            'grad_checkpointing': devices > 1,
        },
    )


def fit_partly_paired(folder: Path, devices: int) -> dict[str, Any]:
    """One step of a model without BatchNorm, on scenes that lack modalities."""
    return fit(
        folder,
        devices,
        epochs=1,
        scenes=PartlyPaired,
        batch=16,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        precision='64-true',
        model={'model': 'test_vit', 'projector': [16], 'micro_batch_size': 3},
    )


def fit_with_callbacks(folder: Path, devices: int) -> dict[str, Any]:
    """Fit with BatchNorm of each process, a logger and our callbacks."""
    probe = OnlineProbe(k=3)
    probed = counted(online_probe, '_scores', lambda x, *_: x)
    saved = counted(export, 'save_encoder', lambda _, path, *__: str(path))
    found = fit(
        folder,
        devices,
        epochs=2,
        callbacks=[probe, ExportEncoders()],
        logger=CSVLogger(folder, name=None, version='run'),
    )
    features = torch.from_numpy(probed[-1])
    return {**found, 'rows': probe.rows, 'features': features, 'saved': saved}


def fit_collapsing(folder: Path, devices: int) -> dict[str, Any]:
    """Fit until features collapse."""
    collapse = Collapse()
    quick: dict[str, Any] = {'limit_val_batches': 0, 'enable_checkpointing': False}
    callbacks = [collapse, StopOnCollapse()]
    fit(folder, devices, 4, logger=False, callbacks=callbacks, **quick)
    return collapse.found


def fit_packed(folder: Path, devices: int) -> dict[str, Any]:
    """Fit two epochs of packed data, and again with a stop inside the first."""

    def run(
        name: str, *callbacks: Callback, ckpt_path: Path | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        seed_everything(0, verbose=False)
        task = DeCUR(
            {'s1': 2, 's2': 13}, 'test_resnet', projector=[16, 16], size=32, lr=1e-3
        )
        record = Record()
        checkpoint = ModelCheckpoint(
            folder / name, save_last=True, every_n_train_steps=1
        )
        Trainer(
            accelerator='cpu',
            devices=devices,
            strategy='ddp' if devices > 1 else 'auto',
            max_epochs=2,
            limit_val_batches=0,
            callbacks=[record, checkpoint, *callbacks],
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
        ).fit(
            task,
            datamodule=PackedDataModule(
                str(folder / 'packed'), batch_size=4, num_workers=1
            ),
            ckpt_path=ckpt_path,
        )
        return record.seen, {n: p.detach() for n, p in task.named_parameters()}

    whole, weights = run('whole')
    run('stopped', StopAfter(3))
    seen, resumed = run('stopped', ckpt_path=folder / 'stopped' / 'last.ckpt')
    return {'whole': whole, 'weights': weights, 'seen': seen, 'resumed': resumed}


def counted(module: Any, name: str, what: Callable[..., Any]) -> list[Any]:
    """Record a value of every call of a function of a module."""
    calls: list[Any] = []
    function = getattr(module, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(what(*args, **kwargs))
        return function(*args, **kwargs)

    setattr(module, name, call)
    return calls


def main(folder: Path, devices: int) -> None:
    as_one = fit_as_one(folder, devices)
    cached = fit_in_micro_batches(folder, devices, micro_batch_size=2)
    callbacks = fit_with_callbacks(folder, devices)
    found = {'as_one': as_one, 'cached': cached, 'callbacks': callbacks}
    found['partly'] = fit_partly_paired(folder, devices)
    found['collapse'] = fit_collapsing(folder, devices)
    found['packed'] = fit_packed(folder, devices)
    torch.save(found, folder / f'rank{dist.rank()}.pt')


if __name__ == '__main__':
    main(Path(sys.argv[1]), int(sys.argv[2]))
