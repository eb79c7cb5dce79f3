"""Check MiT with timm's interface and smp's parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants, file_download
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder
from segmentation_models_pytorch.encoders.mix_transformer import (
    MixVisionTransformer,
    mix_transformer_encoders,
)
from torch import Tensor

from tests.helpers.encoder_states import State, assert_loaded, random_state
from torchgeo_decur.models import (
    LateFusionSegmenter,
    MiTB2_Weights,
    MiTB5_Weights,
    MultimodalEncoder,
    MultimodalPyramid,
    create_encoder,
    load_weights,
)

NAMES = [f'mit_b{i}' for i in range(6)]
KERNEL = 'patch_embed1.proj.weight'

Publish = Callable[[Any, Any], Path]


def with_head(state: State) -> State:
    """Build a published state dictionary, with a classifier by smp's name."""
    return {**state, 'head.weight': torch.rand(7, 256), 'head.bias': torch.rand(7)}


class TestContract:
    @pytest.mark.parametrize(
        ('channels', 'height', 'width'),
        [(1, 29, 29), (2, 33, 61), (3, 64, 64), (13, 45, 70)],
    )
    def test_encodes_any_size_and_bands(
        self, channels: int, height: int, width: int
    ) -> None:
        encoder = create_encoder('mit_b0', channels).eval()
        x = torch.rand(2, channels, height, width)
        with torch.no_grad():
            maps = encoder.forward_features(x)
            assert maps.shape == (2, 256, -(-height // 32), -(-width // 32))
            torch.testing.assert_close(encoder(x), maps.mean((2, 3)))
            assert encoder.forward_head(maps, pre_logits=True).equal(encoder(x))
        assert encoder.num_features == 256

    def test_gives_levels(self) -> None:
        encoder = timm.create_model('mit_b0', in_chans=2, features_only=True)
        levels = encoder(torch.rand(1, 2, 61, 75))
        assert encoder.feature_info.reduction() == [4, 8, 16, 32]
        assert [x.shape[1] for x in levels] == encoder.feature_info.channels()
        assert [x.shape[2:] for x in levels] == [(16, 19), (8, 10), (4, 5), (2, 3)]
        two = timm.create_model('mit_b0', features_only=True, out_indices=(0, 2))
        assert [x.shape[1] for x in two(torch.rand(1, 3, 64, 64))] == [32, 160]

    def test_replaces_the_classifier(self) -> None:
        model = timm.create_model('mit_b0', num_classes=5).eval()
        x = torch.rand(2, 3, 32, 32)
        assert model(x).shape == (2, 5) and model.num_classes == 5
        assert model.get_classifier().out_features == 5
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        model.reset_classifier(0)
        assert model(x).equal(features)
        model.reset_classifier(3, global_pool='max')
        assert model(x).shape == (2, 3)

    def test_every_parameter_gets_a_gradient(self) -> None:
        encoder = create_encoder('mit_b0', 2)
        encoder(torch.rand(2, 2, 64, 64)).sum().backward()
        assert [n for n, p in encoder.named_parameters() if p.grad is None] == []

    def test_rejects_small_images(self) -> None:
        message = r'at least 29 x 29 pixels for a mix transformer, got 64 x 28'
        for options in ({}, {'features_only': True}):
            encoder = create_encoder('mit_b0', 3, **options)
            with pytest.raises(ValueError, match=message):
                encoder(torch.rand(1, 3, 64, 28))


class TestParameters:
    @pytest.mark.parametrize('name', NAMES)
    def test_parameters_have_the_names_of_smp(self, name: str) -> None:
        """Build each model as narrow as possible, with its names and depths."""
        narrow = {'embed_dims': [8, 16, 40, 64]}
        model = timm.create_model(name, **narrow)
        options = {**mix_transformer_encoders[name]['params'], **narrow}
        del options['out_channels']
        theirs = MixVisionTransformer(**options).state_dict()
        assert set(model.state_dict()) == set(theirs)
        assert timm.is_model_pretrained(name)

    def test_computes_the_same_as_smp(self) -> None:
        theirs = get_encoder('mit_b0', weights=None).eval()
        ours = create_encoder('mit_b0', 3).eval()
        ours.load_state_dict(theirs.state_dict())
        pyramid = create_encoder('mit_b0', 3, features_only=True).eval()
        pyramid.load_state_dict(theirs.state_dict())
        x = torch.rand(2, 3, 64, 96)
        with torch.no_grad():
            expected = theirs(x)[2:]
            torch.testing.assert_close(pyramid(x), expected)
            torch.testing.assert_close(ours.forward_features(x), expected[-1])


class TestImageNet:
    """Write files of smp to a cache of the Hub."""

    @pytest.fixture
    def state(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
        state = random_state('mit_b0', 3)
        settings = mix_transformer_encoders['mit_b0']['pretrained_settings']['imagenet']
        folder = tmp_path / f'models--{settings["repo_id"].replace("/", "--")}'
        file = folder / 'snapshots' / settings['revision'] / 'model.safetensors'
        file.parent.mkdir(parents=True)
        save_file(with_head(state), file)
        # The client has its own copy of the name before version 0.25.
        for module in (constants, file_download):
            monkeypatch.setattr(module, 'HF_HUB_CACHE', str(tmp_path), raising=False)
        return state

    def test_starts_an_encoder(self, state: State) -> None:
        encoder = MultimodalEncoder({'rgb': 3, 's2': 13}, 'mit_b0', True)
        assert_loaded(encoder.encoders['rgb'], state)
        rest = {k: v for k, v in state.items() if k != KERNEL}
        adapted = encoder.encoders['s2'].state_dict()
        assert adapted[KERNEL].shape == (32, 13, 7, 7)
        assert all(adapted[k].equal(v) for k, v in rest.items())
        # Red, green and blue come again and again, for an image as bright as before.
        torch.testing.assert_close(adapted[KERNEL][:, :3], state[KERNEL] * 3 / 13)

    def test_starts_a_pyramid(self, state: State) -> None:
        pyramid = MultimodalPyramid({'rgb': 3}, 'mit_b0', True)
        assert_loaded(pyramid.encoders['rgb'], state)

    def test_starts_with_a_new_classifier(self, state: State) -> None:
        model = timm.create_model('mit_b0', pretrained=True, num_classes=4)
        assert model.norm4.weight.equal(state['norm4.weight'])
        assert model.head.weight.shape == (4, 256)


class TestPublished:
    """Use a small backbone instead of the published one."""

    @pytest.mark.parametrize(
        'entry', [MiTB2_Weights.SUNRGBD_HHA_DECUR, MiTB5_Weights.SUNRGBD_RGB_DECUR]
    )
    def test_loads_a_file_of_one_modality(self, publish: Publish, entry: Any) -> None:
        state = random_state('mit_b0', 3)
        publish(entry, with_head(state))
        encoder = create_encoder('mit_b0', 3)
        report = load_weights(encoder, str(entry))['']
        assert report.missing == ()
        assert report.unexpected == ('head.bias', 'head.weight')
        # Both were read as blue, green, red: coded depth as angle, height, disparity.
        assert_loaded(encoder, {**state, KERNEL: state[KERNEL].flip(1)})

    def test_loads_a_joint_file(self, publish: Publish) -> None:
        entry = MiTB5_Weights.SUNRGBD_RGB_HHA_DECUR
        rgb, hha = (random_state('mit_b0', 3, seed=i) for i in (1, 2))
        parts = {'module.backbone_1': with_head(rgb), 'module.backbone_2': hha}
        state = {f'{p}.{k}': v for p, s in parts.items() for k, v in s.items()}
        publish(entry, {'model': {**state, 'module.projector1.0.weight': Tensor(4)}})
        encoder = MultimodalEncoder({'hha': 3, 'rgb': 3}, 'mit_b0', entry)
        for m, state in (('rgb', rgb), ('hha', hha)):
            flipped = {**state, KERNEL: state[KERNEL].flip(1)}
            assert_loaded(encoder.encoders[m], flipped)


@pytest.mark.parametrize('decoder', ['fcn', 'unet', 'segformer'])
def test_decoders_accept_the_pyramid(decoder: str) -> None:
    model = LateFusionSegmenter({'s1': 2, 's2': 13}, decoder, 'mit_b0', num_classes=4)
    x = {'s1': torch.rand(2, 2, 70, 45), 's2': torch.rand(2, 13, 70, 45)}
    logits = model(x)
    assert logits.shape == (2, 4, 70, 45)
    logits.sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
