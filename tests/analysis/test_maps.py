import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from torchgeo_decur.analysis.activation_maps import exposed, last_map
from torchgeo_decur.models.encoder import create_encoder

MODELS = {
    'test_resnet': (2, 3),
    'test_vit': (4, 6),
    'test_convnext': (2, 3),
    'test_efficientnet': (2, 3),
    'resnet18_rda': (2, 3),
    'mit_b0': (2, 3),
    'alexnet_small': (3, 5),
    'swin_tiny_patch4_window7_224': (2, 2),
}


def build(model: str) -> tuple[nn.Module, Tensor]:
    swin = model.startswith('swin')
    encoder = create_encoder(model, 2, **({'img_size': 64} if swin else {})).eval()
    return encoder, torch.rand(2, 2, 64, 64 if swin else 96)


@pytest.mark.parametrize('model', MODELS)
def test_every_family_has_a_map(model: str) -> None:
    encoder, x = build(model)
    with torch.no_grad():
        maps = last_map(encoder, x)
    assert maps.shape == (2, encoder.num_features, *MODELS[model])


@pytest.mark.parametrize('model', MODELS)
def test_the_map_is_exposed_and_nothing_changes(model: str) -> None:
    encoder, x = build(model)
    expected = encoder(x)
    seen: list[Tensor] = []
    with exposed(encoder, (x.shape[2], x.shape[3])) as layer:
        layer.register_forward_hook(lambda _, __, maps: seen.append(maps))
        found = encoder(x)
    assert_close(found, expected)
    assert seen[0].shape[2:] == MODELS[model]
    # The features rest on every place of it.
    (gradient,) = torch.autograd.grad(found.square().sum(), seen[0])
    assert (gradient.abs().sum(1) > 0).float().mean() > 0.9
    encoder(x)
    assert len(seen) == 1


def test_a_map_of_a_transformer_has_its_tokens_in_place() -> None:
    encoder, x = build('test_vit')
    tokens = encoder.forward_features(x)  # type: ignore[operator]
    maps = last_map(encoder, x)
    assert_close(maps[0, :, 1, 2], tokens[0, 1 + 1 * 6 + 2])


def test_rejects_invalid_arguments() -> None:
    with (
        pytest.raises(ValueError, match=r'feature_info .*, got Linear'),
        exposed(nn.Linear(2, 2), (4, 4)),
    ):
        pass

    class Flat(nn.Module):
        def forward_features(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    with pytest.raises(ValueError, match=r'map or tokens, got \(2, 12\) from Flat'):
        last_map(Flat(), torch.rand(2, 3, 2, 2))
