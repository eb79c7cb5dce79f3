import pytest
import torch
from torch import nn

from torchgeo_decur.models import build_projector


def test_has_the_layers_of_decur() -> None:
    layers = list(build_projector(32, [64, 48, 16]).layers)
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert [type(layer) for layer in layers] == kinds
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert [tuple(x.weight.shape) for x in linear] == [(64, 32), (48, 64), (16, 48)]
    assert all(x.bias is None for x in linear)
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm1d)]
    assert [x.num_features for x in norms] == [64, 48]
    assert all(x.affine and x.track_running_stats for x in norms)


@pytest.mark.parametrize('widths', [[16], (64, 16), [8, 64, 32, 16]], ids=str)
def test_has_shape_and_gradient(widths: list[int]) -> None:
    projector = build_projector(32, widths)
    projector(torch.randn(4, 32)).square().sum().backward()
    assert projector(torch.randn(4, 32)).shape == (4, 16)
    assert all(p.grad is not None for p in projector.parameters())


def test_is_the_identity_without_layers() -> None:
    projector, h = build_projector(32, []), torch.randn(4, 32)
    assert not list(projector.parameters()) and projector(h).equal(h)


def test_projectors_share_no_storage() -> None:
    first, second = build_projector(8, [8, 8]), build_projector(8, [8, 8])
    storages = [{p.data_ptr() for p in x.parameters()} for x in (first, second)]
    assert not storages[0] & storages[1]


@pytest.mark.parametrize(
    ('widths', 'got'), [([64, 0], r'\[64, 0\]'), ((-1,), r'\[-1\]')]
)
def test_rejects_invalid_widths(widths: list[int], got: str) -> None:
    message = f'projector must be a list of positive layer widths, got {got}'
    with pytest.raises(ValueError, match=message):
        build_projector(32, widths)
