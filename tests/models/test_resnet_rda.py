"""Check ResNets with residual deformable attention in all uses of timm's models."""

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from tests.helpers.encoder_states import assert_loaded
from tests.helpers.versions import needs_onnx
from torchgeo_decur.models import (
    LateFusionClassifier,
    LateFusionSegmenter,
    MultimodalEncoder,
    MultimodalPyramid,
    ResNetRDA,
    create_encoder,
    load_weights,
    save_encoder,
)

SMALL = 'resnet18_rda'


def build(**options: Any) -> ResNetRDA:
    torch.manual_seed(0)
    model: ResNetRDA = create_encoder(SMALL, 2, **options)
    return model.eval()


class TestTimm:
    def test_has_the_published_size(self) -> None:
        model = timm.create_model('resnet50_rda', in_chans=13, num_classes=0).eval()
        assert model.num_features == 2048
        attention = {
            n: (m.num_heads, m.groups, m.conv_offset[0].stride[0], m.rpe_table.shape[1])
            for n, m in model.named_children()
            if n.startswith('da_')
        }
        assert attention == {'da_l3': (8, 4, 2, 27), 'da_l4': (16, 8, 1, 13)}
        plain = timm.create_model('resnet50', in_chans=13, num_classes=0).state_dict()
        own = {k for k in model.state_dict() if not k.startswith('da_')}
        assert own == set(plain)
        with torch.no_grad():
            assert model(torch.rand(1, 13, 64, 64)).shape == (1, 2048)

    def test_replaces_the_input_without_residual(self) -> None:
        """Compare both kinds with attention that returns zeros."""
        for name, kept in ((SMALL, True), ('resnet18_da', False)):
            options = {'in_chans': 2, 'num_classes': 0, 'zero_init_attention': True}
            model = timm.create_model(name, **options).eval()
            with torch.no_grad():
                h, points = model.forward_with_positions(torch.rand(2, 2, 64, 64))
            assert bool(h.any()) is kept
            assert points['da_l4'].shape == (2, 8, 2, 2, 2)
        names = set(timm.create_model('resnet50_da', num_classes=0).state_dict())
        assert names == set(
            timm.create_model('resnet50_rda', num_classes=0).state_dict()
        )

    @pytest.mark.parametrize('channels', [1, 2, 13])
    @pytest.mark.parametrize('size', [(32, 32), (33, 47), (17, 120)])
    def test_encodes_any_size(self, channels: int, size: tuple[int, int]) -> None:
        model = timm.create_model(SMALL, in_chans=channels, num_classes=0).eval()
        with torch.no_grad():
            h = model(torch.rand(2, channels, *size))
        assert h.shape == (2, 512) and h.isfinite().all()

    def test_replaces_the_classifier(self) -> None:
        model = timm.create_model(SMALL, num_classes=7).eval()
        x = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            assert model(x).shape == (1, 7)
            features = model.forward_head(model.forward_features(x), pre_logits=True)
        assert features.shape == (1, 512)

    def test_every_parameter_gets_a_gradient(self) -> None:
        model = build().train()
        model(torch.rand(2, 2, 96, 96)).square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

    def test_attention_follows_its_stage(self) -> None:
        model, x = build(), torch.rand(1, 2, 96, 96)
        plain = timm.create_model('resnet18', in_chans=2, num_classes=0).eval()
        plain.load_state_dict(model.state_dict(), strict=False)
        with torch.no_grad():
            expected = plain.forward_intermediates(x, intermediates_only=True)
            third = model.da_l3(expected[3])
            fourth = model.da_l4(plain.layer4(third))
            last, maps = model.forward_intermediates(x)
        for found, wanted in zip(maps, [*expected[:3], third, fourth], strict=True):
            torch.testing.assert_close(found, wanted)
        assert last.equal(maps[4])
        assert not torch.allclose(maps[3], expected[3], atol=1e-3)

    def test_zero_initialisation_equals_the_plain_resnet(self) -> None:
        model = build(zero_init_attention=True)
        plain = timm.create_model('resnet18', in_chans=2, num_classes=0).eval()
        plain.load_state_dict(model.state_dict(), strict=False)
        x = torch.rand(1, 2, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(model(x), plain(x))

    def test_returns_positions(self) -> None:
        model, x = build(), torch.rand(2, 2, 120, 96)
        with torch.no_grad():
            maps, positions = model.forward_with_positions(x)
            torch.testing.assert_close(maps, model.forward_features(x))
        shapes = {name: tuple(p.shape) for name, p in positions.items()}
        assert shapes == {'da_l3': (2, 4, 4, 3, 2), 'da_l4': (2, 8, 4, 3, 2)}
        assert all(p.abs().max() <= 1 for p in positions.values())

    def test_checkpointing_gives_the_same_gradient(self) -> None:
        gradients = []
        for enable in (False, True):
            model = build()
            model.set_grad_checkpointing(enable)
            model(torch.ones(1, 2, 64, 64)).sum().backward()
            gradients.append(model.da_l3.rpe_table.grad)
        torch.testing.assert_close(*gradients)

    @pytest.mark.parametrize(('indices', 'count'), [([1, 2], 3), (2, 5), ([3], 4)])
    def test_returns_some_maps(self, indices: Any, count: int) -> None:
        model, x = build(), torch.rand(1, 2, 64, 64)
        with torch.no_grad():
            expected = model.forward_intermediates(x, intermediates_only=True)
            taken = model.prune_intermediate_layers(indices)
            last, maps = model.forward_intermediates(x, indices, stop_early=True)
        for i, found in zip(taken, maps, strict=True):
            torch.testing.assert_close(found, expected[i])
        torch.testing.assert_close(last, expected[count - 1])
        kept = {n[:5] for n, _ in model.named_parameters() if n.startswith('da_l')}
        assert kept == {f'da_l{i}' for i in (3, 4) if i < count}

    def test_rejects_another_format(self) -> None:
        with pytest.raises(ValueError, match=r"output_fmt must be 'NCHW', got 'NLC'"):
            build().forward_intermediates(torch.rand(1, 2, 64, 64), output_fmt='NLC')

    def test_imagenet_weights_equal_those_of_the_plain_resnet(
        self, tmp_path: Path
    ) -> None:
        for name in ('resnet18', 'resnet50'):
            plain = timm.get_pretrained_cfg(name)
            own = timm.get_pretrained_cfg(f'{name}_rda')
            assert own.hf_hub_id == plain.hf_hub_id and own.tag == plain.tag
        source = timm.create_model('resnet18')
        torch.save(source.state_dict(), tmp_path / 'resnet18.pth')
        model = timm.create_model(
            SMALL,
            pretrained=True,
            in_chans=2,
            num_classes=0,
            zero_init_attention=True,
            pretrained_cfg_overlay={'file': str(tmp_path / 'resnet18.pth')},
        )
        assert model.layer4[1].conv2.weight.equal(source.layer4[1].conv2.weight)
        assert model.da_l4.proj_out.weight.count_nonzero() == 0
        assert model.conv1.weight.shape[1] == 2


class TestPyramid:
    @pytest.mark.parametrize('stride', [32, 16, 8])
    def test_gives_levels(self, stride: int) -> None:
        options = {} if stride == 32 else {'output_stride': stride}
        model = build(**options)
        pyramid = timm.create_model(SMALL, in_chans=2, features_only=True, **options)
        pyramid.load_state_dict(model.state_dict())
        x = torch.rand(1, 2, 96, 70)
        with torch.no_grad():
            levels = pyramid.eval()(x)
            expected = model.forward_intermediates(x, intermediates_only=True)
        assert all(a.equal(b) for a, b in zip(levels, expected, strict=True))
        info = pyramid.feature_info
        assert info.channels() == [64, 64, 128, 256, 512]
        assert info.reduction() == [min(2**i, stride) for i in range(1, 6)]
        for level, reduction in zip(levels, info.reduction(), strict=True):
            assert level.shape[-2:] == (-(-96 // reduction), -(-70 // reduction))

    def test_loads_a_file_of_its_encoder(self, tmp_path: Path) -> None:
        encoder = build()
        _, file = save_encoder(encoder, tmp_path / 's1', SMALL, {})
        pyramid = MultimodalPyramid({'s1': 2}, SMALL, str(file))
        assert_loaded(pyramid.encoders['s1'], encoder.state_dict())

    @pytest.mark.parametrize(
        'build_model', [smp.Unet, smp.FPN, smp.DeepLabV3Plus, smp.UPerNet]
    )
    def test_serves_segmentation_models_pytorch(
        self, build_model: Any, tmp_path: Path
    ) -> None:
        model = build_model(
            'tu-resnet18_rda', encoder_weights=None, in_channels=4, classes=3
        )
        encoder = create_encoder(SMALL, 4)
        _, file = save_encoder(encoder, tmp_path / 's2', SMALL, {})
        load_weights(model.encoder.model, file)
        assert_loaded(model.encoder.model, encoder.state_dict())
        out = model(torch.rand(2, 4, 64, 64))
        assert out.shape == (2, 3, 64, 64)
        out.sum().backward()
        assert model.encoder.model.da_l4.rpe_table.grad is not None


class TestTransfer:
    def test_replaces_the_classifier(self) -> None:
        model = LateFusionClassifier({'s1': 2, 's2': 13}, SMALL, num_classes=5)
        images = {'s1': torch.rand(2, 2, 64, 64), 's2': torch.rand(2, 13, 64, 64)}
        model(images).sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

    @pytest.mark.parametrize('decoder', ['fcn', 'unet', 'deeplabv3+'])
    def test_serves_a_segmenter(self, decoder: str) -> None:
        model = LateFusionSegmenter({'rgb': 3, 'dem': 1}, decoder, SMALL).eval()
        images = {'rgb': torch.rand(2, 3, 50, 61), 'dem': torch.rand(2, 1, 50, 61)}
        with torch.no_grad():
            assert model(images).shape == (2, 11, 50, 61)


class TestPlainWeights:
    def test_loads_without_attention(self, tmp_path: Path) -> None:
        """Load a torchvision state dictionary, which lacks the attention."""
        source = timm.create_model('resnet18', in_chans=2)
        torch.save(source.state_dict(), tmp_path / 'resnet18.pth')
        encoder = build()
        before = encoder.da_l3.proj_q.weight.clone()
        with pytest.raises(ValueError, match=r'a plain ResNet .* strict=False'):
            load_weights(encoder, tmp_path / 'resnet18.pth')
        with pytest.warns(UserWarning, match=r"28 are missing \['da_l3"):
            report = load_weights(encoder, tmp_path / 'resnet18.pth', strict=False)['']
        assert {k[:5] for k in report.missing} == {'da_l3', 'da_l4'}
        assert encoder.layer3[0].conv1.weight.equal(source.layer3[0].conv1.weight)
        assert encoder.da_l3.proj_q.weight.equal(before)

    def test_encoders_start_from_imagenet(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = timm.create_model('resnet18')
        torch.save(source.state_dict(), tmp_path / 'resnet18.pth')
        create = timm.create_model

        def local(*args: Any, **kwargs: Any) -> nn.Module:
            file = {'file': str(tmp_path / 'resnet18.pth')}
            return create(*args, pretrained_cfg_overlay=file, **kwargs)

        monkeypatch.setattr(timm, 'create_model', local)
        encoders = MultimodalEncoder({'rgb': 3, 'dem': 1}, SMALL, True).encoders

        def kernel(encoder: nn.Module) -> Tensor:
            return encoder.conv1.weight

        assert kernel(encoders['rgb']).equal(kernel(source))
        assert kernel(encoders['dem']).equal(kernel(source).sum(1, keepdim=True))
        first, second = (e.da_l3.rpe_table for e in encoders.values())
        assert not first.equal(second)


class TestGraphs:
    # What ONNX is written from.
    @needs_onnx
    def test_exports(self) -> None:
        model = build()
        batch = torch.export.Dim('batch', min=1, max=64)
        program = torch.export.export(
            model, (torch.rand(2, 2, 64, 64),), dynamic_shapes=({0: batch},)
        )
        x = torch.rand(3, 2, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), model(x))

    def test_runs_in_autocast(self) -> None:
        model, x = build(), torch.rand(1, 2, 64, 64)
        with torch.no_grad():
            exact = model(x)
            with torch.autocast('cpu', torch.bfloat16):
                half = model(x)
        torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.1)
