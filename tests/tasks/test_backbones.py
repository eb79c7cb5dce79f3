"""Check backbones by name in pretraining from YAML, export and transfer."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.encoder_states import assert_loaded
from torchgeo_decur.models import create_encoder, load_weights
from torchgeo_decur.weights.encoder_files import read_checkpoint

Runner = Callable[..., dict[str, float]]


@pytest.fixture(scope='module', params=['resnet18_rda', 'test_vit'])
def pretrained(
    request: pytest.FixtureRequest,
    torchgeo: Callable[..., None],
    decur_yaml: Callable[..., Path],
) -> tuple[str, dict[str, str]]:
    """Return a backbone, and exported encoders after three steps on built-in scenes."""
    path = decur_yaml(
        trainer__max_epochs=1,
        trainer__max_steps=3,
        trainer__callbacks=[{'class_path': 'torchgeo_decur.callbacks.ExportEncoders'}],
        model__init_args__model=request.param,
        model__init_args__size=48,
        data__init_args={'length': 12, 'val_length': 4, 'batch_size': 4, 'size': 48},
    )
    torchgeo('fit', '--config', path)
    (folder,) = (path.parent / 'run').glob('encoders')
    return request.param, {m: str(folder / f'{m}.safetensors') for m in ('s1', 's2')}


def test_exported_encoders_are_whole(pretrained: tuple[str, dict[str, str]]) -> None:
    model, files = pretrained
    checkpoint = read_checkpoint(files['s2'])
    assert checkpoint.metadata[''].model == model
    encoder = create_encoder(model, 13)
    fresh = {k: v.clone() for k, v in encoder.state_dict().items()}
    load_weights(encoder, files['s2'])
    assert_loaded(encoder, checkpoint.states[''])
    changed = {k for k, v in encoder.state_dict().items() if not v.equal(fresh[k])}
    if model == 'resnet18_rda':
        assert {'da_l3.rpe_table', 'da_l4.conv_offset.3.weight'} <= changed


def test_classification_runs_with_each_backbone(
    pretrained: tuple[str, dict[str, str]], runner: Callable[[str], Runner]
) -> None:
    model, files = pretrained
    run = runner('late_fusion_classification.yaml')
    assert math.isfinite(run('fit', weights=files, model=model)['val_loss'])


@pytest.mark.parametrize('decoder', ['fcn', 'unet'])
def test_segmentation_runs_with_each_backbone(
    pretrained: tuple[str, dict[str, str]],
    runner: Callable[[str], Runner],
    decoder: str,
) -> None:
    model, files = pretrained
    run = runner('late_fusion_segmentation.yaml')
    options: dict[str, Any] = {'model': decoder, 'backbone': model, 'weights': files}
    assert math.isfinite(run('fit', **options)['val_loss'])
