from dataclasses import asdict
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from torch import Tensor, nn

from torchgeo_decur.modalities import MODALITIES
from torchgeo_decur.models import MultimodalEncoder, create_encoder, save_encoder

# One family that convolves, one of tokens, one that widens features after pooling.
FAMILIES = {'resnet18': 512, 'vit_tiny_patch16_224': 192, 'mobilenetv3_small_050': 1024}


def build(
    model: str = 'mobilenetv3_small_050', s1: int = 2, s2: int = 13
) -> MultimodalEncoder:
    torch.manual_seed(0)
    return MultimodalEncoder({'s1': s1, 's2': s2}, model=model)


class TestCreateEncoder:
    @pytest.mark.parametrize('channels', [1, 2, 13])
    @pytest.mark.parametrize(
        ('model', 'size'),
        [
            ('resnet18', (33, 47)),
            ('mobilenetv3_small_050', (65, 40)),
            ('vit_tiny_patch16_224', (96, 96)),
            ('vit_tiny_patch16_224', (224, 224)),
            ('vit_tiny_patch16_224', (120, 50)),
        ],
    )
    def test_returns_features_of_any_model_and_size(
        self, model: str, size: tuple[int, int], channels: int
    ) -> None:
        encoder = create_encoder(model, channels).eval()
        with torch.no_grad():
            h = encoder(torch.rand(2, channels, *size))
        assert h.shape == (2, FAMILIES[model])
        assert h.isfinite().all()

    @pytest.mark.parametrize(
        'model', ['test_vit', 'test_vit3', 'eva02_tiny_patch14_224']
    )
    def test_pads_images_that_patches_do_not_divide(self, model: str) -> None:
        encoder = create_encoder(model, 2).eval()
        patch = encoder.patch_embed.patch_size[0]
        x = torch.rand(2, 2, 3 * patch - 5, 4 * patch)
        with torch.no_grad():
            expected = encoder(nn.functional.pad(x, (0, 0, 0, 5)))
            torch.testing.assert_close(encoder(x), expected)

    def test_samples_are_encoded_one_by_one(self) -> None:
        encoder = create_encoder('resnet18', 3).eval()
        x = torch.rand(3, 3, 48, 48)
        with torch.no_grad():
            torch.testing.assert_close(encoder(x)[1:2], encoder(x[1:2]))

    def test_options_reach_timm(self) -> None:
        encoder = create_encoder('resnet18', 2, output_stride=8).eval()
        with torch.no_grad():
            maps = encoder.forward_features(torch.rand(1, 2, 64, 64))
        assert maps.shape == (1, 512, 8, 8)

    def test_accepts_a_name_with_a_tag(self) -> None:
        encoder = create_encoder('vit_tiny_patch16_224.augreg_in21k', 2).eval()
        with torch.no_grad():
            assert encoder(torch.rand(1, 2, 64, 64)).shape == (1, 192)

    def test_explains_imagenet_weights_without_a_network(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
        monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path))
        message = r'weights of resnet10t are not in the cache .*; set `weights: null`'
        with pytest.raises(FileNotFoundError, match=message):
            create_encoder('resnet10t', 3, pretrained=True)

    def test_suggests_names_for_an_unknown_model(self) -> None:
        message = r"name of a timm model, got 'resnet5O'; did you mean .*'resnet50'"
        with pytest.raises(ValueError, match=message):
            create_encoder('resnet5O', 2)

    def test_rejects_an_unknown_model(self) -> None:
        message = r"got '#'; see timm\.list_models\(\)"
        with pytest.raises(ValueError, match=message):
            create_encoder('#', 2)


class TestMultimodalEncoder:
    @pytest.mark.parametrize('model', FAMILIES)
    def test_every_parameter_gets_a_gradient(self, model: str) -> None:
        encoders = build(model)
        size = 64
        images = {
            's1': torch.rand(2, 2, size, size),
            's2': torch.rand(2, 13, size, size),
        }
        features = encoders(images)
        sum(h.square().sum() for h in features.values()).backward()
        without = [n for n, p in encoders.named_parameters() if p.grad is None]
        assert without == []

    def test_a_modality_only_trains_its_encoder(self) -> None:
        encoders = build()
        encoders({'s1': torch.rand(2, 2, 32, 32)})['s1'].sum().backward()
        assert all(p.grad is not None for p in encoders.encoders['s1'].parameters())
        assert all(p.grad is None for p in encoders.encoders['s2'].parameters())

    @pytest.mark.parametrize('model', FAMILIES)
    def test_encoders_share_no_storage(self, model: str) -> None:
        def storages(module: nn.Module) -> set[int]:
            tensors = [*module.parameters(), *module.buffers()]
            return {t.untyped_storage().data_ptr() for t in tensors}

        encoders = build(model, s1=3, s2=3).encoders
        assert not storages(encoders['s1']) & storages(encoders['s2'])

    def test_encoders_start_differently(self) -> None:
        first, second = build(s1=3, s2=3).encoders.values()
        assert not first.conv_stem.weight.equal(second.conv_stem.weight)

    @pytest.mark.parametrize('model', FAMILIES)
    def test_num_features_equal_the_output(self, model: str) -> None:
        encoders = build(model).eval()
        with torch.no_grad():
            h = encoders({'s1': torch.rand(1, 2, 64, 64)})['s1']
        assert encoders.num_features == {'s1': h.shape[1], 's2': h.shape[1]}

    def test_accepts_a_model_for_each_modality(self) -> None:
        models = {'s2': 'resnet18', 's1': 'mobilenetv3_small_050'}
        encoders = MultimodalEncoder({'s1': 2, 's2': 13}, model=models)
        assert list(encoders.encoders) == ['s1', 's2']
        assert encoders.num_features == {'s1': 1024, 's2': 512}
        images = {'s1': torch.rand(2, 2, 32, 32), 's2': torch.rand(2, 13, 48, 48)}
        shapes = {m: tuple(h.shape) for m, h in encoders(images).items()}
        assert shapes == {'s1': (2, 1024), 's2': (2, 512)}

    def test_accepts_any_number_of_modalities(self) -> None:
        modalities = {'a': 1, 'b': 2, 'c': 3, 'd': 4}
        encoders = MultimodalEncoder(modalities, model='mobilenetv3_small_050')
        images = {m: torch.rand(2, c, 32, 32) for m, c in modalities.items()}
        assert list(encoders(images)) == list(modalities)

    def test_encodes_any_subset(self) -> None:
        encoders = build().eval()
        images = {'s1': torch.rand(2, 2, 32, 32), 's2': torch.rand(2, 13, 32, 32)}
        with torch.no_grad():
            both = encoders(images)
            for m, x in images.items():
                alone = encoders({m: x})
                assert list(alone) == [m]
                torch.testing.assert_close(alone[m], both[m])
            assert encoders({}) == {}

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ({'modalities': {}}, r'must contain at least one modality, got none'),
            (
                {'model': {'s1': 'resnet18'}},
                r"model must be .* got unknown \[\], missing \['s2'\]",
            ),
            (
                {'model': {'s1': 'resnet18', 's2': 'resnet18', 's3': 'resnet18'}},
                r"model must be .* got unknown \['s3'\]",
            ),
            ({'weights': {'s3': True}}, r"weights must be .* got unknown \['s3'\]"),
            ({'model': 'resnet5O'}, r"got 'resnet5O'; did you mean"),
            (
                {'weights': 'none.pt'},
                r"weights must be a weight enum, .* got 'none\.pt'",
            ),
        ],
    )
    def test_rejects_invalid_options(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        options = {'modalities': {'s1': 2, 's2': 3}, 'model': 'mobilenetv3_small_050'}
        with pytest.raises(ValueError, match=message):
            MultimodalEncoder(**{**options, **arguments})

    def test_rejects_an_unknown_modality(self) -> None:
        message = r"modalities of images must be among \['s1', 's2'\], got \['dem'\]"
        with pytest.raises(ValueError, match=message):
            build()({'s1': torch.rand(1, 2, 32, 32), 'dem': torch.rand(1, 1, 32, 32)})


class TestStart:
    @pytest.mark.parametrize(
        ('weights', 'expected'),
        [
            (None, [False, False]),
            (False, [False, False]),
            (True, [True, True]),
            ({'s2': True}, [False, True]),
            ({'s1': None, 's2': True}, [False, True]),
        ],
    )
    def test_starts_from_imagenet(
        self, weights: Any, expected: list[bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create, asked = timm.create_model, []

        def offline(*args: Any, pretrained: bool, **kwargs: Any) -> nn.Module:
            asked.append(pretrained)
            return create(*args, pretrained=False, **kwargs)

        monkeypatch.setattr(timm, 'create_model', offline)
        modalities = {'s1': 2, 's2': 13}
        MultimodalEncoder(modalities, 'mobilenetv3_small_050', weights)
        assert asked == expected

    def test_loads_a_file_for_one_modality(self, tmp_path: Any) -> None:
        source = create_encoder('mobilenetv3_small_050', 13)
        file = tmp_path / 's2.pt'
        torch.save(source.state_dict(), file)
        encoders = MultimodalEncoder(
            {'s1': 13, 's2': 13}, 'mobilenetv3_small_050', {'s2': str(file)}
        ).encoders

        def stem(encoder: nn.Module) -> Tensor:
            return encoder.conv_stem.weight

        assert stem(encoders['s2']).equal(stem(source))
        assert not stem(encoders['s1']).equal(stem(source))


class TestFromWeights:
    def file(self, folder: Path, **content: Any) -> Path:
        encoders = build('test_resnet')
        state = {f'encoders.{k}': v for k, v in encoders.state_dict().items()}
        torch.save({'state_dict': state, **content}, folder / 'last.ckpt')
        return folder / 'last.ckpt'

    def test_builds_the_encoders_of_a_checkpoint(self, tmp_path: Path) -> None:
        records = {'s1': asdict(MODALITIES['sentinel1_grd'])}
        options = {'modalities': {'s1': 2, 's2': 13}, 'model': 'test_resnet'}
        file = self.file(
            tmp_path,
            hyper_parameters=options,
            encoder_modalities=records,
            encoder_training={'task': 'DeCUR'},
            epoch=4,
            global_step=10,
        )
        found = MultimodalEncoder.from_weights(file)
        assert found.modalities == {'s1': 2, 's2': 13}
        expected = build('test_resnet').state_dict()
        assert all(v.equal(expected[k]) for k, v in found.state_dict().items())
        assert found.metadata['s1']['bands'] == ['VV', 'VH']
        limits = MODALITIES['sentinel1_grd'].limits
        assert found.metadata['s1']['limits'] == [list(end) for end in limits]
        assert found.metadata['s2'] == {
            'modality': 's2',
            'in_chans': 13,
            'limits': None,
            'task': 'DeCUR',
            'hyper_parameters': options,
            'epochs': 5,
            'steps': 10,
        }

    def test_builds_one_of_the_encoders(self, tmp_path: Path) -> None:
        file = self.file(tmp_path, hyper_parameters={'model': 'test_resnet'})
        assert list(MultimodalEncoder.from_weights(file, ['s2']).encoders) == ['s2']
        with pytest.raises(ValueError, match=r"among \['s1', 's2'\], got \['dem'\]"):
            MultimodalEncoder.from_weights(file, ['dem'])

    def test_builds_an_exported_encoder(self, tmp_path: Path) -> None:
        encoder = create_encoder('test_resnet', 2)
        metadata = {'modality': 's1', 'bands': ['VV', 'VH'], 'unit': 'dB'}
        save_encoder(encoder, tmp_path / 's1', 'test_resnet', metadata)
        found = MultimodalEncoder.from_weights(tmp_path / 's1.safetensors')
        assert list(found.encoders) == ['s1'] and found.metadata['s1']['unit'] == 'dB'
        # The other layout says the model alone.
        plain = MultimodalEncoder.from_weights(tmp_path / 's1.pt')
        assert plain.modalities == {'encoder': 2}

    def test_rejects_a_file_without_its_model(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'a file that names its models, found'):
            MultimodalEncoder.from_weights(self.file(tmp_path))
