"""Check MiT from pretraining to each transfer, by configuration files."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import get_encoder
from torchgeo.tasks import SemanticSegmentation

Runner = Callable[..., dict[str, float]]


@pytest.fixture(scope='module')
def encoders(torchgeo: Callable[..., None], decur_yaml: Callable[..., Path]) -> Path:
    """Return a folder with encoders exported by a small fit."""
    path = decur_yaml(model__init_args__model='mit_b0', trainer__max_epochs=1)
    torchgeo('fit', '--config', path)
    return path.parent / 'run' / 'encoders'


@pytest.fixture
def start(encoders: Path) -> dict[str, Any]:
    return {'weights': {m: str(encoders / f'{m}.safetensors') for m in ('s1', 's2')}}


def test_exports_have_the_names_of_smp(encoders: Path) -> None:
    state = load_file(encoders / 's2.safetensors')
    assert state['patch_embed1.proj.weight'].shape == (32, 13, 7, 7)
    assert set(state) == set(get_encoder('mit_b0', weights=None).state_dict())


def test_stock_segmentation_loads_an_export(encoders: Path) -> None:
    stock = SemanticSegmentation(
        model='unet',
        backbone='mit_b0',
        weights=str(encoders / 's1.pt'),
        in_channels=2,
        num_classes=4,
        task='multiclass',
    )
    state = stock.model.encoder.state_dict()
    for name, value in load_file(encoders / 's1.safetensors').items():
        assert state[name].equal(value)
    assert stock(torch.rand(2, 2, 64, 64)).shape == (2, 4, 64, 64)


def test_classification_runs_with_pretrained_encoders(
    start: dict[str, Any], runner: Callable[[str], Runner]
) -> None:
    run = runner('late_fusion_classification.yaml')
    assert math.isfinite(run('fit', model='mit_b0', **start)['train_loss'])
    assert math.isfinite(run('test', model='mit_b0', **start)['test_loss'])


@pytest.mark.parametrize('decoder', ['fcn', 'unet', 'segformer', 'cmx'])
def test_segmentation_keeps_frozen_encoders(
    decoder: str, start: dict[str, Any], encoders: Path, runner: Callable[[str], Runner]
) -> None:
    run = runner('late_fusion_segmentation.yaml')
    options = {'model': decoder, 'backbone': 'mit_b0', 'freeze_backbone': True}
    assert math.isfinite(run('fit', **options, **start)['train_loss'])
    state = torch.load(run.checkpoint, weights_only=True)['state_dict']
    for m in ('s1', 's2'):
        for name, value in load_file(encoders / f'{m}.safetensors').items():
            assert state[f'model.encoders.encoders.{m}.{name}'].equal(value)
