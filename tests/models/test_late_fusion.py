import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.encoder_states import random_state
from tests.helpers.published_files import Publish
from torchgeo_decur.models import (
    CMXSegmenter,
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
from torchgeo_decur.models.segmentation.grids import (
    align_pyramids,
    padded,
    resample_cells,
    resample_tokens,
)
from torchgeo_decur.tasks.optimizers import build_transfer_optimizer
from torchgeo_decur.weights import ViTSmall16_Weights

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
    @pytest.mark.parametrize('model', ['test_resnet', 'test_convnext'])
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

    def test_knows_channels_last_by_the_model(self) -> None:
        pyramid = MultimodalPyramid({'s1': 2}, 'swin_tiny_patch4_window7_224')
        square = torch.zeros(1, 96, 96, 96)
        square[:, 1] = 1  # a row of channels last
        pyramid.encoders['s1'].forward = lambda x: [square] * 4
        assert pyramid({'s1': square})['s1'][0][0, :, 1].all()

    def test_leaves_out_a_level_that_some_models_lack(self) -> None:
        models = {'s1': 'test_resnet', 's2': 'test_convnext', 'dem': 'test_vit'}
        pyramid = MultimodalPyramid(MODALITIES, models)
        assert pyramid.strides == [4, 8, 16, 32]
        levels = pyramid(images(3, size=96))
        assert {m: [96 // x.shape[-1] for x in p] for m, p in levels.items()} == (
            dict.fromkeys(MODALITIES, pyramid.strides)
        )
        assert {m: [x.shape[1] for x in p] for m, p in levels.items()} == (
            pyramid.channels
        )

    @pytest.mark.parametrize(
        ('models', 'stride', 'message'),
        [
            ({'s1': 'test_resnet', 's2': 'levit_128s'}, 32, r'same strides, got .*64'),
            ('mit_b0', 16, r"output stride 16, got 'mit_b0' for s1"),
        ],
    )
    def test_rejects_invalid_options(
        self, models: Any, stride: int, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            MultimodalPyramid({'s1': 2, 's2': 3}, models, output_stride=stride)


@pytest.mark.parametrize('function', ['cells', 'tokens'])
def test_cells_of_almost_one_size_are_moved(function: str) -> None:
    step, x = 0.9375, torch.arange(5.0).expand(1, 2, 5, 5)
    if function == 'cells':
        found = resample_cells(x, (5, 5), (step, step))
    else:
        found = resample_tokens(x, (5, 5), (5 * step, 5 * step))
    centres = (torch.arange(5) + 0.5) * step - 0.5
    expected = centres.clamp(min=0).expand(1, 2, 5, 5)
    torch.testing.assert_close(found, expected)


class TestTokens:
    """Pyramids of plain vision transformers."""

    def test_levels_are_normalised_tokens_of_four_depths(self, tmp_path: Path) -> None:
        encoder = create_encoder('test_vit', 2).eval()
        _, file = save_encoder(encoder, tmp_path / 's1', 'test_vit', {})
        pyramid = MultimodalPyramid({'s1': 2}, 'test_vit', str(file)).eval()
        x = torch.rand(1, 2, 96, 64)
        with torch.no_grad():
            levels = pyramid({'s1': x})['s1']
            maps = encoder.forward_intermediates(
                x, norm=True, indices=[0, 2, 3, 5], intermediates_only=True
            )
        torch.testing.assert_close(levels[2], maps[2])
        for i, factor in ((0, 4), (1, 2), (3, 0.5)):
            expected = nn.functional.interpolate(
                maps[i], scale_factor=factor, mode='bilinear', antialias=True
            )
            torch.testing.assert_close(levels[i], expected)

    @pytest.mark.parametrize('model', ['test_vit', 'eva02_tiny_patch14_224'])
    @pytest.mark.parametrize('size', [(64, 64), (45, 70), (17, 33)])
    def test_accepts_any_size(self, model: str, size: tuple[int, int]) -> None:
        (pyramid,) = MultimodalPyramid({'s1': 2}, model).encoders.values()
        x = torch.rand(1, 2, *size)
        with torch.no_grad():
            levels = pyramid(x)
            shapes = [tuple(-(-n // s) for n in size) for s in pyramid.strides]
            assert [level.shape[-2:] for level in levels] == shapes
            p = pyramid.patch
            whole = nn.functional.pad(
                x, (0, -size[1] % p, 0, -size[0] % p), mode='replicate'
            )
            # The finest level starts at the same corner.
            expected = pyramid(whole)[0][..., :2, :2]
        assert (levels[0][..., :2, :2] - expected).abs().max() < 0.2 * expected.std()

    @pytest.mark.parametrize('name', DECODERS)
    def test_every_decoder_accepts_them(self, name: str) -> None:
        model = segmenter(model=name, backbone='test_vit')
        x = {'s1': torch.rand(2, 2, 45, 70), 's2': torch.rand(2, 13, 45, 70)}
        logits = model(x)
        assert logits.shape == (2, 4, 45, 70)
        logits.square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

    def test_loads_published_weights(self, publish: Publish) -> None:
        state = random_state('vit_tiny_patch16_224', 13)
        entry = ViTSmall16_Weights.SENTINEL2_ALL_DECUR
        publish(entry, state)
        model = segmenter(
            2,
            backbone={'s1': 'test_resnet', 's2': 'vit_tiny_patch16_224'},
            weights={'s1': None, 's2': entry},
        )
        vit = model.encoders.encoders['s2'].model
        assert vit.blocks[11].mlp.fc1.weight.equal(state['blocks.11.mlp.fc1.weight'])
        assert vit.patch_embed.proj.weight.equal(state['patch_embed.proj.weight'])
        groups = build_transfer_optimizer(model, layer_decay=0.5)[0].param_groups
        assert len({g['lr'] for g in groups}) > 12

    def test_compiles_without_a_graph_break(self) -> None:
        model = MultimodalPyramid({'s1': 2}, 'test_vit').eval()
        x = {'s1': torch.rand(1, 2, 45, 70)}
        torch.compiler.reset()
        compiled = torch.compile(model, backend='eager', fullgraph=True)
        with torch.no_grad():
            for a, b in zip(compiled(x)['s1'], model(x)['s1'], strict=True):
                torch.testing.assert_close(a, b)
        torch.compiler.reset()

    def test_rejects_an_image_of_another_size(self) -> None:
        pyramid = MultimodalPyramid({'s1': 2}, 'beit_base_patch16_224')
        with pytest.raises(
            ValueError,
            match=r'size \(224, 224\) of the model, got \(64, 64\); resample',
        ):
            pyramid({'s1': torch.rand(1, 2, 64, 64)})


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

    @pytest.mark.parametrize('decoder', ['fcn', 'unet'])
    def test_rejects_a_model_without_coarse_levels(self, decoder: str) -> None:
        with pytest.raises(
            ValueError,
            match=r'levels with strides .*, got \[16, 16\]; choose a backbone',
        ):
            build_decoder(decoder, [4, 4], [16, 16], 3)


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
            (
                'unet++',
                [8, 16, 32],
                r"model must be one of the decoders .* got 'unet\+\+'",
            ),
            ('unet', [8, 16, 32], r'unet requires levels .* or .*, got \[8, 16, 32\]'),
        ],
    )
    def test_rejects_invalid_options(
        self, name: str, strides: list[int], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            build_decoder(name, [4] * len(strides), strides, 3)


class TestPixelSizes:
    """Images of one ground, with pixels of several sizes."""

    SIZES: ClassVar = {'s1': (9, 13), 's2': (67, 99)}

    def images(self, first: str = 's1', batch: int = 2) -> dict[str, Tensor]:
        order = sorted(self.SIZES, key=lambda m: m != first)
        return {m: torch.rand(batch, MODALITIES[m], *self.SIZES[m]) for m in order}

    @pytest.mark.parametrize('name', DECODERS)
    @pytest.mark.parametrize('first', ['s1', 's2'])
    def test_segments_on_the_grid_of_a_modality_or_a_mask(
        self, name: str, first: str
    ) -> None:
        model = segmenter(model=name).eval()
        x = self.images(first)
        with torch.no_grad():
            for size in (*self.SIZES.values(), (40, 51)):
                assert model(x, size=size).shape == (2, 4, *size)

    @pytest.mark.parametrize('name', ['fcn', 'unet'])
    def test_an_absent_modality_is_zeros(self, name: str) -> None:
        model = segmenter(model=name).eval()
        x = self.images()
        for m, size in itertools.product(x, self.SIZES.values()):
            rest = {n: v for n, v in x.items() if n != m}
            with torch.no_grad():
                levels = model.encode(x, size=size)
                zeros = [torch.zeros_like(level) for level in levels[m]]
                expected = model.decode({**levels, m: zeros}, size)
                torch.testing.assert_close(model(rest, size=size), expected)
                gone = {m: torch.zeros(2, dtype=torch.bool)}
                torch.testing.assert_close(model(x, gone, size), expected)

    def test_one_grid_changes_nothing(self) -> None:
        model = segmenter(model='unet').eval()
        x = images(size=64)
        with torch.no_grad():
            found, expected = model.encode(x, size=(64, 64)), model.encoders(x)
        for m, levels in expected.items():
            assert all(a.equal(b) for a, b in zip(found[m], levels, strict=True))

    @pytest.mark.parametrize('divisor', [1, 32])
    @pytest.mark.parametrize('grid', ['fine', 'coarse', 'mask'])
    def test_levels_show_the_same_ground(self, divisor: int, grid: str) -> None:
        sizes = {'fine': (96, 160), 'coarse': (24, 40), 'mask': (60, 100)}
        strides = [2, 4, 8]

        def ramp(size: Sequence[int], stride: int) -> Tensor:
            """The place of each cell's centre, as a share of the ground."""
            cells = [-(-n // stride) for n in padded(size, divisor)]
            places = [
                (torch.arange(n) + 0.5) * (p / n) / s
                for n, p, s in zip(cells, padded(size, divisor), size, strict=True)
            ]
            return torch.stack(torch.meshgrid(*places, indexing='ij'))[None]

        pyramids = {m: [ramp(sizes[m], s) for s in strides] for m in ('fine', 'coarse')}
        aligned = align_pyramids(pyramids, sizes, sizes[grid], strides, divisor)
        for i, stride in enumerate(strides):
            expected = ramp(sizes[grid], stride)
            for m, levels in aligned.items():
                # At the border, a filter has less than its width of two cells.
                cell = stride / min(*sizes[m], *sizes[grid])
                inside = (expected > cell) & (expected < 1 - cell)
                assert stride > 2 or inside.float().mean() > 0.5
                assert levels[i].shape == expected.shape
                shift = (levels[i] - expected)[inside].abs()
                assert (shift < 0.1 * cell).all()

    def test_models_may_round_odd_sizes_differently(self) -> None:
        backbones = {'s1': 'test_convnext', 's2': 'test_convnext2'}
        model = segmenter(backbone=backbones)
        model.encoders.encoders['s2'].forward = lambda x: [
            nn.functional.adaptive_avg_pool2d(x[:, :1], -(-x.shape[-1] // s)).expand(
                -1, c, -1, -1
            )
            for s, c in zip(model.encoders.strides, model.channels['s2'], strict=True)
        ]
        assert model(images(size=37)).shape == (3, 4, 37, 37)

    def test_cmx_needs_one_grid(self) -> None:
        model = CMXSegmenter({'s1': 2, 's2': 13}, 'test_resnet')
        with pytest.raises(
            ValueError, match=r"height and width, .*or set model: 'segformer'"
        ):
            model(self.images(), size=(9, 13))
        assert model.grid_size(images(), (3, 3)) == (64, 64)

    def test_compiles_without_a_graph_break(self) -> None:
        model = segmenter(backbone='test_resnet').eval()
        x = self.images(batch=1)
        torch.compiler.reset()
        compiled = torch.compile(model, backend='eager', fullgraph=True)
        with torch.no_grad():
            torch.testing.assert_close(
                compiled(x, size=(9, 13)), model(x, size=(9, 13))
            )
        torch.compiler.reset()


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
                r'must have the same height and width, got .*32.* or choose a grid',
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
