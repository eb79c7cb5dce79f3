"""Use models of TorchGeo, timm, TorchScript and ONNX as frozen encoders."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchgeo.models import CROMA, DOFA

from torchgeo_decur.modalities import MODALITIES, Modality
from torchgeo_decur.models import (
    FrozenEncoder,
    MultimodalEncoder,
    create_encoder,
    save_encoder,
)

RECORDS = {m: MODALITIES[f'sentinel{n}'] for m, n in (('s1', '1_grd'), ('s2', '2_l2a'))}
TWELVE = list(RECORDS['s2'].bands)
RGB = ['B4', 'B3', 'B2']


@pytest.fixture
def images() -> dict[str, Tensor]:
    """Return images in the unit of each modality."""
    torch.manual_seed(0)
    return {
        's1': -15 + 4 * torch.randn(2, 2, 32, 32),
        's2': 3000 * torch.rand(2, 12, 32, 32),
    }


def encode(images: dict[str, Tensor], *args: Any, **options: Any) -> Tensor:
    torch.manual_seed(1)
    encoder = FrozenEncoder(*args, **options)
    encoder.prepare(RECORDS)
    assert encoder.try_on({m: x[:1] for m, x in images.items()}) > 0
    with torch.no_grad():
        found: Tensor = encoder(images)
    return found


CROMA_ARGS = {'encoder_dim': 32, 'encoder_depth': 2, 'image_size': 16}
CROMA_INPUTS = [
    {'image': 's1', 'argument': 'x_sar', 'scale': 'unit', 'size': 16},
    {
        'image': 's2',
        'argument': 'x_optical',
        'scale': {'low': 0, 'high': 10000},
        'size': 16,
    },
]


def test_croma_takes_two_images_and_returns_several_vectors(
    images: dict[str, Tensor],
) -> None:
    model = CROMA(**CROMA_ARGS)  # type: ignore[arg-type]
    found = encode(images, model, CROMA_INPUTS, output='joint_GAP')
    assert found.shape == (2, 32)
    sizes = {'size': (16, 16), 'mode': 'bilinear', 'antialias': True}
    sar = nn.functional.interpolate(_unit(images['s1'], 's1'), **sizes)
    optical = nn.functional.interpolate(images['s2'].clamp(0, 1e4) / 1e4, **sizes)
    with torch.no_grad():
        expected = model.eval()(x_sar=sar, x_optical=optical)['joint_GAP']
    torch.testing.assert_close(found, expected)
    # By name, with only one of its images.
    one = {'init_args': {**CROMA_ARGS, 'modalities': ['sar']}, 'output': 'sar_GAP'}
    assert encode(images, 'torchgeo.models.CROMA', CROMA_INPUTS[:1], **one).shape == (
        2,
        32,
    )
    with pytest.raises(
        ValueError, match=r'output must be one of .*joint_GAP.*got None'
    ):
        encode(images, model, CROMA_INPUTS)


def _unit(x: Tensor, modality: str) -> Tensor:
    low, high = (torch.tensor(v)[:, None, None] for v in RECORDS[modality].limits or ())
    return (x.clamp(low, high) - low) / (high - low)


def test_dofa_takes_wavelengths_and_any_bands(images: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    model = DOFA(32, 16, embed_dim=32, depth=1, num_heads=2, num_classes=0)
    scale = {'mean': [1000, 1100, 1200], 'std': 800}
    entry = {'image': 's2', 'bands': RGB, 'scale': scale}
    waves = {'wavelengths': [0.665, 0.56, 0.49]}
    found = encode(images, model, [entry], waves)
    x = images['s2'][:, [3, 2, 1]] - torch.tensor([1000.0, 1100, 1200])[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(found, model(x / 800, **waves))
    message = r'DOFA fails for s2 \[12, 32, 32\] with bands .*correct the options'
    with pytest.raises(ValueError, match=message):
        encode(images, model, [{**entry, 'bands': TWELVE, 'scale': 'raw'}], waves)


@pytest.fixture
def layers() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


def test_runs_torchscript(
    layers: nn.Module, images: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / 'model.pt'
    with warnings.catch_warnings():
        # torch deprecates TorchScript, but users have TorchScript files.
        warnings.simplefilter('ignore', FutureWarning)
        warnings.simplefilter('ignore', DeprecationWarning)
        traced = torch.jit.trace(layers, images['s1'])  # type: ignore[no-untyped-call]
        torch.jit.save(traced, file)  # type: ignore[no-untyped-call]
    found = encode(images, str(file), [{'image': 's1', 'scale': 'raw'}])
    torch.testing.assert_close(found, layers(images['s1']).detach())
    with pytest.raises(
        ValueError, match=r'fails for s1 \[1, 32, 32\] with bands .*correct'
    ):
        encode(images, str(file), [{'image': 's1', 'bands': ['VV'], 'scale': 'raw'}])
    with pytest.raises(FileNotFoundError, match=r'other\.pt does not exist'):
        encode(images, str(tmp_path / 'other.pt'), [{'image': 's1', 'scale': 'raw'}])
    file.write_bytes(b'text')
    with pytest.raises(ValueError, match=r'expected TorchScript, .*build the model'):
        encode(images, str(file), [{'image': 's1', 'scale': 'raw'}])


def test_runs_an_exported_program(
    layers: nn.Module, images: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / 'model.pt2'
    batch = torch.export.Dim('batch', min=1, max=64)
    program = torch.export.export(layers, (images['s1'],), dynamic_shapes=[{0: batch}])
    torch.export.save(program, file)
    entry = {'image': 's1', 'scale': 'raw'}
    found = encode(images, str(file), [entry])
    torch.testing.assert_close(found, layers(images['s1']).detach())
    with pytest.raises(
        ValueError, match=r'fails for s1 \[1, 32, 32\] with bands .*correct'
    ):
        encode(images, str(file), [{**entry, 'bands': ['VV']}])


def test_runs_onnx(images: dict[str, Tensor], tmp_path: Path) -> None:
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    node = onnx.helper.make_node('GlobalAveragePool', ['image'], ['maps'])
    last = onnx.helper.make_node('Flatten', ['maps'], ['features'])
    shapes = {'image': ['batch', 2, 'rows', 'columns'], 'features': ['batch', 2]}
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    graph = onnx.helper.make_graph([node, last], 'mean', ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid('', 17)]
    file = tmp_path / 'mean.onnx'
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), file)
    found = encode(images, str(file), [{'image': 's1', 'scale': 'unit'}])
    torch.testing.assert_close(found, _unit(images['s1'], 's1').mean((2, 3)))
    with pytest.raises(
        ValueError, match=r'mean\.onnx fails for s2 .*correct the options'
    ):
        encode(images, str(file), [{'image': 's2', 'bands': RGB, 'scale': 'unit'}])
    file.write_bytes(b'text')
    with pytest.raises(ValueError, match=r'mean\.onnx: expected an ONNX file'):
        encode(images, str(file), [{'image': 's1', 'scale': 'unit'}])


def test_builds_a_timm_model_by_name(images: dict[str, Tensor]) -> None:
    entry = {'image': 's2', 'bands': RGB, 'scale': 'unit'}
    assert encode(images, 'test_resnet', [entry]).shape == (2, 96)
    tokens = {'method': 'forward_features', 'pool': 'first'}
    assert encode(images, 'test_vit', [entry], **tokens).shape == (2, 64)
    maps = {'method': 'forward_features'}
    with pytest.raises(
        ValueError, match=r'expected one vector per image, shape \(1, D\), found'
    ):
        encode(images, 'test_vit', [entry], **maps)


def test_exported_encoder_checks_bands_and_sets_scale(
    images: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    encoder = create_encoder('test_resnet', 12).eval()
    metadata = {'modality': 's2', 'in_chans': 12, **RECORDS['s2'].to_dict()}
    (file,) = save_encoder(
        encoder, tmp_path / 's2', 'test_resnet', metadata, ['safetensors']
    )
    entry = {'image': 's2', 'scale': 'weights'}
    found = encode(images, str(file), [entry])
    with torch.no_grad():
        expected = MultimodalEncoder.from_weights(str(file)).eval()(
            {'s2': _unit(images['s2'], 's2')}
        )['s2']
    torch.testing.assert_close(found, expected)
    with pytest.raises(
        ValueError, match=r'expected the 12 training bands .*, found 3 bands'
    ):
        encode(images, str(file), [{**entry, 'bands': RGB}])
    other = {'s2': Modality.of({**vars(RECORDS['s2']), 'unit': 'reflectance'})}
    with pytest.raises(
        ValueError, match='expected images in DN, the unit of its training'
    ):
        FrozenEncoder(str(file), [entry]).prepare(other)


def test_missing_pixels_become_the_mean_or_the_middle_of_the_scale() -> None:
    record = Modality(
        ('a', 'b'), 'multispectral', 'DN', (4.0, 8.0), (2.0, 2.0), nodata=-1
    )
    x = torch.tensor([[-1.0, 6.0], [8.0, -1.0]]).reshape(1, 2, 1, 2)
    expected = {
        'unit': [0.5, 0.75, 0.5, 0.5],
        'raw': [4.0, 6.0, 8.0, 8.0],
        'standard': [0.0, 1.0, 2.0, 0.0],
        'limits': [0.5, 0.6, 0.8, 0.5],
    }
    scales: dict[str, Any] = {
        'standard': {'mean': 4, 'std': 2},
        'limits': {'low': 0, 'high': 10},
    }
    for name, values in expected.items():
        scale = scales.get(name, name)
        encoder = FrozenEncoder(nn.Flatten(), [{'image': 'x', 'scale': scale}])
        encoder.prepare({'x': record})
        assert encoder({'x': x})[0].tolist() == pytest.approx(values), name


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        (
            {'image': 's3', 'scale': 'raw'},
            r"image must be one of \['s1', 's2'\], got 's3'",
        ),
        ({'image': 's2'}, "scale must be 'unit' for .*got None; see the documentation"),
        ({'image': 's2', 'scale': {'mean': 0}}, "scale must be 'unit' for"),
        ({'image': 's1', 'scale': 'raw', 'bands': ['HH']}, r'found .*which lack .*HH'),
        ({'image': 's1', 'scale': {'mean': [0, 1, 2], 'std': 1}}, 'got 3'),
        ({'image': 's1', 'scale': {'mean': 0, 'std': 0}}, 'std must be positive'),
        ({'image': 's1', 'scale': {'low': 1, 'high': 0}}, 'high must be above low'),
        ({'image': 's1', 'scale': 'weights'}, "scale 'weights' requires weights"),
        ({'image': 's1', 'scale': 'raw', 'size': 0}, 'size must be positive'),
        ({'scale': 'raw'}, 'inputs must be dictionaries with image and scale'),
    ],
)
def test_rejects_an_invalid_input(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrozenEncoder('test_resnet', [entry]).prepare(RECORDS)


@pytest.mark.parametrize(
    ('model', 'init_args', 'message'),
    [
        (
            'resnet5000',
            {},
            'model must be the name of a timm model or of weights, a file',
        ),
        ('torchgeo.models.crooma', {}, r'path of a class .*crooma'),
        (
            'torchgeo.models.CROMA',
            {'width': 3},
            r'init_args must be valid values of .*encoder_dim',
        ),
        (
            'test_resnet',
            {'depth': 3},
            'init_args of a timm model must have no other key',
        ),
    ],
)
def test_rejects_an_invalid_model(
    model: str, init_args: dict[str, Any], message: str
) -> None:
    entry = {'image': 's1', 'scale': 'raw'}
    with pytest.raises(ValueError, match=message):
        FrozenEncoder(model, [entry], init_args=init_args).prepare(RECORDS)
