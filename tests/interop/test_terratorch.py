from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from torchgeo_decur.models import MultimodalPyramid


@pytest.fixture(scope='module')
def build(adapter: Callable[[str], ModuleType]) -> Callable[..., Any]:
    """Build the backbone through the registry, as TerraTorch does."""
    registry = adapter('terratorch').TERRATORCH_BACKBONE_REGISTRY
    return lambda **options: registry.build('decur_encoders', **options).eval()


def test_returns_levels_of_one_modality(
    build: Callable[..., Any], weights: Path
) -> None:
    backbone = build(weights=str(weights), modalities=['s2'])
    x = torch.rand(2, 13, 64, 64)
    with torch.no_grad():
        levels = backbone(x)
        pyramid = MultimodalPyramid({'s2': 13}, 'test_resnet', {'s2': str(weights)})
        expected = pyramid.eval()({'s2': x})['s2']
    assert [y.shape[1] for y in levels] == backbone.out_channels
    for level, own in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, own)


def test_concatenates_modalities_of_some_levels(
    build: Callable[..., Any], weights: Path
) -> None:
    backbone = build(weights=str(weights), out_indices=[1, -1])
    images = {'s2': torch.rand(2, 13, 64, 64), 's1': torch.rand(2, 2, 64, 64)}
    with torch.no_grad():
        levels = backbone(images)
        s1 = backbone.pyramid({'s1': images['s1']})['s1']
    assert [y.shape[1] for y in levels] == backbone.out_channels
    # In the order of the weights, whatever that of the images.
    assert levels[-1][:, : s1[-1].shape[1]].equal(s1[-1])
    assert levels[0].shape[1] == 2 * s1[1].shape[1]


def test_adapts_to_other_bands(build: Callable[..., Any], weights: Path) -> None:
    bands = {'s2': ['B4', 'B3', 'B2']}
    backbone = build(weights=str(weights), modalities=['s2'], bands=bands)
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 64, 64))[0].shape[0] == 1
    whole = MultimodalPyramid({'s2': 13}, 'test_resnet', {'s2': str(weights)})
    first = 'encoders.s2.conv1.0.weight'
    kernel = whole.state_dict()[first][:, [3, 2, 1]]
    assert backbone.pyramid.state_dict()[first].equal(kernel)


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (torch.rand(1, 13, 64, 64), r"dictionary with \['s1', 's2'\], got one tensor"),
        ({'S2': torch.rand(1, 13, 64, 64)}, r"got \['S2'\]; use these modality names"),
    ],
)
def test_rejects_other_images(
    build: Callable[..., Any], weights: Path, images: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(weights=str(weights))(images)


# What other packages warn of is theirs.
@pytest.mark.filterwarnings('default')
def test_serves_a_model_of_terratorch(build: Callable[..., Any], weights: Path) -> None:
    models = pytest.importorskip('terratorch.models')
    options = {'backbone': 'decur_encoders', 'backbone_weights': str(weights)}
    model = models.EncoderDecoderFactory().build_model(
        'segmentation',
        decoder='UperNetDecoder',
        decoder_channels=16,
        num_classes=3,
        backbone_out_indices=[1, 2, 3, 4],
        **options,
    )
    images = {'s1': torch.rand(2, 2, 64, 64), 's2': torch.rand(2, 13, 64, 64)}
    output = model(images).output
    assert output.shape == (2, 3, 64, 64)
    output.sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
