"""Check AlexNet with timm's interface and torchvision's names."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from torchgeo_decur.models import (
    MultimodalEncoder,
    MultimodalPyramid,
    create_encoder,
    load_weights,
)

BOTH = pytest.mark.parametrize(
    ('name', 'size', 'channels', 'side'),
    [('alexnet', 224, 256, 6), ('alexnet_small', 64, 128, 3)],
)


@BOTH
@pytest.mark.parametrize('in_chans', [1, 3, 13])
def test_has_the_shapes_of_its_layers(
    name: str, size: int, channels: int, side: int, in_chans: int
) -> None:
    encoder = create_encoder(name, in_chans).eval()
    x = torch.rand(2, in_chans, size, size)
    maps = encoder.forward_features(x)  # type: ignore[operator]
    assert maps.shape == (2, channels, side, side)
    assert encoder.num_features == channels
    torch.testing.assert_close(encoder(x), maps.mean((2, 3)))
    odd = torch.rand(1, in_chans, size + 9, size - 1)
    assert encoder(odd).shape == (1, channels)


@BOTH
def test_every_parameter_gets_a_gradient(
    name: str, size: int, channels: int, side: int
) -> None:
    encoder = create_encoder(name, 3)
    encoder(torch.rand(4, 3, size, size)).square().sum().backward()
    for key, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, key


def test_equals_torchvision(tmp_path: Path) -> None:
    """Load torchvision's file without its classifier, and compare the maps."""
    reference = torchvision.models.AlexNet(num_classes=2)
    reference.classifier = nn.Sequential(nn.Linear(4, 2))
    torch.save(reference.state_dict(), tmp_path / 'alexnet.pth')
    encoder = create_encoder('alexnet', 3)
    report = load_weights(encoder, tmp_path / 'alexnet.pth')['']
    assert report.loaded == 10
    assert report.missing == ()
    assert all(key.startswith('classifier.') for key in report.unexpected)
    x = torch.rand(2, 3, 100, 100)
    maps = encoder.forward_features(x)  # type: ignore[operator]
    torch.testing.assert_close(maps, reference.features(x))


@BOTH
def test_replaces_the_classifier(
    name: str, size: int, channels: int, side: int
) -> None:
    model = timm.create_model(name, num_classes=7)
    assert model(torch.rand(2, 3, size, size)).shape == (2, 7)
    assert isinstance(model.get_classifier(), nn.Linear)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert model(torch.rand(2, 3, size, size)).shape == (2, channels)
    model.reset_classifier(3, global_pool='max')
    assert model(torch.rand(2, 3, size, size)).shape == (2, 3)


@BOTH
def test_gives_a_pyramid(name: str, size: int, channels: int, side: int) -> None:
    encoders = MultimodalEncoder({'a': 2, 'b': 3}, name)
    pyramid = MultimodalPyramid({'a': 2, 'b': 3}, name)
    levels = pyramid({'b': torch.rand(1, 3, size, size)})['b']
    assert levels[-1].shape == (1, channels, side, side)
    assert [x.shape[1] for x in levels] == pyramid.channels['b']
    for x, stride in zip(levels, pyramid.strides, strict=True):
        assert abs(x.shape[-1] - size / stride) <= 1
    assert encoders.num_features == {'a': channels, 'b': channels}


def test_promises_no_imagenet_weights() -> None:
    with pytest.raises(RuntimeError, match='No pretrained weights exist for alexnet'):
        create_encoder('alexnet', 3, pretrained=True)
