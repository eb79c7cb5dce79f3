"""Check encoders and transfers that start from checkpoints of transfer tasks."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.encoder_states import State
from tests.helpers.small_fits import trainer
from torchgeo_decur.cli import main
from torchgeo_decur.models import MultimodalEncoder, load_weights
from torchgeo_decur.tasks import LateFusionClassification, LateFusionSegmentation
from torchgeo_decur.weights.encoder_files import read_checkpoint

MODALITIES = {'s1': 2, 's2': 4}
BANDS = {'s2': ['B2', 'B3', 'B4', 'B8']}
# timm renames nothing in the pyramid of a ResNet, and nearly all in that of a ConvNeXt.
RESNET, CONVNEXT = 'test_resnet', 'test_convnext'

type Task = LateFusionClassification | LateFusionSegmentation


class Noise(LightningDataModule):
    """Dataset of a few random images."""

    def val_dataloader(self) -> DataLoader[Any]:
        images = {f'image_{m}': torch.rand(c, 64, 64) for m, c in MODALITIES.items()}
        targets = {'label': torch.tensor(1), 'mask': torch.zeros(64, 64).long()}
        return DataLoader([{**images, **targets}] * 2, batch_size=2)  # type: ignore[arg-type]


def save(task: Task, folder: Path) -> Path:
    """Write a checkpoint like Lightning's, with random parameters."""
    generator = torch.Generator().manual_seed(0)
    for value in task.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator))
    run = trainer()
    run.validate(task, Noise(), verbose=False)
    run.save_checkpoint(folder / 'task.ckpt')
    return folder / 'task.ckpt'


def classification(**options: Any) -> LateFusionClassification:
    return LateFusionClassification(MODALITIES, num_classes=3, **options)


def segmentation(**options: Any) -> LateFusionSegmentation:
    return LateFusionSegmentation(MODALITIES, 'segformer', num_classes=3, **options)


def task_of(kind: str, model: str, **options: Any) -> Task:
    if kind == 'classification':
        return classification(model=model, **options)
    return segmentation(backbone=model, **options)


def by_place(module: nn.Module) -> State:
    return {
        k.removeprefix('model.').replace('.', '_'): v
        for k, v in module.state_dict().items()
    }


@pytest.fixture(
    params=[
        ('classification', CONVNEXT),
        ('segmentation', RESNET),
        ('segmentation', CONVNEXT),
    ],
    ids='-'.join,
)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, Task, Path]:
    kind, model = request.param
    task = task_of(kind, model, bands=BANDS)
    return kind, model, task, save(task, tmp_path)


def test_starts_encoders(
    case: tuple[str, str, Task, Path], caplog: pytest.LogCaptureFixture
) -> None:
    kind, model, task, file = case
    with caplog.at_level(logging.INFO):
        encoder = MultimodalEncoder(MODALITIES, model, str(file))
    for m in MODALITIES:
        actual = by_place(encoder.encoders[m])
        expected = by_place(task.model.encoders.encoders[m])
        assert all(actual[k].equal(v) for k, v in expected.items())
        # The norm of the pooled features is not in the pyramid.
        rest = sorted(set(actual) - set(expected))
        pruned = kind == 'segmentation' and model == CONVNEXT
        assert rest == (['head_norm_bias', 'head_norm_weight'] if pruned else [])
        assert actual.keys() >= expected.keys()
    said = "kept the initial values of ['head.norm.bias', 'head.norm.weight']"
    pruned = kind == 'segmentation' and model == CONVNEXT
    assert (said in caplog.text) == pruned


@pytest.mark.parametrize('target', ['classification', 'segmentation'])
def test_starts_another_transfer(
    case: tuple[str, str, Task, Path], target: str
) -> None:
    _, model, task, file = case
    other = task_of(target, model, weights=str(file))
    for m in MODALITIES:
        actual = by_place(other.model.encoders.encoders[m])
        expected = by_place(task.model.encoders.encoders[m])
        common = actual.keys() & expected.keys()
        assert len(common) > len(actual) - 3
        assert all(actual[k].equal(expected[k]) for k in common)


def test_names_its_bands(case: tuple[str, str, Task, Path]) -> None:
    _, model, task, file = case
    encoder = MultimodalEncoder({'s2': 2}, model, str(file), {'s2': ['B8', 'B2']})
    kernel = next(p for p in encoder.parameters() if p.ndim == 4)
    old = next(p for p in task.model.encoders.encoders['s2'].parameters() if p.ndim > 3)
    assert kernel.equal(old[:, [3, 0]])


def test_exports_and_converts(
    case: tuple[str, str, Task, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, model, task, file = case
    main(['export', str(file)])
    main(['convert', str(file), '--to=safetensors', f'--out={tmp_path}'])
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    names = ['s1.pt', 's1.safetensors', 's2.pt', 's2.safetensors']
    assert [f.name for f in written] == [
        *names,
        'task_s1.safetensors',
        'task_s2.safetensors',
    ]
    for name in (tmp_path / 'encoders' / 's2.safetensors', written[-1]):
        read = read_checkpoint(name)
        assert read.metadata[''].model == model
        assert read.metadata[''].bands == tuple(BANDS['s2'])
        encoder = MultimodalEncoder({'s2': 4}, model, str(name))
        actual = by_place(encoder.encoders['s2'])
        expected = by_place(task.model.encoders.encoders['s2'])
        assert all(actual[k].equal(v) for k, v in expected.items())


def test_rejects_a_pyramid_of_another_model(tmp_path: Path) -> None:
    file = save(segmentation(backbone=CONVNEXT), tmp_path)
    with pytest.raises(ValueError, match='found another model'):
        load_weights(MultimodalEncoder(MODALITIES, 'test_convnext2'), file)
