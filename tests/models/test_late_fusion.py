from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from torchgeo_decur.models import (
    FCNDecoder,
    LateFusionClassifier,
    LateFusionSegmenter,
    MultimodalPyramid,
    build_decoder,
    create_encoder,
    save_encoder,
)
from torchgeo_decur.models.fusion.late_fusion import drop_modalities
from torchgeo_decur.models.segmentation.decoders import Decoder

MODALITIES = {'s1': 2, 's2': 13, 'dem': 1}
DECODERS = get_args(Decoder)


def images(number: int = 2, batch: int = 3, size: int = 64) -> dict[str, Tensor]:
    shapes = list(MODALITIES.items())[:number]
    return {m: torch.rand(batch, c, size, size) for m, c in shapes}


def classifier(number: int = 2, **kwargs: Any) -> LateFusionClassifier:
    modalities = dict(list(MODALITIES.items())[:number])
    return LateFusionClassifier(modalities, 'test_resnet', num_classes=5, **kwargs)


def segmenter(number: int = 2, **kwargs: Any) -> LateFusionSegmenter:
    modalities = dict(list(MODALITIES.items())[:number])
    options = {'model': 'fcn', 'backbone': 'test_resnet', 'num_classes': 4}
    return LateFusionSegmenter(modalities, **{**options, **kwargs})


def state(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


class TestPyramid:
    @pytest.mark.parametrize('model', ['test_resnet', 'test_convnext', 'test_vit'])
    def test_loads_a_file_of_its_encoder(self, model: str, tmp_path: Path) -> None:
        encoder = create_encoder(model, 2).eval()
        _, file = save_encoder(encoder, tmp_path / 's1', model, {})
        pyramid = MultimodalPyramid({'s1': 2}, model, str(file)).eval()
        x = torch.rand(1, 2, 96, 96)
        with torch.no_grad():
            levels = pyramid({'s1': x})['s1']
            expected = encoder.forward_intermediates(x, intermediates_only=True)
        last = zip(levels[-2:], expected[-2:], strict=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in last)

    def test_permutes_channels_last_models(self) -> None:
        pyramid = MultimodalPyramid({'s1': 2}, 'swin_tiny_patch4_window7_224').eval()
        with torch.no_grad():
            levels = pyramid({'s1': torch.rand(1, 2, 224, 224)})['s1']
        assert [x.shape[1] for x in levels] == pyramid.channels['s1']
        assert [224 // x.shape[-1] for x in levels] == pyramid.strides

    @pytest.mark.parametrize(
        ('models', 'stride', 'message'),
        [
            ({'s1': 'test_resnet', 's2': 'test_vit'}, 32, r'same strides, got .*16'),
            ('test_vit', 16, r"output stride 16, got 'test_vit' for s1"),
        ],
    )
    def test_rejects_invalid_options(
        self, models: Any, stride: int, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            MultimodalPyramid({'s1': 2, 's2': 3}, models, output_stride=stride)


class TestFCN:
    def test_equals_the_slow_order(self) -> None:
        decoder = FCNDecoder([4, 6, 8], [8, 16, 32], classes=3).double()
        levels = [torch.rand(2, c, n, n).double() for c, n in ((4, 9), (6, 5), (8, 3))]
        up = nn.Upsample(size=(9, 9), mode='bilinear')
        scores = [
            classify(up(reduce(x)))
            for x, reduce, classify in zip(
                levels, decoder.reduce, decoder.classify, strict=True
            )
        ]
        expected = nn.Upsample(size=(70, 71), mode='bilinear')(sum(scores))
        torch.testing.assert_close(decoder(levels, (70, 71)), expected)
        assert [r.out_channels for r in decoder.reduce] == [128, 256, 512]

    @pytest.mark.parametrize(
        ('decoder', 'message'),
        [
            (
                'fcn',
                r'levels of strides \[8, 16, 32\], got \[16, 16, 16\]; choose a backbone',
            ),
            ('unet', r'levels of strides .*, got \[16, 16, 16\]; choose a backbone'),
            ('deeplabv3+', r"pyramid of output stride 16, got 'test_vit' for s1"),
        ],
    )
    def test_rejects_a_plain_vision_transformer(
        self, decoder: str, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            segmenter(model=decoder, backbone='test_vit')


class TestDecoders:
    @pytest.mark.parametrize('name', DECODERS)
    @pytest.mark.parametrize(
        ('number', 'height', 'width'), [(1, 64, 64), (2, 45, 70), (3, 33, 33)]
    )
    def test_segments_any_size_and_number(
        self, name: str, number: int, height: int, width: int
    ) -> None:
        model = segmenter(number, model=name).eval()
        x = {m: torch.rand(2, MODALITIES[m], height, width) for m in model.channels}
        with torch.no_grad():
            assert model(x).shape == (2, 4, height, width)

    @pytest.mark.parametrize('name', DECODERS)
    def test_every_parameter_gets_a_gradient(self, name: str) -> None:
        model = segmenter(model=name)
        model(images()).square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

    @pytest.mark.parametrize('name', ['fcn', 'unet', 'segformer'])
    def test_accepts_encoders_that_begin_at_stride_four(self, name: str) -> None:
        model = segmenter(model=name, backbone='test_convnext')
        model(images()).sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

    def test_dilates_the_last_stage_for_deeplab(self) -> None:
        model = segmenter(model='deeplabv3+')
        assert model.encoders.strides[-1] == 16

    def test_padding_does_not_move_the_image(self) -> None:
        torch.manual_seed(0)
        model = segmenter(model='unet').eval()
        whole = images(size=96)
        cut = {m: x[..., :90, :90].contiguous() for m, x in whole.items()}
        full = {m: x.clone() for m, x in cut.items()}
        full = {
            m: nn.functional.pad(x, (0, 6, 0, 6), mode='replicate')
            for m, x in full.items()
        }
        with torch.no_grad():
            torch.testing.assert_close(model(cut), model(full)[..., :90, :90])

    @pytest.mark.parametrize(
        ('name', 'strides', 'message'),
        [
            ('unet++', [8, 16, 32], r"model must be a decoder, .* got 'unet\+\+'"),
            ('unet', [8, 16, 32], r'unet needs levels .* or .*, got \[8, 16, 32\]'),
        ],
    )
    def test_rejects_invalid_options(
        self, name: str, strides: list[int], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            build_decoder(name, [4] * len(strides), strides, 3)


class TestAbsence:
    @pytest.mark.parametrize('build', [classifier, segmenter])
    @pytest.mark.parametrize('number', [1, 2, 3])
    def test_features_are_concatenated_in_order(self, build: Any, number: int) -> None:
        model = build(number).eval()
        x = images(number)
        levels = model.encode(dict(reversed(x.items())))
        fused = model.fuse(levels)
        for i, level in enumerate(fused):
            parts = level.split([c[i] for c in model.channels.values()], dim=1)
            assert all(p.equal(levels[m][i]) for m, p in zip(x, parts, strict=True))

    @pytest.mark.parametrize('build', [classifier, segmenter])
    def test_an_absent_modality_is_zeros_and_skips_its_encoder(
        self, build: Any
    ) -> None:
        model = build().eval()
        x = images()
        for m in x:
            rest = {n: v for n, v in x.items() if n != m}
            model.encoders.encoders[m].forward = None
            features = model.encode(rest)
            del model.encoders.encoders[m].forward
            zeros = [torch.zeros_like(level) for level in model.encode(x)[m]]
            expected = model.decode({**features, m: zeros}, (64, 64))
            torch.testing.assert_close(model(rest), expected)

    @pytest.mark.parametrize('build', [classifier, segmenter])
    def test_a_sample_may_lack_a_modality(self, build: Any) -> None:
        model = build().eval()
        x = images()
        mask = torch.tensor([True, False, True])
        broken = {**x, 's1': x['s1'].clone()}
        broken['s1'][1] = torch.nan
        with torch.no_grad():
            found = model(broken, {'s1': mask})
            without = model({'s2': x['s2']})
            torch.testing.assert_close(found[mask], model(x)[mask])
            torch.testing.assert_close(found[~mask], without[~mask])
            none = model(broken, {'s1': torch.zeros(3, dtype=torch.bool)})
            torch.testing.assert_close(none, without)

    def test_absent_images_do_not_reach_batch_norm(self) -> None:
        model, other = classifier(1), classifier(1)
        other.load_state_dict(model.state_dict())
        x = torch.rand(4, 2, 64, 64)
        mask = torch.tensor([True, False, True, False])
        model({'s1': torch.where(mask[:, None, None, None], x, 1e6)}, {'s1': mask})
        other({'s1': x[mask]})
        assert model.state_dict().keys() == other.state_dict().keys()
        for name, value in other.encoders.state_dict().items():
            if 'running_mean' in name:
                found = model.encoders.state_dict()[name]
                torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-4)

    def test_dropout_keeps_at_least_one(self) -> None:
        available = torch.rand(500, 3) < 0.6
        kept = drop_modalities(available, 0.9)
        assert not (kept & ~available).any()
        assert torch.equal(kept.any(1), available.any(1))
        assert kept.sum() < available.sum()
        full = torch.ones(20000, 2, dtype=torch.bool)
        share = drop_modalities(full, 0.3).float().mean(0)
        # Both are dropped with 0.09, and then one comes back: 0.7 + 0.045.
        assert share.tolist() == pytest.approx([0.745, 0.745], abs=0.02)

    def test_dropout_only_acts_in_training(self) -> None:
        model = classifier(modality_dropout=0.9)
        x = images(batch=32)
        zero = {m: (h[0] == 0).all(1) for m, h in model.encode(x).items()}
        assert all(z.any() for z in zero.values())
        assert not (zero['s1'] & zero['s2']).any()
        features = model.eval().encode(x)
        assert not any((h[0] == 0).all(1).any() for h in features.values())

    @pytest.mark.parametrize(
        ('build', 'x', 'available', 'message'),
        [
            (classifier, {}, None, r"at least one of \['s1', 's2'\], got none"),
            (classifier, {'rgb': (2, 3, 8, 8)}, None, r"got \['rgb'\]"),
            (
                classifier,
                {'s1': (2, 2, 64, 64)},
                {'s1': torch.ones(3)},
                r'available_s1 must have shape \(2,\), got \(3,\)',
            ),
            (
                segmenter,
                {'s1': (2, 2, 64, 64), 's2': (2, 13, 32, 32)},
                None,
                r'must share one grid, got images of .*32',
            ),
        ],
    )
    def test_rejects_invalid_options(
        self, build: Any, x: dict[str, Any], available: Any, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            build()({m: torch.rand(s) for m, s in x.items()}, available)

    def test_rejects_dropout_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r'modality_dropout .* got 1'):
            classifier(modality_dropout=1)


class TestFrozen:
    @pytest.mark.parametrize('build', [classifier, segmenter])
    def test_frozen_encoders_do_not_change(self, build: Any) -> None:
        model = build(freeze_backbone=True, modality_dropout=0.5)
        before = state(model.encoders)
        model.train()
        assert model.training and not any(m.training for m in model.encoders.modules())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(images()).square().mean().backward()
            optimizer.step()
        assert all(v.equal(before[k]) for k, v in model.encoders.state_dict().items())
        learnt = [n for n, p in model.named_parameters() if p.grad is not None]
        assert learnt and not any(n.startswith('encoders') for n in learnt)

    def test_encoders_learn_unless_frozen(self) -> None:
        model = classifier()
        model(images()).sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
