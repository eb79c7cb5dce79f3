"""Check that a resumed fit gives the same result as an uninterrupted one."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tests.helpers.small_fits import trainer
from torchgeo_decur.callbacks import OnlineProbe
from torchgeo_decur.datamodules import PackedDataModule, SyntheticEODataModule
from torchgeo_decur.tasks import DeCUR

KILLED = """
import os, signal
from lightning.pytorch import Callback
from torchgeo.main import main

class Kill(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == {step}:
            os.kill(os.getpid(), signal.SIGKILL)

import sys, types
sys.modules['kill'] = types.SimpleNamespace(Kill=Kill)
Kill.__module__ = 'kill'
main(['fit', '--config', {config!r}, '--trainer.callbacks+=kill.Kill'])
"""


class Stop(Exception):
    """End a process."""


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise Stop


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)['state_dict']
    return state


def test_killed_fit_resumes_from_its_last_checkpoint(
    torchgeo: Callable[..., None], decur_yaml: Callable[..., Path]
) -> None:
    options = {
        'trainer__max_epochs': 3,
        'trainer__callbacks': [
            {
                'class_path': 'lightning.pytorch.callbacks.ModelCheckpoint',
                'init_args': {'save_last': True},
            }
        ],
        'data__init_args__num_workers': 1,
    }
    never_killed = decur_yaml(**options)
    torchgeo('fit', '--config', never_killed)

    killed = decur_yaml(**options)
    script = KILLED.format(step=3, config=str(killed))
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    last = killed.parent / 'run' / 'checkpoints' / 'last.ckpt'
    assert torch.load(last, weights_only=True)['global_step'] == 2

    torchgeo(
        'fit',
        '--config',
        killed,
        '--ckpt_path',
        last,
        '--trainer.logger.init_args.version=resumed',
    )
    resumed = weights(killed.parent / 'resumed' / 'checkpoints' / 'last.ckpt')
    expected = weights(never_killed.parent / 'run' / 'checkpoints' / 'last.ckpt')
    assert not [k for k, v in expected.items() if not torch.equal(v, resumed[k])]


@pytest.mark.parametrize(
    ('num_workers', 'every', 'shards'),
    [(0, 1, False), (1, 1, False), (0, 3, False), (1, 3, False), (1, 3, True)],
)
def test_resumes_inside_an_epoch(
    tmp_path: Path, packed: Path, num_workers: int, every: int, shards: bool
) -> None:
    def fit(
        folder: str, *callbacks: Callback, ckpt_path: Path | None = None
    ) -> dict[str, Tensor]:
        seed_everything(7, verbose=False)
        model: LightningModule = DeCUR(
            {'s1': 2, 's2': 13},
            'test_resnet',
            projector=[16, 16],
            size=32,
            optimizer='adamw',
            lr=1e-3,
        )
        options: dict[str, Any] = {'batch_size': 8, 'num_workers': num_workers}
        data = (
            PackedDataModule(str(packed), **options)
            if shards
            else SyntheticEODataModule(length=32, val_length=16, size=32, **options)
        )
        trainer(
            default_root_dir=tmp_path / folder,
            enable_checkpointing=True,
            max_epochs=2,
            callbacks=[
                ModelCheckpoint(
                    tmp_path / folder, save_last=True, every_n_train_steps=every
                ),
                OnlineProbe(),
                *callbacks,
            ],
        ).fit(model, datamodule=data, ckpt_path=ckpt_path)
        return {k: v.clone() for k, v in model.state_dict().items()}

    expected = fit('whole')
    with pytest.raises(Stop):
        fit('stopped', StopAt(6))
    resumed = fit('stopped', ckpt_path=tmp_path / 'stopped' / 'last.ckpt')
    assert not [k for k, v in expected.items() if not torch.equal(v, resumed[k])]
