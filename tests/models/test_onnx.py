import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.helpers.versions import needs_onnx
from torchgeo_decur.models import create_encoder, save_onnx

METADATA = {'modality': 's1', 'bands': ['VV', 'VH'], 'limits': [[-23, -32], [-2, -8]]}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# A plain network, one of tokens, and one with bilinear sampling at points of its own.
@needs_onnx
@pytest.mark.parametrize('model', ['test_resnet', 'test_vit', 'resnet18_rda'])
def test_computes_features_of_any_batch(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(model, 2).train()
    state = {k: v.clone() for k, v in encoder.state_dict().items()}
    given = encoder if model == 'test_resnet' else state
    drawn = torch.get_rng_state()
    file = save_onnx(given, tmp_path / 'new' / 's1', model, METADATA, size=64)
    assert torch.get_rng_state().equal(drawn) or given is state
    assert encoder.training
    assert all(v.equal(state[k]) for k, v in encoder.state_dict().items())
    encoder.eval()
    assert file == tmp_path / 'new' / 's1.onnx' and names(file.parent) == ['s1.onnx']
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    (image,), (features,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ('image', ['batch', 2, 64, 64])
    assert (features.name, features.shape[0]) == ('features', 'batch')
    for n in (1, 5):
        x = torch.rand(n, 2, 64, 64)
        (found,) = session.run(None, {'image': x.numpy()})
        with torch.no_grad():
            difference = torch.from_numpy(found) - encoder(x)
        assert difference.abs().max() < 1e-4
    props = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert props['model'] == model and props['modality'] == 's1'
    assert json.loads(props['limits']) == METADATA['limits']
    assert json.loads(props['bands']) == ['VV', 'VH']


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def forged(change: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the results of onnxruntime."""
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession,
        'run',
        lambda *args: [change(y) for y in run(*args)],
    )


@needs_onnx
@pytest.mark.parametrize('change', [lambda y: y * 1.001, lambda y: y * float('nan')])
def test_other_features_leave_no_file(
    change: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'old.onnx').write_text('old')
    forged(change, monkeypatch)
    with pytest.raises(ValueError, match=r'at most 0\.0001 of the largest feature'):
        save_onnx(tiny(), tmp_path / 'old', 'tiny', {}, size=8)
    assert names(tmp_path) == ['old.onnx']
    assert (tmp_path / 'old.onnx').read_text() == 'old'


class Undecided(nn.Module):
    """Model that branches by values, which a graph cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).mean((2, 3))
        return y if y.sum() > 0 else -y


@needs_onnx
def test_rejects_a_model_that_cannot_be_exported(tmp_path: Path) -> None:
    message = r"exportable to ONNX for images of 32 x 32 pixels, got 'undecided': \w"
    with pytest.raises(ValueError, match=message):
        save_onnx(Undecided(), tmp_path / 'x', 'undecided', {}, size=32)
    assert names(tmp_path) == []


@needs_onnx
def test_rejects_missing_parameters(tmp_path: Path) -> None:
    state = create_encoder('test_resnet', 2).state_dict()
    state.pop('layer1.0.conv1.weight')
    with pytest.raises(ValueError, match=r'1 missing'):
        save_onnx(state, tmp_path / 'x', 'test_resnet', {})


def test_rejects_an_old_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, '__version__', '2.9.1')
    message = r'ONNX export requires torch 2\.10 or later, found 2\.9\.1'
    with pytest.raises(ImportError, match=message):
        save_onnx({}, tmp_path / 'x', 'test_resnet', {})


def test_explains_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torchgeo_decur.models.onnx.find_spec', lambda name: None)
    message = r'requires onnx, onnxruntime, onnxscript; run `pip install torchgeo-decur\[onnx\]'
    with pytest.raises(ImportError, match=message):
        save_onnx({}, tmp_path / 'x', 'test_resnet', {})
