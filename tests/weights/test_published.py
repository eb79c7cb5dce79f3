"""Check published files, with their layout, names and download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from tests.helpers.attention_loops import attend
from tests.helpers.encoder_states import State, assert_loaded, random_state
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
    """Build a training checkpoint of two modalities, as published."""
    projector = {'0.weight': torch.rand(4, 4), '1.running_mean': torch.rand(4)}
    state = {f'module.backbone_1.{k}': v for k, v in first.items()}
    state |= {f'module.backbone_2.{k}': v for k, v in second.items()}
    for i in (1, 2):
        state |= {f'module.projector{i}.{k}': v for k, v in projector.items()}
    state |= {f'module.{k}': v for k, v in others.items()}
    return {'epoch': 99, 'model': state, 'optimizer': {'state': {}, 'param_groups': []}}


def attention(prefix: str, seed: int) -> State:
    """Build deformable attention of layers 3 and 4, by its published names."""
    state = random_state(f'{SMALL}_rda', seed=seed)
    own = {k: v for k, v in state.items() if k.startswith('da_')}
    return {k.replace('da_', f'{prefix}_', 1): v for k, v in own.items()}


class TestLayouts:
    def test_reads_a_joint_file(self, publish: Publish) -> None:
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

    def test_reads_a_bare_local_joint_file(self, tmp_path: Path) -> None:
        states = random_state(SMALL, 3, seed=1), random_state(SMALL, 3, seed=2)
        file = tmp_path / 'mitb2_sunrgbd_rgb_hha_decur_ep200.pth'
        torch.save(joint(*states)['model'], file)
        encoder = MultimodalEncoder({'rgb': 3, 'hha': 3}, SMALL, str(file))
        for m, state in zip(('rgb', 'hha'), states, strict=True):
            flipped = {**state, 'conv1.weight': state['conv1.weight'].flip(1)}
            assert_loaded(encoder.encoders[m], flipped)

    def test_reads_a_joint_file_of_unknown_name_by_position(
        self, tmp_path: Path
    ) -> None:
        states = random_state(SMALL, 2, seed=1), random_state(SMALL, 13, seed=2)
        torch.save(joint(*states), tmp_path / 'checkpoint_0099.pth')
        encoder = MultimodalEncoder({'s1': 2, 's2': 13}, SMALL)
        message = (
            r"an encoder for s1, found encoders for \['backbone_1', 'backbone_2'\]"
        )
        with pytest.raises(ValueError, match=message):
            load_weights(encoder, tmp_path / 'checkpoint_0099.pth')
        named = {
            f'backbone_{i + 1}': e for i, e in enumerate(encoder.encoders.values())
        }
        load_weights(named, tmp_path / 'checkpoint_0099.pth')
        for m, state in zip(encoder.encoders, states, strict=True):
            assert_loaded(encoder.encoders[m], state)

    def test_reads_a_vision_transformer(self, publish: Publish) -> None:
        entry = ViTSmall16_Weights.SENTINEL2_ALL_DECUR
        state = random_state('vit_tiny_patch16_224', 13)
        publish(entry, state)
        encoder = create_encoder('vit_tiny_patch16_224', 13)
        load_weights(encoder, entry)
        assert_loaded(encoder, state)

    @pytest.mark.parametrize(
        ('model', 'size', 'grid'),
        [
            ('vit_tiny_patch16_224', 96, (6, 6)),
            ('vit_tiny_patch16_224', (64, 128), (4, 8)),
            ('vit_tiny_patch16_384', 384, (24, 24)),
        ],
    )
    def test_resizes_position_embeddings(
        self, publish: Publish, model: str, size: Any, grid: tuple[int, int]
    ) -> None:
        """Compare with timm, which resizes embeddings at each image."""
        entry = ViTSmall16_Weights.SENTINEL2_ALL_DECUR
        torch.manual_seed(0)
        state = create_encoder('vit_tiny_patch16_224', 13).state_dict()
        publish(entry, {**state, 'head.weight': torch.rand(5, 192)})
        encoder = create_encoder(model, 13, img_size=size).eval()
        report = load_weights(encoder, entry)['']
        assert report.changes == (
            f'resized position embeddings from 14 x 14 to {grid[0]} x {grid[1]}',
        )
        assert encoder.pos_embed.shape == (1, 1 + grid[0] * grid[1], 192)
        assert encoder.pos_embed[:, 0].equal(state['pos_embed'][:, 0])
        flexible = create_encoder('vit_tiny_patch16_224', 13).eval()
        assert load_weights(flexible, entry)[''].changes == ()
        x = torch.rand(1, 13, 16 * grid[0], 16 * grid[1])
        with torch.no_grad():
            torch.testing.assert_close(encoder(x), flexible(x))

    def test_rejects_position_embeddings_of_another_width(
        self, publish: Publish
    ) -> None:
        entry = ViTSmall16_Weights.SENTINEL2_ALL_DECUR
        publish(entry, random_state('test_vit', 13))
        with pytest.raises(
            ValueError, match=r'found another model with .* of another shape'
        ):
            load_weights(create_encoder('vit_tiny_patch16_224', 13), entry)

    def test_reorders_colours_of_a_vision_transformer(self, publish: Publish) -> None:
        state = random_state('vit_tiny_patch16_224', 3)
        publish(ViTSmall16_Weights.GEONRW_RGB_DECUR, state)
        encoder = create_encoder('vit_tiny_patch16_224', 3)
        load_weights(encoder, ViTSmall16_Weights.GEONRW_RGB_DECUR)
        expected = state['patch_embed.proj.weight'].flip(1)
        assert encoder.patch_embed.proj.weight.equal(expected)

    @pytest.mark.parametrize('channels', [1, 3])
    def test_reads_elevation_of_one_or_three_channels(
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

    def test_gives_both_modalities_the_trained_attention(
        self, publish: Publish
    ) -> None:
        """Use da1 for both modalities, as in training."""
        s1, s2 = random_state(SMALL, 2, seed=1), random_state(SMALL, 13, seed=2)
        trained, unused = attention('da1', 1), attention('da2', 2)
        entry = ResNet50RDA_Weights.SENTINEL1_2_DECUR
        publish(entry, joint(s1, s2, **trained, **unused))
        encoders = {
            m: create_encoder(f'{SMALL}_rda', c) for m, c in (('s1', 2), ('s2', 13))
        }
        load_weights(encoders, entry)
        named = {k.replace('da1', 'da'): v for k, v in trained.items()}
        assert_loaded(encoders['s1'], {**s1, **named})
        assert_loaded(encoders['s2'], {**s2, **named})

    def test_takes_untrained_attention_from_the_other_file(
        self, publish: Publish, tmp_path: Path
    ) -> None:
        """Replace da2 of the second file, which was never trained."""
        s1, s2 = random_state(SMALL, 2, seed=1), random_state(SMALL, 13, seed=2)
        trained, unused = attention('da1', 1), attention('da2', 2)
        first = {f'backbone.{k}': v for k, v in s1.items()} | trained
        second = {f'backbone.{k}': v for k, v in s2.items()} | unused
        publish(ResNet50RDA_Weights.SENTINEL1_GRD_DECUR, first)
        publish(ResNet50RDA_Weights.SENTINEL2_ALL_DECUR, second)
        encoders = {
            m: create_encoder(f'{SMALL}_rda', c) for m, c in (('s1', 2), ('s2', 13))
        }
        load_weights(encoders['s1'], ResNet50RDA_Weights.SENTINEL1_GRD_DECUR)
        load_weights(encoders['s2'], ResNet50RDA_Weights.SENTINEL2_ALL_DECUR)
        named = {k.replace('da1', 'da'): v for k, v in trained.items()}
        assert_loaded(encoders['s1'], {**s1, **named})
        assert_loaded(encoders['s2'], {**s2, **named})
        torch.save(second, tmp_path / 'alone.pth')
        with pytest.raises(
            ValueError, match=r'da2_\* was never trained; use ResNet50RDA'
        ):
            load_weights(encoders['s2'], tmp_path / 'alone.pth')

    @pytest.mark.parametrize('size', [224, 256, 120])
    def test_attention_equals_plain_loops(self, publish: Publish, size: int) -> None:
        """Compare with loops on the tensors of a published file."""
        torch.manual_seed(size)
        source = create_encoder(f'{SMALL}_rda', 2).state_dict()
        for name, value in source.items():
            if name.endswith('rpe_table') or 'norm' in name:
                value.normal_(0.5, 1)
        plain = {k: v for k, v in source.items() if not k.startswith('da_')}
        da1 = {
            k.replace('da_', 'da1_', 1): v
            for k, v in source.items()
            if k.startswith('da_')
        }
        entry = ResNet50RDA_Weights.SENTINEL1_2_DECUR
        second = {**plain, 'conv1.weight': torch.randn(64, 13, 7, 7) / 25}
        publish(entry, joint(plain, second, **da1, **attention('da2', 2)))
        encoders = MultimodalEncoder({'s1': 2, 's2': 13}, f'{SMALL}_rda', entry)
        encoder = encoders.encoders['s2'].eval()
        with torch.no_grad():
            maps = encoder.forward_intermediates(
                torch.rand(1, 13, size, size), intermediates_only=True
            )
            for layer, x, options in (
                ('l3', encoder.layer3(maps[2]), (8, 4, 2)),
                ('l4', encoder.layer4(maps[3]), (16, 8, 1)),
            ):
                prefix = f'da1_{layer}.'
                state = {
                    k.removeprefix(prefix): v
                    for k, v in da1.items()
                    if k.startswith(prefix)
                }
                expected, _ = attend(state, x[0], *options)
                assert x.shape[-1] == -(-size // (16 if layer == 'l3' else 32))
                torch.testing.assert_close(
                    maps[int(layer[1])][0].double(),
                    x[0].double() + torch.from_numpy(expected),
                    atol=1e-5,
                    rtol=1e-5,
                )


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
    def test_removes_files_that_are_not_checkpoints(
        self, publish: Publish, cache: Path, content: Any
    ) -> None:
        publish(self.entry, content)
        message = (
            r'^ResNet50_Weights\.GEONRW_DEM_DECUR: expected a checkpoint .* removed'
        )
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 1), self.entry)
        assert list(cache.iterdir()) == []

    def test_removes_a_truncated_file(self, publish: Publish, cache: Path) -> None:
        file = publish(self.entry, random_state(SMALL, 1))
        file.write_bytes(file.read_bytes()[:-4000])
        with pytest.raises(ValueError, match=r'may be truncated, .* has been removed$'):
            load_weights(create_encoder(SMALL, 1), self.entry)
        assert list(cache.iterdir()) == []

    def test_removes_a_file_altered_after_the_first_use(
        self, publish: Publish, cache: Path
    ) -> None:
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
        with pytest.raises(
            ValueError, match=r'contain code, which is never executed; it has'
        ):
            load_weights(create_encoder(SMALL, 1), self.entry)
        assert not made.exists()
        assert list(cache.iterdir()) == []

    def test_rejects_a_file_of_other_encoders(self, publish: Publish) -> None:
        entry = ResNet50_Weights.GEONRW_RGB_DEM_DECUR
        publish(entry, random_state(SMALL, 3))
        message = r"encoders for \['rgb', 'dem'\] under .*, found \[''\]"
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 3), entry, modality='rgb')

    def test_rejects_another_model(self, publish: Publish) -> None:
        publish(self.entry, random_state(SMALL, 1))
        with pytest.raises(ValueError, match=r'found another model with \d+ missing'):
            load_weights(create_encoder('mobilenetv3_small_050', 1), self.entry)

    def test_rejects_another_number_of_bands(self, publish: Publish) -> None:
        entry = ViTSmall16_Weights.SENTINEL1_GRD_DECUR
        publish(entry, random_state(SMALL, 2))
        message = r"set the argument bands to the bands of the images \(the weights have \['VV', 'VH'\]\)"
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 3), entry)

    def test_rejects_other_modalities(self, publish: Publish) -> None:
        entry = ResNet50_Weights.GEONRW_RGB_DEM_DECUR
        publish(entry, joint(random_state(SMALL, 3), random_state(SMALL, 1)))
        message = r"expected an encoder for s2, found encoders for \['rgb', 'dem'\]"
        with pytest.raises(ValueError, match=message):
            MultimodalEncoder({'rgb': 3, 's2': 13}, SMALL, entry)
        with pytest.raises(
            ValueError, match=r'an encoder for one modality, found encoders'
        ):
            load_weights(create_encoder(SMALL, 3), entry)

    @pytest.mark.parametrize(
        ('entry', 'modality'),
        [(ResNet50_Weights.SENTINEL1_2_DECUR, ''), (entry, 'rgb')],
    )
    def test_rejects_an_unknown_modality(self, entry: Any, modality: str) -> None:
        with pytest.raises(ValueError, match=r'modality must be one of'):
            entry.get_state_dict(modality=modality)

    def test_explains_a_missing_network(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = 'http://127.0.0.1:9/rn50_geonrw_dem_decur_ep100.pth'
        monkeypatch.setattr(self.entry.value, 'url', url)
        with pytest.raises(
            FileNotFoundError, match=r'ep100\.pth is not .* copy the file to'
        ):
            load_weights(create_encoder(SMALL, 1), self.entry)
