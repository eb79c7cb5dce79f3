"""Check packed data in a fit: batches, scaling and failures."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from tests.helpers.small_fits import trainer
from torchgeo_decur.datamodules import PackedDataModule, SyntheticEODataModule
from torchgeo_decur.packed import pack_datamodule
from torchgeo_decur.tasks import DeCUR

ROOT = Path(__file__).parents[2]


def scenes(**options: Any) -> SyntheticEODataModule:
    """Make the source of the fixture `packed`."""
    return SyntheticEODataModule(
        length=32, val_length=24, size=32, num_dates=2, batch_size=8, seed=0, **options
    )


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_equal_the_dataset(packed: Path, workers: int) -> None:
    unpacked = scenes()
    datamodule = PackedDataModule(str(packed), batch_size=8, num_workers=workers)
    for found in (unpacked, datamodule):
        found.setup('fit')
    assert datamodule.modalities == unpacked.modalities
    for loader in ('train_dataloader', 'val_dataloader'):
        pairs = zip(
            getattr(datamodule, loader)(), getattr(unpacked, loader)(), strict=True
        )
        for batch, expected in pairs:
            assert batch.keys() == expected.keys()
            assert all(torch.equal(batch[k], expected[k]) for k in batch)
            scaled = datamodule.on_after_batch_transfer(batch, 0)
            other = unpacked.on_after_batch_transfer(expected, 0)
            assert torch.equal(scaled['image_s2'], other['image_s2'])


def test_bytes_are_scaled(packed: Path, tmp_path: Path) -> None:
    pack_datamodule(scenes(), tmp_path / 'bytes', 'uint8', workers=0, progress=False)
    batches = {}
    for root in (packed, tmp_path / 'bytes'):
        datamodule = PackedDataModule(str(root), batch_size=8)
        datamodule.setup('validate')
        batch = next(iter(datamodule.val_dataloader()))
        assert datamodule.modalities == scenes().modalities
        kept = root == packed
        assert batch['image_s1'].dtype == (torch.float32 if kept else torch.uint8)
        # In a fit, the trainer says which transform applies.
        batches[kept] = datamodule.aug(batch)
        datamodule.on_after_batch_transfer(batch, 0)
    for m in ('s1', 's2'):
        kept, rounded = (batches[k][f'image_{m}'] for k in (True, False))
        assert rounded.dtype == torch.float32
        assert 0 <= rounded.min() and rounded.max() <= 1
        assert (kept - rounded).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    'stages',
    [
        ('validate', 'test', 'predict'),
        # A trainer's members of an enumeration read otherwise in text.
        (TrainerFn.VALIDATING, TrainerFn.TESTING, TrainerFn.PREDICTING),
    ],
)
def test_sets_up_the_splits_of_a_stage(packed: Path, stages: tuple[str, ...]) -> None:
    datamodule = PackedDataModule(str(packed), batch_size=8)
    for stage in stages:
        datamodule.setup(stage)
    assert datamodule.train_dataset is None
    sizes = [
        len(getattr(datamodule, f'{s}_dataset')) for s in ('val', 'test', 'predict')
    ]
    assert sizes == [24, 24, 24]


def test_explains_a_folder_without_a_manifest(tmp_path: Path) -> None:
    datamodule = PackedDataModule(str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r'root must contain manifest.json, but'
    ):
        datamodule.setup('fit')


class KillWorker(Callback):
    """Callback that kills a worker process of the loader."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid or 0, signal.SIGKILL)


class RemoveShard(Callback):
    """Callback that removes a shard before it is read."""

    def __init__(self, shard: Path) -> None:
        self.shard = shard

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            self.shard.unlink()


def fit(
    root: Path, folder: Path, *callbacks: Callback, ckpt_path: Path | None = None
) -> dict[str, Tensor]:
    """Fit three epochs of four steps, and return the final weights."""
    seed_everything(7, verbose=False)
    task = DeCUR(
        {'s1': 2, 's2': 13}, 'test_resnet', projector=[16, 16], size=32, lr=1e-3
    )
    saved = ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)
    trainer(
        enable_checkpointing=True,
        limit_val_batches=0,
        max_epochs=3,
        callbacks=[saved, *callbacks],
    ).fit(
        task,
        datamodule=PackedDataModule(str(root), batch_size=8, num_workers=1),
        ckpt_path=ckpt_path,
    )
    return {k: v.clone() for k, v in task.state_dict().items()}


@pytest.fixture(scope='module')
def expected(
    packed: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Tensor]:
    return fit(packed, tmp_path_factory.mktemp('whole'))


def test_killed_worker_stops_the_fit_which_resumes(
    packed: Path, tmp_path: Path, expected: dict[str, Tensor]
) -> None:
    # Torch says one or the other, as it learns of it by a signal or by waiting.
    says = r'DataLoader worker \(pid.*(killed by signal|exited unexpectedly)'
    with pytest.raises(RuntimeError, match=says):
        fit(packed, tmp_path, KillWorker())
    resumed = fit(packed, tmp_path, ckpt_path=tmp_path / 'last.ckpt')
    assert not [k for k, v in expected.items() if not torch.equal(v, resumed[k])]


def test_fit_resumes_after_a_removed_shard(
    packed: Path, tmp_path: Path, expected: dict[str, Tensor]
) -> None:
    root = tmp_path / 'packed'
    shutil.copytree(packed, root)
    shard = root / 'train' / 'shard-00003.bin'
    with pytest.raises(
        Exception, match='expected a shard with 5 samples, found no file'
    ):
        fit(root, tmp_path, RemoveShard(shard))
    pack_datamodule(scenes(), root, workers=0, progress=False)
    resumed = fit(root, tmp_path, ckpt_path=tmp_path / 'last.ckpt')
    assert not [k for k, v in expected.items() if not torch.equal(v, resumed[k])]


def test_synthetic_experiment_runs_on_packed_data(
    packed: Path,
    tmp_path: Path,
    torchgeo: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = ROOT / 'experiments'
    swap = yaml.safe_load((folder / 'data' / 'packed.yaml').read_text())
    assert list(swap) == ['data']
    (tmp_path / 'data').mkdir()
    shutil.copytree(packed, tmp_path / swap['data']['init_args']['root'])
    monkeypatch.chdir(tmp_path)
    torchgeo(
        'fit',
        '--config',
        folder / 'synthetic.yaml',
        '--config',
        folder / 'data' / 'packed.yaml',
        '--data.batch_size=16',
        '--data.num_workers=0',
        '--model.size=32',
        '--trainer.max_epochs=1',
        '--trainer.enable_progress_bar=false',
    )
    run = tmp_path / 'outputs' / 'synthetic' / 'version_0'
    assert (run / 'encoders' / 's2.safetensors').exists()
