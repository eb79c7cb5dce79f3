import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from tests.helpers.versions import NO_ONNX, needs_onnx
from torchgeo_decur.models import (
    ClassPredictions,
    LateFusionClassifier,
    LateFusionSegmenter,
    WholeModel,
    create_encoder,
    save_onnx,
    save_program,
)
from torchgeo_decur.models.onnx import save_model

METADATA = {'modality': 's1', 'bands': ['VV', 'VH'], 'limits': [[-23, -32], [-2, -8]]}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# A plain network, one of tokens, and one with bilinear sampling at points of its own.
@needs_onnx
@pytest.mark.parametrize(
    ('model', 'size'), [('test_resnet', None), ('test_vit', 64), ('resnet18_rda', 64)]
)
def test_computes_features_of_any_batch(
    model: str, size: int | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    encoder = create_encoder(model, 2).train()
    state = {k: v.clone() for k, v in encoder.state_dict().items()}
    given = encoder if model == 'test_resnet' else state
    drawn = torch.get_rng_state()
    file = save_onnx(given, str(tmp_path / 'new' / 's1'), model, METADATA, size)
    assert torch.get_rng_state().equal(drawn) or given is state
    assert encoder.training
    assert all(v.equal(state[k]) for k, v in encoder.state_dict().items())
    encoder.eval()
    assert file == tmp_path / 'new' / 's1.onnx' and names(file.parent) == ['s1.onnx']
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    (image,), (features,) = session.get_inputs(), session.get_outputs()
    shape = ['height', 'width'] if size is None else [64, 64]
    assert (image.name, image.shape) == ('image', ['batch', 2, *shape])
    assert (features.name, features.shape[0]) == ('features', 'batch')
    for n in (1, 5):
        x = torch.rand(n, 2, 64, 64 if size else 75)
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
    with pytest.raises(
        ValueError, match=r'between features and torch of at most 0\.0001'
    ):
        save_onnx(tiny(), tmp_path / 'old', 'tiny', {}, size=8)
    assert names(tmp_path) == ['old.onnx']
    assert (tmp_path / 'old.onnx').read_text() == 'old'


class Undecided(nn.Module):
    """Model with a branch that depends on values, which cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).mean((2, 3))
        return y if y.sum() > 0 else -y


@needs_onnx
def test_rejects_a_model_that_cannot_be_exported(tmp_path: Path) -> None:
    message = r"exportable for images of 32 x 32 pixels, got 'undecided': \w"
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
    with pytest.raises(ImportError, match=r'program export requires torch 2\.10'):
        save_program({}, tmp_path / 'x', 'test_resnet', {})


def test_explains_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torchgeo_decur.models.onnx.find_spec', lambda name: None)
    message = r'requires onnx, onnxruntime, onnxscript; run `pip install torchgeo-decur\[onnx\]'
    with pytest.raises(ImportError, match=message):
        save_onnx({}, tmp_path / 'x', 'test_resnet', {})


class TinyStages(nn.Module):
    """Five convolutions, because torch exports few nodes fast."""

    def __init__(
        self, in_chans: int = 3, num_classes: int = 0, global_pool: str = 'avg'
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, 8
        self.feature_info = []
        for i, before in enumerate((in_chans, 8, 8, 8, 8)):
            convolution = nn.Conv2d(before, 8, 3, stride=2, padding=1)
            self.add_module(f'stage{i}', convolution)
            entry = {'num_chs': 8, 'reduction': 2 ** (i + 1), 'module': f'stage{i}'}
            self.feature_info.append(entry)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for stage in self.children():
            x = stage(x).relu()
        return x.mean((2, 3))


# timm requires this name.
default_cfgs = generate_default_cfgs({'tiny_stages.untrained': {}})


@register_model
def tiny_stages(pretrained: bool = False, **kwargs: Any) -> Any:
    return build_model_with_cfg(TinyStages, 'tiny_stages', pretrained, **kwargs)


MODALITIES = {'s1': 2, 'dem': 1}
OUTPUTS = ['logits', 'probabilities', 'classes']


@pytest.fixture(scope='module')
def segmenter() -> LateFusionSegmenter:
    torch.manual_seed(0)
    built = LateFusionSegmenter(MODALITIES, 'segformer', 'tiny_stages', num_classes=4)
    return built.eval()


@pytest.fixture(scope='module')
def files(
    segmenter: LateFusionSegmenter, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Write a whole segmenter in both formats."""
    if NO_ONNX:
        pytest.skip('ONNX needs torch 2.10')
    whole = WholeModel(segmenter, ClassPredictions('multiclass'))
    path = tmp_path_factory.mktemp('whole') / 'model'
    return save_model(
        whole, path, ['onnx', 'pt2'], 'tiny_stages', {'labels': ['a', 'b']}
    )


def drawn(number: int, *shape: int) -> dict[str, torch.Tensor]:
    return {m: torch.rand(number, c, *shape) for m, c in MODALITIES.items()}


def test_segmenter_accepts_any_size_and_every_subset_of_modalities(
    segmenter: LateFusionSegmenter, files: list[Path]
) -> None:
    onnx_file, program_file = files
    session = onnxruntime.InferenceSession(
        onnx_file, providers=['CPUExecutionProvider']
    )
    assert {x.name: x.shape for x in session.get_inputs()} == {
        'image_s1': ['batch', 2, 'height', 'width'],
        'image_dem': ['batch', 1, 'height', 'width'],
        'available_s1': ['batch'],
        'available_dem': ['batch'],
    }
    found = {x.name: x.shape for x in session.get_outputs()}
    assert list(found) == OUTPUTS and found['logits'][:2] == ['batch', 4]
    program = torch.export.load(program_file).module()
    subsets = [*itertools.combinations(MODALITIES, 1), tuple(MODALITIES)]
    for present, (number, *shape) in itertools.product(
        subsets, [(1, 64, 64), (3, 81, 70)]
    ):
        images = drawn(number, *shape)
        with torch.no_grad():
            expected = segmenter({m: images[m] for m in present})
        available = {m: torch.full((number,), m in present) for m in MODALITIES}
        # An image of an absent modality may have any values.
        images = {m: x if m in present else x * torch.nan for m, x in images.items()}
        given = {f'image_{m}': x.numpy() for m, x in images.items()}
        given |= {f'available_{m}': x.numpy() for m, x in available.items()}
        results = [dict(zip(OUTPUTS, session.run(OUTPUTS, given), strict=True))]
        with torch.no_grad():
            outputs = program(images, available)
        results.append({k: x.numpy() for k, x in outputs.items()})
        for result in results:
            logits = torch.from_numpy(result['logits'])
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
            probabilities = torch.from_numpy(result['probabilities'])
            torch.testing.assert_close(probabilities, logits.softmax(1))
            assert (result['classes'] == result['logits'].argmax(1)).all()


def test_file_runs_and_describes_itself_without_this_package(files: list[Path]) -> None:
    code = f"""
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession({str(files[0])!r})
inputs = {{f'image_{{m}}': np.zeros((2, c, 64, 96), 'float32')
          for m, c in (('s1', 2), ('dem', 1))}}
inputs |= {{f'available_{{m}}': np.array([True, False]) for m in ('s1', 'dem')}}
(classes,) = session.run(['classes'], inputs)
print(classes.shape, session.get_modelmeta().custom_metadata_map['labels'])
assert 'torch' not in sys.modules and 'torchgeo_decur' not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == '(2, 64, 96) ["a", "b"]'
    extra = {'metadata.json': ''}
    torch.export.load(files[1], extra_files=extra)
    told = json.loads(extra['metadata.json'])
    assert told['labels'] == ['a', 'b'] and told['inputs'][0] == 'image_s1'


@needs_onnx
def test_rejects_a_model_of_one_size(tmp_path: Path) -> None:
    classifier = LateFusionClassifier({'s1': 2}, 'swin_tiny_patch4_window7_224')
    message = r"any size from 64 pixels, got 'LateFusionClassifier': .*; set size"
    with pytest.raises(ValueError, match=message):
        save_program(classifier, tmp_path / 'x')
    assert names(tmp_path) == []


class Rounded(nn.Module):
    """Model whose trace is valid only for some sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).mean((2, 3))
        return -y if x.shape[2] % 32 == 0 else y


@needs_onnx
@pytest.mark.parametrize('save', [save_onnx, save_program])
def test_rejects_a_trace_that_is_invalid_for_other_sizes(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r'no file was written; set size \(--size\)'):
        save(Rounded(), tmp_path / 'x')
    assert names(tmp_path) == []


def test_a_whole_model_names_its_modalities() -> None:
    classifier = LateFusionClassifier(MODALITIES, 'test_resnet')
    assert WholeModel(classifier, modalities=['dem']).input_names == [
        'image_dem',
        'available_dem',
    ]
    with pytest.raises(ValueError, match=r"among \['s1', 'dem'\], got \['s2'\]"):
        WholeModel(classifier, modalities=['s2'])
    with pytest.raises(ValueError, match=r'late fusion, such as .*, got Conv2d'):
        WholeModel(nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match=r"task must be 'binary', .* got 'ordinal'"):
        ClassPredictions('ordinal')  # type: ignore[arg-type]
