"""Compare CMX with plain loops, and check absent modalities."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.encoder_states import assert_loaded, random_state
from torchgeo_decur.models import (
    CMXSegmenter,
    FeatureFusion,
    FeatureRectification,
    MiTB2_Weights,
    StagedPyramid,
    save_encoder,
)
from torchgeo_decur.models.fusion.cmx import attend, global_context

MODALITIES = {'s1': 2, 's2': 13}
KERNEL = 'patch_embed1.proj.weight'

Publish = Callable[[Any, Any], Path]


def segmenter(**kwargs: Any) -> CMXSegmenter:
    options = {'modalities': MODALITIES, 'backbone': 'test_resnet', 'num_classes': 4}
    return CMXSegmenter(**{**options, **kwargs})


def images(batch: int = 3, height: int = 64, width: int = 64) -> dict[str, Tensor]:
    return {m: torch.rand(batch, c, height, width) for m, c in MODALITIES.items()}


def calls(module: nn.Module) -> list[str]:
    """Record the names of the inner modules as they run."""
    found: list[str] = []
    for name, inside in module.named_modules():
        inside.register_forward_hook(lambda *_, name=name: found.append(name))
    return found


class TestRectification:
    def test_equals_plain_loops(self) -> None:
        torch.manual_seed(0)
        batch, c, height, width = 2, 3, 4, 5
        module = FeatureRectification(c).double()
        x = torch.randn(2, batch, c, height, width, dtype=torch.float64)
        found = module(x[0], x[1])
        w0, b0 = module.channel[0].weight, module.channel[0].bias
        w2, b2 = module.channel[2].weight, module.channel[2].bias
        v0, a0 = module.spatial[0].weight[..., 0, 0], module.spatial[0].bias
        v2, a2 = module.spatial[2].weight[..., 0, 0], module.spatial[2].bias
        for b in range(batch):
            values = [x[m, b, k].flatten() for m in range(2) for k in range(c)]
            pooled = torch.stack([v.mean() for v in values] + [v.max() for v in values])
            channel = torch.sigmoid(w2 @ torch.clamp(w0 @ pooled + b0, min=0) + b2)
            for i in range(height):
                for j in range(width):
                    both = torch.cat([x[0, b, :, i, j], x[1, b, :, i, j]])
                    hidden = torch.clamp(v0 @ both + a0, min=0)
                    place = torch.sigmoid(v2 @ hidden + a2)
                    for k in range(c):
                        one, two = x[0, b, k, i, j], x[1, b, k, i, j]
                        first = one + 0.5 * channel[c + k] * two + 0.5 * place[1] * two
                        second = two + 0.5 * channel[k] * one + 0.5 * place[0] * one
                        torch.testing.assert_close(found[0][b, k, i, j], first)
                        torch.testing.assert_close(found[1][b, k, i, j], second)

    def test_samples_are_independent(self) -> None:
        module = FeatureRectification(4)
        x, y = torch.randn(2, 3, 4, 5, 5)
        whole = module(x, y)
        for b in range(3):
            alone = module(x[b : b + 1], y[b : b + 1])
            torch.testing.assert_close([t[b] for t in whole], [t[0] for t in alone])


class TestFusion:
    @pytest.mark.parametrize('heads', [1, 2])
    def test_equals_plain_loops(self, heads: int) -> None:
        torch.manual_seed(0)
        batch, c, height, width = 2, 4, 3, 5
        n, d = height * width, c // heads
        module = FeatureFusion(c, heads).double().eval()
        for norm in (module.embed_norm, module.embed[4]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        x = torch.randn(2, batch, c, height, width, dtype=torch.float64)
        tokens = x.reshape(2, batch, c, n).transpose(2, 3)
        y, u, contexts = [], [], []
        for m in range(2):
            split = tokens[m] @ module.split[m].weight.T + module.split[m].bias
            split = torch.where(split > 0, split, 0.0)
            y.append(split[..., :c])
            u.append(split[..., c:])
            projected = u[m] @ module.keys_values[m].weight.T
            context = torch.zeros(batch, heads, d, d, dtype=torch.float64)
            for b in range(batch):
                for h in range(heads):
                    k = projected[b, :, h * d : (h + 1) * d]
                    v = projected[b, :, c + h * d : c + (h + 1) * d]
                    scores = torch.einsum('nk,nv->kv', k, v) / math.sqrt(d)
                    for j in range(d):
                        weights = torch.exp(scores[:, j])
                        context[b, h, :, j] = weights / weights.sum()
            contexts.append(context)
        out = []
        for m in range(2):
            answers = torch.zeros(batch, n, c, dtype=torch.float64)
            for h in range(heads):
                part = slice(h * d, (h + 1) * d)
                answers[..., part] = torch.einsum(
                    'bnk,bkv->bnv', u[m][..., part], contexts[1 - m][:, h]
                )
            merge, norm = module.merge[m], module.norm[m]
            z = torch.cat([y[m], answers], 2) @ merge.weight.T + merge.bias + tokens[m]
            z = (z - z.mean(2, True)) / (
                z.var(2, correction=0, keepdim=True) + 1e-5
            ).sqrt()
            out.append(z * norm.weight + norm.bias)
        both = torch.cat(out, 2).transpose(1, 2).reshape(batch, 2 * c, height, width)

        def normalize(t: Tensor, norm: Any) -> Tensor:
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            return (t - norm.running_mean[:, None, None]) * scale[:, None, None] + (
                norm.bias[:, None, None]
            )

        def pointwise(t: Tensor, conv: Any) -> Tensor:
            found = torch.einsum('oc,bchw->bohw', conv.weight[..., 0, 0], t)
            return found if conv.bias is None else found + conv.bias[:, None, None]

        path = pointwise(both, module.embed[0])
        wide = torch.zeros(batch, c, height + 2, width + 2, dtype=torch.float64)
        wide[..., 1:-1, 1:-1] = path
        kernel = module.embed[1].weight[:, 0]
        path = module.embed[1].bias[:, None, None] + sum(
            kernel[:, i, j, None, None] * wide[..., i : i + height, j : j + width]
            for i in range(3)
            for j in range(3)
        )
        path = normalize(pointwise(path.clamp(min=0), module.embed[3]), module.embed[4])
        expected = normalize(pointwise(both, module.shortcut) + path, module.embed_norm)
        torch.testing.assert_close(module(x[0], x[1]), expected)

    def test_attends_to_the_other_modality(self) -> None:
        keys, values = torch.randn(2, 2, 9, 4)
        context = global_context(keys, values, num_heads=2)
        torch.testing.assert_close(context.sum(2), torch.ones(2, 2, 2))
        assert attend(torch.randn(2, 5, 4), context).shape == (2, 5, 4)

    def test_sums_many_positions_in_bfloat16(self) -> None:
        keys, values = torch.rand(2, 1, 20000, 8).bfloat16()
        with torch.autocast('cpu', torch.bfloat16):
            context = global_context(keys, values, num_heads=1)
        assert context.dtype == torch.float32
        exact = global_context(keys.double(), values.double(), num_heads=1)
        torch.testing.assert_close(context.double(), exact, rtol=1e-2, atol=1e-3)


class TestSegmenter:
    @pytest.mark.parametrize('backbone', ['mit_b0', 'test_resnet', 'test_convnext'])
    @pytest.mark.parametrize(('height', 'width'), [(64, 64), (45, 70), (33, 33)])
    def test_segments_any_size(self, backbone: str, height: int, width: int) -> None:
        model = segmenter(backbone=backbone).eval()
        with torch.no_grad():
            assert model(images(2, height, width)).shape == (2, 4, height, width)

    @pytest.mark.parametrize('channels', [1, 2, 13])
    def test_accepts_any_bands(self, channels: int) -> None:
        model = segmenter(modalities={'a': channels, 'b': 3}, backbone='mit_b0').eval()
        x = {'a': torch.rand(1, channels, 64, 64), 'b': torch.rand(1, 3, 64, 64)}
        with torch.no_grad():
            assert model(x).shape == (1, 4, 64, 64)

    @pytest.mark.parametrize('backbone', ['mit_b0', 'test_resnet'])
    def test_every_parameter_gets_a_gradient(self, backbone: str) -> None:
        model = segmenter(backbone=backbone)
        model(images()).square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

    def test_has_the_heads_of_mix_transformers(self) -> None:
        model = segmenter(backbone='mit_b0')
        assert [f.num_heads for f in model.fusion] == [1, 2, 5, 8]

    def test_rectified_features_feed_the_next_stage(self) -> None:
        """Compare with plain code, stage by stage."""
        model = segmenter().eval()
        x = images()
        a, b = (model.encoders.stage(m, 0, x[m]) for m in MODALITIES)
        levels = []
        for i, (rectification, fusion) in enumerate(
            zip(model.rectification, model.fusion, strict=True)
        ):
            if i:
                a, b = (
                    model.encoders.stage(m, i, t) for m, t in (('s1', a), ('s2', b))
                )
            a, b = rectification(a, b)
            levels.append(fusion(a, b))
        expected = model.decoder(levels, (64, 64))
        torch.testing.assert_close(model(dict(reversed(x.items()))), expected)

    def test_runs_in_bfloat16(self) -> None:
        model = segmenter(backbone='mit_b0').eval()
        x = images()
        with torch.no_grad():
            exact = model(x)
            with torch.autocast('cpu', torch.bfloat16):
                found = model(x, {'s1': torch.tensor([True, False, True])})
        assert found.isfinite().all()
        torch.testing.assert_close(found[::2].float(), exact[::2], rtol=0.1, atol=0.1)

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            (
                {'modalities': {'s1': 2}},
                r"exactly two modalities, got \['s1'\]; use segformer",
            ),
            (
                {'modalities': {'a': 1, 'b': 1, 'c': 1}},
                r"two modalities, got \['a', 'b', ",
            ),
            ({'backbone': 'test_vit'}, r"sequential stages, .* got 'test_vit' for s1"),
            (
                {'backbone': {'s1': 'test_resnet', 's2': 'resnet18'}},
                r'cmx requires backbones with the same number of channels .* got .*s2',
            ),
            ({'modality_dropout': 1.0}, r'modality_dropout must be in \[0, 1\)'),
        ],
    )
    def test_rejects_invalid_options(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            segmenter(**options)

    def test_rejects_channels_last_models(self) -> None:
        with pytest.raises(ValueError, match=r"sequential stages, .* got 'swin_tiny"):
            StagedPyramid({'s1': 2}, 'swin_tiny_patch4_window7_224')


class TestAbsence:
    @pytest.mark.parametrize('missing', MODALITIES)
    def test_skips_the_encoder(self, missing: str) -> None:
        model = segmenter().eval()
        rest = {m: t for m, t in images().items() if m != missing}
        (other,) = rest
        run = {m: calls(model.encoders.encoders[m]) for m in MODALITIES}
        logits = model(rest)
        assert logits.isfinite().all() and logits.shape == (3, 4, 64, 64)
        assert run[missing] == [] and 'layer4' in run[other]

    @pytest.mark.parametrize('missing', MODALITIES)
    def test_absent_modality_is_zeros_in_every_stage(self, missing: str) -> None:
        """Check that the other modality is encoded independently."""
        model = segmenter().eval()
        rest = {m: t for m, t in images().items() if m != missing}
        (other,) = rest
        with torch.no_grad():
            levels = model.encoders.encoders[other](rest[other])[-4:]
            pairs = [{missing: torch.zeros_like(t), other: t} for t in levels]
            fused = [
                fusion(*(pair[m] for m in MODALITIES))
                for fusion, pair in zip(model.fusion, pairs, strict=True)
            ]
            expected = model.decoder(fused, (64, 64))
            torch.testing.assert_close(model(rest), expected)

    @pytest.mark.parametrize('backbone', ['mit_b0', 'test_resnet'])
    @pytest.mark.parametrize('missing', MODALITIES)
    def test_one_sample_may_lack_a_modality(self, missing: str, backbone: str) -> None:
        model = segmenter(backbone=backbone).eval()
        x = images()
        mask = torch.tensor([True, False, True])
        broken = {m: t.clone() for m, t in x.items()}
        broken[missing][1] = torch.nan
        rest = {m: t for m, t in x.items() if m != missing}
        with torch.no_grad():
            found, whole, without = (
                model(broken, {missing: mask}),
                model(x),
                model(rest),
            )
            torch.testing.assert_close(found[mask], whole[mask])
            torch.testing.assert_close(found[~mask], without[~mask])
            none = model(broken, {missing: torch.zeros(3, dtype=torch.bool)})
            torch.testing.assert_close(none, without)
            assert not torch.allclose(whole, without)

    def test_a_sample_without_any_modality_is_finite(self) -> None:
        model = segmenter()
        nobody = dict.fromkeys(MODALITIES, torch.zeros(3, dtype=torch.bool))
        logits = model({m: t * torch.nan for m, t in images().items()}, nobody)
        assert logits.isfinite().all()
        logits.sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())

    def test_decodes_subsets_of_features(self) -> None:
        model = segmenter().eval()
        x = images()
        with torch.no_grad():
            features = model.encode(x)
            for m in MODALITIES:
                found = model.decode({m: features[m]}, (64, 64))
                torch.testing.assert_close(found, model({m: x[m]}))

    def test_absent_samples_do_not_reach_batch_norm(self) -> None:
        mask = torch.tensor([True, False, True, False])
        x = images(4)
        model, other = segmenter(), segmenter()
        other.load_state_dict(model.state_dict())
        for each in (model, other):
            # The other encoder must not depend on who else is in the batch.
            each.encoders.encoders['s2'].eval()
        broken = {**x, 's1': torch.where(mask[:, None, None, None], x['s1'], 1e6)}
        model(broken, {'s1': mask})
        other({m: t[mask] for m, t in x.items()})
        expected = other.encoders.state_dict()
        for name, value in model.encoders.state_dict().items():
            if 'running_mean' in name:
                torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)

    def test_dropout_is_the_same_in_all_stages(self) -> None:
        model = segmenter(modality_dropout=0.9)
        model.encoders.eval()
        x = images(16)
        features = model.encode(x)
        there = {m: levels[1].flatten().bool() for m, levels in features.items()}
        both = torch.stack(list(there.values()))
        assert both.any(0).all() and not both.all(1).any()
        model.eval()
        with torch.no_grad():
            found = model.decode(features, (64, 64))
            torch.testing.assert_close(found, model(x, there))
        assert all(len(levels) == 1 for levels in model.encode(x).values())


class TestFrozen:
    @pytest.mark.parametrize('backbone', ['mit_b0', 'test_resnet'])
    def test_everything_but_frozen_encoders_learns(self, backbone: str) -> None:
        model = segmenter(
            backbone=backbone, freeze_backbone=True, modality_dropout=0.5
        ).train()
        assert not any(m.training for m in model.encoders.modules())
        before = {k: v.clone() for k, v in model.encoders.state_dict().items()}
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=0.1
        )
        for _ in range(2):
            optimizer.zero_grad()
            model(images()).square().mean().backward()
            optimizer.step()
        assert all(v.equal(before[k]) for k, v in model.encoders.state_dict().items())
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == name.startswith('encoders.'), name


class TestWeights:
    def test_loads_published_files(self, publish: Publish) -> None:
        """Use a small backbone instead of the published one."""
        rgb, hha = (random_state('mit_b0', 3, seed=i) for i in (1, 2))
        parts = {'module.backbone_1': rgb, 'module.backbone_2': hha}
        joint = {f'{p}.{k}': v for p, s in parts.items() for k, v in s.items()}
        publish(MiTB2_Weights.SUNRGBD_RGB_HHA_DECUR, {'model': joint})
        publish(MiTB2_Weights.SUNRGBD_RGB_DECUR, {**rgb, 'head.bias': torch.rand(3)})
        publish(MiTB2_Weights.SUNRGBD_HHA_DECUR, {**hha, 'head.bias': torch.rand(3)})
        flipped = [{**s, KERNEL: s[KERNEL].flip(1)} for s in (rgb, hha)]
        for weights in (
            'MiTB2_Weights.SUNRGBD_RGB_HHA_DECUR',
            {
                'rgb': 'MiTB2_Weights.SUNRGBD_RGB_DECUR',
                'hha': 'MiTB2_Weights.SUNRGBD_HHA_DECUR',
            },
        ):
            model = segmenter(
                modalities={'rgb': 3, 'hha': 3}, backbone='mit_b0', weights=weights
            )
            assert_loaded(model.encoders.encoders['rgb'], flipped[0])
            assert_loaded(model.encoders.encoders['hha'], flipped[1])

    def test_modalities_share_no_storage(self, tmp_path: Path) -> None:
        encoder = segmenter(backbone='mit_b0').encoders.encoders['s1']
        _, file = save_encoder(encoder, tmp_path / 'both', 'mit_b0', {})
        model = segmenter(
            modalities={'a': 2, 'b': 2}, backbone='mit_b0', weights=str(file)
        )
        a, b = (
            {t.data_ptr() for t in model.encoders.encoders[m].state_dict().values()}
            for m in ('a', 'b')
        )
        assert a and not a & b
        assert_loaded(model.encoders.encoders['b'], encoder.state_dict())
