"""Check that checkpoints and configs of version 0.1 still work.

`tests/data/before_layout` holds a config and a checkpoint of each task, written before
modules moved and options were renamed. Each weight of a checkpoint has one value, its
mean, so that the files are small.
"""

import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from torchgeo_decur import tasks

FOLDER = Path(__file__).parent / 'data' / 'before_layout'
TASKS: dict[str, type[LightningModule]] = {
    'barlow_twins': tasks.BarlowTwins,
    'classification': tasks.LateFusionClassification,
    'clip': tasks.CLIP,
    'comm': tasks.CoMM,
    'coral': tasks.COrAL,
    'decur': tasks.DeCUR,
    'segmentation': tasks.LateFusionSegmentation,
    'simclr': tasks.CrossModalSimCLR,
    'vicreg': tasks.VICReg,
}


@pytest.fixture(params=TASKS)
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of a task."""
    return str(request.param)


@pytest.fixture
def checkpoint(name: str, tmp_path: Path) -> Path:
    """Extract the checkpoint of the task."""
    file = tmp_path / f'{name}.ckpt'
    file.write_bytes(lzma.decompress((FOLDER / f'{name}.ckpt.xz').read_bytes()))
    return file


def test_every_task_has_files() -> None:
    built = {n for n, cls in vars(tasks).items() if cls in TASKS.values()}
    assert built == {cls.__name__ for cls in TASKS.values()}
    assert {f.name.split('.')[0] for f in FOLDER.iterdir()} == set(TASKS)


@pytest.mark.filterwarnings('ignore:.*is deprecated:FutureWarning')
def test_checkpoint_loads(name: str, checkpoint: Path) -> None:
    stored = torch.load(checkpoint, weights_only=True)['state_dict']
    task = TASKS[name].load_from_checkpoint(checkpoint)
    loaded = {
        k: v for k, v in task.state_dict().items() if not k.startswith('augmentations.')
    }
    expected = {k: v for k, v in stored.items() if not k.startswith('augmentations.')}
    assert loaded.keys() == expected.keys()
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0)


# Lightning ends the stored epoch once more, and TorchGeo computes its metrics there.
@pytest.mark.filterwarnings('ignore:The ``compute`` method of metric:UserWarning')
@pytest.mark.filterwarnings('ignore:.*is deprecated:FutureWarning')
def test_fit_resumes_with_its_config(
    name: str, checkpoint: Path, torchgeo: Callable[..., Any], tmp_path: Path
) -> None:
    torchgeo(
        'fit',
        f'--config={FOLDER / name}.yaml',
        f'--ckpt_path={checkpoint}',
        f'--trainer.logger.save_dir={tmp_path}',
        f'--trainer.callbacks.dirpath={tmp_path}',
        '--trainer.callbacks.enable_version_counter=false',
        '--trainer.max_epochs=3',
        '--trainer.max_steps=3',
    )
    resumed = torch.load(tmp_path / 'last.ckpt', weights_only=True)
    assert resumed['global_step'] == 3
