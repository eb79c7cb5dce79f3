"""Check fusion heads and their classifier, also with absent modalities."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchgeo_decur.models import (
    FusionHead,
    FusionHeadClassifier,
    FusionTransformer,
    JointHead,
    MultimodalEncoder,
    SharedUniqueHead,
    build_fusion_head,
    load_fusion_head,
    save_encoder,
)
from torchgeo_decur.models.encoder import to_tokens

MODALITIES = {'s1': 2, 's2': 13, 'dem': 1}
SMALL: dict[str, Any] = {'embed_dim': 16, 'num_heads': 4, 'depth': 2}


def tokens(batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {'s1': (4, 8), 's2': (9, 6), 'dem': (1, 5)}
    return {m: torch.randn(batch, *s, generator=generator) for m, s in shapes.items()}


def images(batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        m: torch.rand(batch, c, 40, 33, generator=generator)
        for m, c in MODALITIES.items()
    }


def heads() -> list[FusionHead]:
    torch.manual_seed(0)
    return [
        JointHead(dict.fromkeys(MODALITIES, 96), **SMALL),
        SharedUniqueHead(MODALITIES, 'test_resnet', **SMALL),
    ]


def classifier(head: FusionHead, **kwargs: Any) -> FusionHeadClassifier:
    return FusionHeadClassifier(
        MODALITIES, head, 'test_resnet', num_classes=5, **kwargs
    )


class TestTransformer:
    def fusion(self) -> FusionTransformer:
        torch.manual_seed(0)
        return FusionTransformer({'s1': 8, 's2': 6, 'dem': 5}, **SMALL).eval()

    def test_order_of_modalities_and_of_tokens_does_not_matter(self) -> None:
        fusion, x = self.fusion(), tokens()
        expected = fusion(x)
        torch.testing.assert_close(fusion(dict(reversed(x.items()))), expected)
        torch.testing.assert_close(fusion({**x, 's2': x['s2'].flip(1)}), expected)
        assert not torch.allclose(fusion({**x, 's2': x['s2'] + 1}), expected)

    def test_equal_tokens_of_two_modalities_differ(self) -> None:
        fusion = FusionTransformer({'a': 8, 'b': 8}, **SMALL).eval()
        x = tokens()['s1']
        assert not torch.allclose(fusion({'a': x}), fusion({'b': x}))

    @pytest.mark.parametrize('training', [True, False])
    def test_an_absent_sample_equals_omitted_tokens(self, training: bool) -> None:
        fusion, x = self.fusion().train(training), tokens()
        there = torch.tensor([True, False, True])
        found = fusion(
            {**x, 's2': x['s2'] * 1e3 * ~there[:, None, None] + x['s2']}, {'s2': there}
        )
        del x['s2'], there
        whole = fusion(tokens())
        torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])
        torch.testing.assert_close(found[1], fusion(x)[1])

    def test_sample_without_any_modality_is_finite(self) -> None:
        fusion, x = self.fusion(), tokens()
        found = fusion(x, dict.fromkeys(x, torch.zeros(3, dtype=torch.bool)))
        assert found.isfinite().all()
        torch.testing.assert_close(found[0], found[1])

    def test_every_parameter_gets_a_gradient(self) -> None:
        fusion = self.fusion()
        fusion(tokens()).square().sum().backward()
        assert not [n for n, p in fusion.named_parameters() if p.grad is None]

    @pytest.mark.parametrize('given', [{}, {'rgb': torch.zeros(1, 1, 8)}])
    def test_rejects_unknown_modalities(self, given: dict[str, Tensor]) -> None:
        with pytest.raises(
            ValueError, match=r"modalities of tokens must be among \['s1'"
        ):
            self.fusion()(given)


class TestTokens:
    @pytest.mark.parametrize(
        ('model', 'number'),
        [('test_resnet', 4), ('test_vit', 17), ('test_convnext', 4)],
    )
    def test_converts_maps_of_any_family(self, model: str, number: int) -> None:
        encoder = MultimodalEncoder({'s1': 2}, model).eval()
        x = {'s1': torch.rand(2, 2, 64, 64)}
        features, found = encoder.tokens(x)
        assert found['s1'].shape == (2, number, encoder.num_channels['s1'])
        torch.testing.assert_close(features['s1'], encoder(x)['s1'])

    def test_converts_channels_last_maps(self) -> None:
        encoder: Any = nn.Identity()
        encoder.output_fmt = 'NHWC'
        x = torch.rand(2, 3, 4, 8)
        assert to_tokens(encoder, x).equal(x.reshape(2, 12, 8))

    def test_order_is_by_rows(self) -> None:
        x = torch.rand(2, 8, 3, 4)
        assert to_tokens(nn.Identity(), x)[:, 5].equal(x[:, :, 1, 1])

    @pytest.mark.parametrize(
        ('maps', 'got'), [(torch.rand(2, 8), r'\(2, 8\)'), ([torch.rand(2)], 'list')]
    )
    def test_rejects_other_tensors(self, maps: Any, got: str) -> None:
        with pytest.raises(ValueError, match=f'tokens, got {got} from Identity'):
            to_tokens(nn.Identity(), maps)


class TestClassifier:
    @pytest.mark.parametrize('index', [0, 1])
    def test_samples_may_lack_a_modality(self, index: int) -> None:
        model, x = classifier(heads()[index]).eval(), images()
        there = torch.tensor([True, False, True])
        broken = {
            **x,
            's2': x['s2'].masked_fill(~there[:, None, None, None], torch.nan),
        }
        found, whole = model(broken, {'s2': there}), model(x)
        rest = model({m: x[m] for m in ('s1', 'dem')})
        options = {'rtol': 1e-4, 'atol': 1e-5}
        torch.testing.assert_close(found[[0, 2]], whole[[0, 2]], **options)
        torch.testing.assert_close(found[1], rest[1], **options)

    @pytest.mark.parametrize('index', [0, 1])
    def test_every_parameter_gets_a_gradient(self, index: int) -> None:
        model = classifier(heads()[index])
        model(images()).square().sum().backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None]

    @pytest.mark.parametrize('index', [0, 1])
    def test_frozen_head_neither_learns_nor_adapts(self, index: int) -> None:
        model = classifier(heads()[index], freeze_backbone=True).train()
        model(images()).square().sum().backward()
        learned = {n for n, p in model.named_parameters() if p.grad is not None}
        assert learned == {'head.weight', 'head.bias'}
        assert not model.fusion.training and model.training

    def test_dropout_keeps_at_least_one(self) -> None:
        model = classifier(heads()[0], modality_dropout=0.9).train()
        features = model.encode(images(64))
        there = torch.stack([levels[-1][:, 0] for levels in features.values()])
        assert (there.sum(0) >= 1).all() and there.mean() < 0.6
        assert model.decode(features).isfinite().all()

    def test_accepts_some_modalities_of_the_head(self) -> None:
        for head in heads():
            model = FusionHeadClassifier({'s2': 13}, head, 'test_resnet')
            assert model({'s2': images()['s2']}).shape == (3, 19)

    @pytest.mark.parametrize(
        ('modalities', 'model'),
        [
            ({'s1': 2}, 'resnet18'),
            ({'rgb': 3}, 'test_resnet'),
            ({'s1': 1}, 'test_resnet'),
        ],
    )
    def test_rejects_a_head_of_other_encoders(
        self, modalities: dict[str, int], model: str
    ) -> None:
        with pytest.raises(
            ValueError, match='fusion must be a head for these encoders'
        ):
            FusionHeadClassifier(modalities, heads()[1], model)


class TestFiles:
    def test_loads_what_is_saved(self, tmp_path: Path) -> None:
        for head in heads():
            about = {'fusion': head.description}
            (file,) = save_encoder(head, tmp_path / 'f', '', about, ['safetensors'])
            loaded = load_fusion_head(file)
            assert loaded.description == head.description
            state = loaded.state_dict()
            assert all(v.equal(state[k]) for k, v in head.state_dict().items())

    def test_loads_a_file_with_old_names(self, tmp_path: Path) -> None:
        old = {'embed_dim': 'width', 'num_heads': 'heads'}
        for head in heads():
            said = {old.get(k, k): v for k, v in head.description.items()}
            assert {'width', 'heads'} < set(said)
            about = {'fusion': said}
            (file,) = save_encoder(head, tmp_path / 'f', '', about, ['safetensors'])
            # Warnings are errors: a file cannot be changed by whoever loads it.
            assert load_fusion_head(file).description == head.description

    def test_rejects_other_files(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match="must be 'concatenate' or an existing"
        ):
            load_fusion_head('mean')
        (tmp_path / 'text').write_text('text')
        encoder = nn.Linear(1, 1)
        (plain,) = save_encoder(encoder, tmp_path / 'e', 'x', {}, ['safetensors'])
        for file in (tmp_path / 'text', plain):
            with pytest.raises(ValueError, match='expected a fusion head'):
                load_fusion_head(file)
        with pytest.raises(ValueError, match=r"one of .*'JointHead'.* got 'Mean'"):
            build_fusion_head({'class': 'Mean'})
