"""Published files, in their layout and names, through the real download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from encoder_states import State, assert_loaded, random_state
from torch import Tensor, nn

from torchgeo_decur.models import (
    MultimodalEncoder,
    ResNet50_Weights,
    ResNet50RDA_Weights,
    ViTSmall16_Weights,
    create_encoder,
    load_weights,
)

# A small backbone in place of the published one: the size does not matter.
SMALL = 'resnet18'

Publish = Callable[[Any, Any], Path]


def joint(first: State, second: State, **others: Tensor) -> dict[str, Any]:
    """A training checkpoint of two modalities, as published."""
    projector = {'0.weight': torch.rand(4, 4), '1.running_mean': torch.rand(4)}
    state = {f'module.backbone_1.{k}': v for k, v in first.items()}
    state |= {f'module.backbone_2.{k}': v for k, v in second.items()}
    for i in (1, 2):
        state |= {f'module.projector{i}.{k}': v for k, v in projector.items()}
    state |= {f'module.{k}': v for k, v in others.items()}
    return {'epoch': 99, 'model': state, 'optimizer': {'state': {}, 'param_groups': []}}


def attention(prefix: str, seed: int) -> State:
    """Deformable attention of layers 3 and 4, by its published names."""
    torch.manual_seed(seed)
    names = ['conv_offset.0.weight', 'conv_offset.1.norm.bias', 'conv_offset.3.weight']
    names += [f'proj_{x}.weight' for x in 'qkv'] + ['proj_out.bias', 'rpe_table']
    return {f'{prefix}_{x}.{n}': torch.rand(3) for x in ('l3', 'l4') for n in names}


class Attentive(nn.Module):
    """An encoder with the parameters of another and of deformable attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = create_encoder(SMALL, channels)
        for name, value in attention('da', 0).items():
            self.inner.register_buffer(name.replace('.', '__'), torch.zeros_like(value))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = self.inner.state_dict()
        return {k.replace('__', '.'): v for k, v in state.items()}

    def load_state_dict(self, state: Any, strict: bool = True, assign: Any = 0) -> Any:
        renamed = {
            k.replace('.', '__') if k.startswith('da_') else k: v
            for k, v in state.items()
        }
        return self.inner.load_state_dict(renamed, strict)


class TestLayouts:
    def test_joint_file(self, publish: Publish) -> None:
        rgb, dem = random_state(SMALL, 3, seed=1), random_state(SMALL, 1, seed=2)
        entry = ResNet50_Weights.GEONRW_RGB_DEM_DECUR
        publish(entry, joint(rgb, dem))
        encoder = MultimodalEncoder({'dem': 1, 'rgb': 3}, SMALL, entry)
        assert_loaded(encoder.encoders['dem'], dem)
        flipped = {**rgb, 'conv1.weight': rgb['conv1.weight'].flip(1)}
        assert_loaded(encoder.encoders['rgb'], flipped)
        alone = create_encoder(SMALL, 1)
        report = load_weights(alone, str(entry), modality='dem')['dem']
        assert_loaded(alone, dem)
        assert (report.missing, report.unexpected) == ((), ())
        state = entry.get_state_dict(modality='rgb')
        assert state['conv1.weight'].equal(flipped['conv1.weight'])

    def test_joint_file_bare_and_local(self, tmp_path: Path) -> None:
        states = random_state(SMALL, 3, seed=1), random_state(SMALL, 3, seed=2)
        file = tmp_path / 'mitb2_sunrgbd_rgb_hha_decur_ep200.pth'
        torch.save(joint(*states)['model'], file)
        encoder = MultimodalEncoder({'rgb': 3, 'hha': 3}, SMALL, str(file))
        assert_loaded(encoder.encoders['hha'], states[1])
        kernel = states[0]['conv1.weight'].flip(1)
        assert encoder.encoders['rgb'].conv1.weight.equal(kernel)

    def test_joint_file_of_an_unknown_name(self, tmp_path: Path) -> None:
        states = random_state(SMALL, 2, seed=1), random_state(SMALL, 13, seed=2)
        torch.save(joint(*states), tmp_path / 'checkpoint_0099.pth')
        encoder = MultimodalEncoder({'s1': 2, 's2': 13}, SMALL)
        message = r"an encoder of s1, found those of \['backbone_1', 'backbone_2'\]"
        with pytest.raises(ValueError, match=message):
            load_weights(encoder, tmp_path / 'checkpoint_0099.pth')
        named = {
            f'backbone_{i + 1}': e for i, e in enumerate(encoder.encoders.values())
        }
        load_weights(named, tmp_path / 'checkpoint_0099.pth')
        for m, state in zip(encoder.encoders, states, strict=True):
            assert_loaded(encoder.encoders[m], state)

    def test_vision_transformer(self, publish: Publish) -> None:
        entry = ViTSmall16_Weights.SENTINEL2_ALL_DECUR
        state = random_state('vit_tiny_patch16_224', 13)
        publish(entry, state)
        encoder = create_encoder('vit_tiny_patch16_224', 13)
        load_weights(encoder, entry)
        assert_loaded(encoder, state)

    def test_colours_of_a_vision_transformer(self, publish: Publish) -> None:
        state = random_state('vit_tiny_patch16_224', 3)
        publish(ViTSmall16_Weights.GEONRW_RGB_DECUR, state)
        encoder = create_encoder('vit_tiny_patch16_224', 3)
        load_weights(encoder, ViTSmall16_Weights.GEONRW_RGB_DECUR)
        expected = state['patch_embed.proj.weight'].flip(1)
        assert encoder.patch_embed.proj.weight.equal(expected)

    @pytest.mark.parametrize('channels', [1, 3])
    def test_elevation_of_one_or_three_channels(
        self, publish: Publish, channels: int
    ) -> None:
        entry = ResNet50_Weights.GEONRW_DEM_DECUR
        state = random_state(SMALL, channels)
        publish(entry, state)
        encoder = create_encoder(SMALL, 1).eval()
        report = load_weights(encoder, entry)['']
        assert len(report.changes) == (channels == 3)
        original = timm.create_model(SMALL, in_chans=channels, num_classes=0).eval()
        original.load_state_dict(state)
        x = torch.rand(2, 1, 32, 32)
        with torch.no_grad():
            expected = original.conv1(x.expand(-1, channels, -1, -1))
            torch.testing.assert_close(encoder.conv1(x), expected)
        assert entry.get_state_dict()['conv1.weight'].shape[1] == 1
        if channels == 3:
            wide = create_encoder(SMALL, 3)
            load_weights(wide, entry)
            assert wide.conv1.weight.equal(state['conv1.weight'])

    def test_attention_of_a_joint_file(self, publish: Publish) -> None:
        """Both modalities were trained with da1."""
        s1, s2 = random_state(SMALL, 2, seed=1), random_state(SMALL, 13, seed=2)
        trained, unused = attention('da1', 1), attention('da2', 2)
        entry = ResNet50RDA_Weights.SENTINEL1_2_DECUR
        publish(entry, joint(s1, s2, **trained, **unused))
        encoders = {'s1': Attentive(2), 's2': Attentive(13)}
        load_weights(encoders, entry)
        named = {k.replace('da1', 'da'): v for k, v in trained.items()}
        assert_loaded(encoders['s1'], {**s1, **named})
        assert_loaded(encoders['s2'], {**s2, **named})

    def test_attention_of_the_files_of_one_modality(
        self, publish: Publish, tmp_path: Path
    ) -> None:
        """The second file has da2, which was never trained."""
        s1, s2 = random_state(SMALL, 2, seed=1), random_state(SMALL, 13, seed=2)
        trained, unused = attention('da1', 1), attention('da2', 2)
        first = {f'backbone.{k}': v for k, v in s1.items()} | trained
        second = {f'backbone.{k}': v for k, v in s2.items()} | unused
        publish(ResNet50RDA_Weights.SENTINEL1_GRD_DECUR, first)
        publish(ResNet50RDA_Weights.SENTINEL2_ALL_DECUR, second)
        encoders = {'s1': Attentive(2), 's2': Attentive(13)}
        load_weights(encoders['s1'], ResNet50RDA_Weights.SENTINEL1_GRD_DECUR)
        load_weights(encoders['s2'], ResNet50RDA_Weights.SENTINEL2_ALL_DECUR)
        named = {k.replace('da1', 'da'): v for k, v in trained.items()}
        assert_loaded(encoders['s1'], {**s1, **named})
        assert_loaded(encoders['s2'], {**s2, **named})
        torch.save(second, tmp_path / 'alone.pth')
        with pytest.raises(
            ValueError, match=r'da2_\* .* was never trained: take da1_\*'
        ):
            load_weights(encoders['s2'], tmp_path / 'alone.pth')


class TestErrors:
    entry = ResNet50_Weights.GEONRW_DEM_DECUR

    @pytest.mark.parametrize(
        'content',
        [
            b'<!DOCTYPE html><html>Not found</html>',
            b'PK\x03\x04 cut',
            b'',
            {'epoch': 1},
        ],
    )
    def test_no_checkpoint(self, publish: Publish, cache: Path, content: Any) -> None:
        publish(self.entry, content)
        message = (
            r'^ResNet50_Weights\.GEONRW_DEM_DECUR: expected a checkpoint .* removed'
        )
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 1), self.entry)
        assert list(cache.iterdir()) == []

    def test_truncated(self, publish: Publish, cache: Path) -> None:
        file = publish(self.entry, random_state(SMALL, 1))
        file.write_bytes(file.read_bytes()[:-4000])
        with pytest.raises(ValueError, match=r'may be truncated, .* has been removed$'):
            load_weights(create_encoder(SMALL, 1), self.entry)
        assert list(cache.iterdir()) == []

    def test_altered_after_the_first_use(self, publish: Publish, cache: Path) -> None:
        file = publish(self.entry, random_state(SMALL, 1))
        load_weights(create_encoder(SMALL, 1), self.entry)
        torch.save(random_state(SMALL, 1, seed=1), cache / file.name)
        encoder = create_encoder(SMALL, 1)
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        with pytest.raises(ValueError, match=r'altered and has been removed'):
            load_weights(encoder, self.entry)
        assert_loaded(encoder, before)
        assert not (cache / file.name).exists()

    def test_code_is_never_run(
        self, publish: Publish, cache: Path, tmp_path: Path
    ) -> None:
        made = tmp_path / 'made'
        publish(self.entry, f'cos\nmkdir\n(V{made}\ntR.'.encode())
        with pytest.raises(ValueError, match=r'hold code, which is never run; it has'):
            load_weights(create_encoder(SMALL, 1), self.entry)
        assert not made.exists()
        assert list(cache.iterdir()) == []

    def test_file_of_other_encoders(self, publish: Publish) -> None:
        entry = ResNet50_Weights.GEONRW_RGB_DEM_DECUR
        publish(entry, random_state(SMALL, 3))
        message = r"encoders of \['rgb', 'dem'\] under .*, found \[''\]"
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 3), entry, modality='rgb')

    def test_another_model(self, publish: Publish) -> None:
        publish(self.entry, random_state(SMALL, 1))
        with pytest.raises(ValueError, match=r'found another model: \d+ missing'):
            load_weights(create_encoder('mobilenetv3_small_050', 1), self.entry)

    def test_other_number_of_bands(self, publish: Publish) -> None:
        entry = ViTSmall16_Weights.SENTINEL1_GRD_DECUR
        publish(entry, random_state(SMALL, 2))
        message = r"name the bands of the images \(the weights have \['VV', 'VH'\]\)"
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 3), entry)

    def test_other_modalities(self, publish: Publish) -> None:
        entry = ResNet50_Weights.GEONRW_RGB_DEM_DECUR
        publish(entry, joint(random_state(SMALL, 3), random_state(SMALL, 1)))
        message = r"expected an encoder of s2, found those of \['rgb', 'dem'\]"
        with pytest.raises(ValueError, match=message):
            MultimodalEncoder({'rgb': 3, 's2': 13}, SMALL, entry)
        with pytest.raises(
            ValueError, match=r'an encoder of one modality, found those'
        ):
            load_weights(create_encoder(SMALL, 3), entry)

    @pytest.mark.parametrize(
        ('entry', 'modality'),
        [(ResNet50_Weights.SENTINEL1_2_DECUR, ''), (entry, 'rgb')],
    )
    def test_state_of_no_modality(self, entry: Any, modality: str) -> None:
        with pytest.raises(ValueError, match=r'modality must be one of'):
            entry.get_state_dict(modality=modality)

    def test_without_a_network(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = 'http://127.0.0.1:9/rn50_geonrw_dem_decur_ep100.pth'
        monkeypatch.setattr(self.entry.value, 'url', url)
        with pytest.raises(FileNotFoundError, match=r'ep100\.pth is not .* put it at'):
            load_weights(create_encoder(SMALL, 1), self.entry)
