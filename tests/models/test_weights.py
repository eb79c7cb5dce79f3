"""Published weights, on files in their layout and names, through the real download."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchgeo.models
from torch import Tensor, nn
from torchgeo.models import api
from torchgeo.tasks import Classification

from torchgeo_decur.models import (
    MiTB2_Weights,
    MiTB5_Weights,
    MultimodalEncoder,
    ResNet50_Weights,
    ResNet50RDA_Weights,
    ViTSmall16_Weights,
    create_encoder,
    get_weight,
    list_weights,
    load_weights,
    register,
)
from torchgeo_decur.models.weights import WEIGHTS, weights_of_file
from torchgeo_decur.transforms import ScaleToUnit

ENTRIES = [entry for enum in WEIGHTS for entry in enum]
# A small backbone in place of the published one, where the size does not matter.
SMALL = 'resnet18'

State = dict[str, Tensor]
Make = Callable[..., State]
Publish = Callable[[Any, Any], Path]
Check = Callable[[nn.Module, Mapping[str, Tensor]], None]


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


class TestEntries:
    def test_every_published_file_has_one(self) -> None:
        files = {entry.url.rpartition('/')[2] for entry in ENTRIES}
        assert len(files) == len(ENTRIES) == 24
        for backbone in ('rn50_rda', 'vits16'):
            for part in ('joint', 'sar', 'ms'):
                assert f'{backbone}_ssl4eo-s12_{part}_decur_ep100.pth' in files
        for backbone in ('rn50', 'rn50_rda', 'vits16'):
            for part in ('joint', 'rgb', 'dem'):
                assert f'{backbone}_geonrw_{part}_decur_ep100.pth' in files
        for backbone in ('mitb2', 'mitb5'):
            for part in ('rgb_hha', 'backbone_rgb', 'backbone_hha'):
                assert f'{backbone}_sunrgbd_{part}_decur_ep200.pth' in files

    @pytest.mark.parametrize('name', ['SENTINEL1_GRD_DECUR', 'SENTINEL2_ALL_DECUR'])
    def test_files_that_torchgeo_hosts(self, name: str) -> None:
        theirs = torchgeo.models.ResNet50_Weights[name]
        ours = ResNet50_Weights[name]
        assert ours.url == theirs.url
        shared = set(theirs.meta) - {'bands'}
        assert {k: ours.meta[k] for k in shared} == {k: theirs.meta[k] for k in shared}
        bands = [b.upper() for b in theirs.meta['bands']]
        assert ours.meta['bands'] == bands

    @pytest.mark.parametrize('entry', ENTRIES, ids=str)
    def test_meta(self, entry: Any) -> None:
        meta = entry.meta
        assert meta['licence'] == 'Apache-2.0'
        assert meta['ssl_method'] == 'decur'
        assert meta['epochs'] == (200 if 'SUN' in meta['dataset'] else 100)
        bands, channels = meta['bands'], meta['in_chans']
        if len(meta['modalities']) > 1:
            assert list(bands) == list(channels) == meta['modalities']
            assert {m: len(b) for m, b in bands.items()} == channels
        else:
            assert len(bands) == channels
        assert entry.urls == [entry.url] or entry is ResNet50_Weights.SENTINEL1_2_DECUR

    def test_colours_are_stored_in_another_order(self) -> None:
        meta = MiTB2_Weights.SUNRGBD_RGB_HHA_DECUR.meta
        assert meta['channel_order']['rgb'] == ['B', 'G', 'R']
        assert meta['bands']['rgb'] == ['R', 'G', 'B']
        assert meta['channel_order']['depth'] == meta['bands']['depth']

    def test_transforms_are_the_scale_of_the_pretraining(self) -> None:
        x = torch.rand(2, 2, 8, 8) * -30
        batch = {'image_s1': x, 'image_s2': torch.rand(2, 13, 8, 8) * 4000, 'label': 3}
        scaled = ResNet50_Weights.SENTINEL1_2_DECUR.transforms(batch)
        assert scaled['image_s1'].equal(ScaleToUnit('sentinel1_grd')(x))
        assert scaled['image_s2'].amax() <= 1
        assert scaled['label'] == 3
        single = ResNet50_Weights.SENTINEL1_GRD_DECUR.transforms(x)
        assert single.equal(scaled['image_s1'])

    def test_depth_is_standardised_too(self) -> None:
        depth = torch.full((1, 3, 2, 2), 255.0)
        out = MiTB5_Weights.SUNRGBD_HHA_DECUR.transforms(depth)
        expected = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224])
        torch.testing.assert_close(out[0, :2, 0, 0], expected)


class TestNames:
    def test_list(self) -> None:
        names = list_weights()
        assert len(names) == len(set(names)) == 24
        assert all(str(get_weight(name)) == name for name in names)

    def test_torchgeo_finds_ours_and_its_own(self) -> None:
        """If this fails, TorchGeo changed how it finds weights: see models/register.py."""
        assert set(list_weights()) <= {
            str(w)
            for k, e in api._model_weights.items()
            if isinstance(k, str)
            for w in e
        }
        for name in list_weights():
            assert str(torchgeo.models.get_weight(name)) == name
        own = torchgeo.models.get_weight('ResNet50_Weights.SENTINEL2_ALL_MOCO')
        assert own is torchgeo.models.ResNet50_Weights.SENTINEL2_ALL_MOCO
        assert get_weight('ResNet50_Weights.SENTINEL2_ALL_MOCO') is own
        models = torchgeo.models.list_models()
        assert {'resnet50', 'decur_resnet50', 'decur_vit_small_patch16_224'} <= set(
            models
        )
        enum = torchgeo.models.get_model_weights('decur_resnet50')
        assert enum is ResNet50_Weights
        theirs = torchgeo.models.get_model_weights('resnet50')
        assert theirs is torchgeo.models.ResNet50_Weights

    def test_registering_twice_changes_nothing(self) -> None:
        before = torchgeo.models.list_models()
        register()
        assert torchgeo.models.list_models() == before

    def test_a_torchgeo_that_keeps_no_dictionary(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api, '_model_weights', None)
        with pytest.warns(UserWarning, match=r'cannot be registered with this version'):
            register()

    def test_unknown(self) -> None:
        message = (
            r"got 'ResNet50_Weights.GEONRW_DECUR'; did you mean .*GEONRW_RGB_DECUR"
        )
        with pytest.raises(ValueError, match=message):
            get_weight('ResNet50_Weights.GEONRW_DECUR')
        with pytest.raises(ValueError, match=r"got '#'; see list_weights\(\)"):
            get_weight('#')

    @pytest.mark.parametrize('entry', ENTRIES, ids=str)
    def test_a_file_is_known_by_its_name(self, entry: Any) -> None:
        name = entry.url.rpartition('/')[2]
        assert weights_of_file(Path('x') / name) is entry
        assert weights_of_file(f'my_{name}') is None

    def test_a_hash_in_the_name_does_not_matter(self) -> None:
        found = weights_of_file('rn50_ssl4eo-s12_ms_decur_ep100.pth')
        assert found is ResNet50_Weights.SENTINEL2_ALL_DECUR


class TestResNet50:
    """The headline, with the full key set of torchvision's ResNet-50."""

    @pytest.fixture
    def states(self, publish: Publish, random_state: Make) -> dict[str, State]:
        states = {
            's1': random_state('resnet50', 2, seed=1),
            's2': random_state('resnet50', 13, seed=2),
        }
        publish(ResNet50_Weights.SENTINEL1_GRD_DECUR, states['s1'])
        publish(ResNet50_Weights.SENTINEL2_ALL_DECUR, states['s2'])
        return states

    def test_joint(
        self, states: dict[str, State], assert_loaded: Check, cache: Path
    ) -> None:
        encoder = MultimodalEncoder(
            {'s1': 2, 's2': 13}, weights=ResNet50_Weights.SENTINEL1_2_DECUR
        ).eval()
        for m in ('s1', 's2'):
            assert_loaded(encoder.encoders[m], states[m])
        images = {'s1': torch.rand(2, 2, 32, 32), 's2': torch.rand(2, 13, 32, 32)}
        with torch.no_grad():
            both = encoder(images)
            assert {m: tuple(h.shape) for m, h in both.items()} == {
                's1': (2, 2048),
                's2': (2, 2048),
            }
            for m, x in images.items():
                assert list(encoder({m: x})) == [m]
        # The joint file is never downloaded: both parts have their hash in the name.
        assert len(list(cache.iterdir())) == 2

        # TorchGeo's own task, by the name of the entry that both packages have.
        task = Classification(
            model='resnet50',
            weights=ResNet50_Weights.SENTINEL1_GRD_DECUR,
            in_channels=2,
            num_classes=3,
        )
        loaded = task.model.state_dict()
        assert all(loaded[k].equal(v) for k, v in states['s1'].items())

    def test_torchgeo_builds_a_model(
        self, publish: Publish, random_state: Make, assert_loaded: Check
    ) -> None:
        state = random_state('resnet50', 3)
        publish(ResNet50_Weights.GEONRW_RGB_DECUR, state)
        expected = {**state, 'conv1.weight': state['conv1.weight'].flip(1)}
        task = Classification(
            'resnet50', weights='ResNet50_Weights.GEONRW_RGB_DECUR', num_classes=3
        )
        loaded = task.model.state_dict()
        assert all(loaded[k].equal(v) for k, v in expected.items())
        encoder = torchgeo.models.get_model(
            'decur_resnet50', weights=ResNet50_Weights.GEONRW_RGB_DECUR
        )
        assert_loaded(encoder, expected)
        assert (
            torchgeo.models.get_model('decur_resnet50', in_chans=5).conv1.in_channels
            == 5
        )


class TestLayouts:
    def test_joint_file(
        self, publish: Publish, random_state: Make, assert_loaded: Check
    ) -> None:
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

    def test_joint_file_bare_and_local(
        self, tmp_path: Path, random_state: Make, assert_loaded: Check
    ) -> None:
        states = random_state(SMALL, 3, seed=1), random_state(SMALL, 3, seed=2)
        file = tmp_path / 'mitb2_sunrgbd_rgb_hha_decur_ep200.pth'
        torch.save(joint(*states)['model'], file)
        encoder = MultimodalEncoder({'rgb': 3, 'depth': 3}, SMALL, str(file))
        assert_loaded(encoder.encoders['depth'], states[1])
        kernel = states[0]['conv1.weight'].flip(1)
        assert encoder.encoders['rgb'].conv1.weight.equal(kernel)

    def test_joint_file_of_an_unknown_name(
        self, tmp_path: Path, random_state: Make, assert_loaded: Check
    ) -> None:
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

    def test_vision_transformer(
        self, publish: Publish, random_state: Make, assert_loaded: Check
    ) -> None:
        entry = ViTSmall16_Weights.SENTINEL2_ALL_DECUR
        state = random_state('vit_tiny_patch16_224', 13)
        publish(entry, state)
        encoder = create_encoder('vit_tiny_patch16_224', 13)
        load_weights(encoder, entry)
        assert_loaded(encoder, state)

    def test_colours_of_a_vision_transformer(
        self, publish: Publish, random_state: Make
    ) -> None:
        state = random_state('vit_tiny_patch16_224', 3)
        publish(ViTSmall16_Weights.GEONRW_RGB_DECUR, state)
        encoder = create_encoder('vit_tiny_patch16_224', 3)
        load_weights(encoder, ViTSmall16_Weights.GEONRW_RGB_DECUR)
        expected = state['patch_embed.proj.weight'].flip(1)
        assert encoder.patch_embed.proj.weight.equal(expected)

    def test_mix_transformer_with_its_head(self, publish: Publish) -> None:
        """Names of smp: there is no such encoder in timm, so the keys are compared."""
        state = {
            'patch_embed1.proj.weight': torch.rand(8, 3, 7, 7),
            'block1.0.attn.q.weight': torch.rand(8, 8),
            'norm4.bias': torch.rand(8),
            'head.weight': torch.rand(5, 8),
            'head.bias': torch.rand(5),
        }
        publish(MiTB2_Weights.SUNRGBD_RGB_DECUR, state)
        encoder = nn.Module()
        encoder.patch_embed1 = nn.Module()
        encoder.patch_embed1.proj = nn.Conv2d(3, 8, 7, bias=False)
        encoder.norm4 = nn.Module()
        encoder.norm4.bias = nn.Parameter(torch.zeros(8))
        message = r"0 missing \[\], 1 unexpected \['block1\.0\.attn\.q\.weight'\]"
        with pytest.raises(ValueError, match=message):
            load_weights(encoder, MiTB2_Weights.SUNRGBD_RGB_DECUR)
        with pytest.warns(UserWarning, match='loaded 2 parameters, 0 missing'):
            load_weights(encoder, MiTB2_Weights.SUNRGBD_RGB_DECUR, strict=False)
        kernel = state['patch_embed1.proj.weight'].flip(1)
        assert encoder.patch_embed1.proj.weight.equal(kernel)

    @pytest.mark.parametrize('channels', [1, 3])
    def test_elevation_of_one_or_three_channels(
        self, publish: Publish, random_state: Make, channels: int
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

    def test_attention_of_a_joint_file(
        self, publish: Publish, random_state: Make, assert_loaded: Check
    ) -> None:
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
        self, publish: Publish, random_state: Make, assert_loaded: Check, tmp_path: Path
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

    def test_file_of_other_encoders(self, publish: Publish, random_state: Make) -> None:
        entry = ResNet50_Weights.GEONRW_RGB_DEM_DECUR
        publish(entry, random_state(SMALL, 3))
        message = r"encoders of \['rgb', 'dem'\] under .*, found \[''\]"
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 3), entry, modality='rgb')

    def test_another_model(self, publish: Publish, random_state: Make) -> None:
        publish(self.entry, random_state(SMALL, 1))
        with pytest.raises(ValueError, match=r'found another model: \d+ missing'):
            load_weights(create_encoder('mobilenetv3_small_050', 1), self.entry)

    def test_other_number_of_bands(self, publish: Publish, random_state: Make) -> None:
        entry = ViTSmall16_Weights.SENTINEL1_GRD_DECUR
        publish(entry, random_state(SMALL, 2))
        message = r"name the bands of the images \(the weights have \['VV', 'VH'\]\)"
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 3), entry)

    def test_other_modalities(self, publish: Publish, random_state: Make) -> None:
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
