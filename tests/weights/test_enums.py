"""Check published weights, their names and their download."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchgeo.models
from torchgeo.models import api
from torchgeo.tasks import Classification

from tests.helpers.encoder_states import State, assert_loaded, random_state
from torchgeo_decur.models import (
    MiTB2_Weights,
    MultimodalEncoder,
    ResNet50_Weights,
    get_weight,
    list_weights,
    register,
)
from torchgeo_decur.transforms import ScaleToUnit
from torchgeo_decur.weights.enums import WEIGHTS, weights_of_file

ENTRIES = [entry for enum in WEIGHTS for entry in enum]


def _pixel(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def _imagenet(*values: float) -> list[float]:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return [(v / 255 - m) / s for v, m, s in zip(values, mean, std, strict=True)]


# Pixel as our datasets deliver it, and what the published encoder saw, in its order.
_ELEVATION = torch.arange(100.0).reshape(1, 10, 10)
_PIXELS = {
    'sentinel1_grd': (_pixel(-12.59, -20.26 + 5.91), [0.5, 0.75]),
    'sentinel2_l1c': (
        _pixel(
            *(1612.9, 1397.6, 1322.3 - 878.7, 1373.1, 1561.0, 2108.4, 2390.7, 1e5),
            *(2581.0, 837.7, 22.0 + 47.5, 2195.2, -1e5),
        ),
        [0.5, 0.5, 0.25, *[0.5] * 4, 1.0, 0.5, 0.5, 0.75, 0.5, 0.0],
    ),
    'geonrw_rgb': (_pixel(255, 128, 0), [0.0, 0.502, 1.0]),
    'geonrw_dem': (_ELEVATION, [0.0]),
    # cv2.imread reverses the channels of a PNG, of photographs and of coded depth.
    'sunrgbd_rgb': (_pixel(255, 128, 0), _imagenet(0, 128, 255)),
    'sunrgbd_hha': (_pixel(255, 128, 0), _imagenet(0, 128, 255)),
}

Publish = Callable[[Any, Any], Path]


class TestEntries:
    def test_every_published_file_has_an_entry(self) -> None:
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
    def test_agrees_with_entries_of_torchgeo(self, name: str) -> None:
        theirs = torchgeo.models.ResNet50_Weights[name]
        ours = ResNet50_Weights[name]
        assert ours.url == theirs.url
        shared = set(theirs.meta) - {'bands'}
        assert {k: ours.meta[k] for k in shared} == {k: theirs.meta[k] for k in shared}
        bands = [b.upper() for b in theirs.meta['bands']]
        assert ours.meta['bands'] == bands

    @pytest.mark.parametrize('entry', ENTRIES, ids=str)
    def test_meta_is_consistent(self, entry: Any) -> None:
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

    def test_names_the_order_of_colours_in_the_file(self) -> None:
        meta = MiTB2_Weights.SUNRGBD_RGB_HHA_DECUR.meta
        assert meta['channel_order']['rgb'] == ['B', 'G', 'R']
        assert meta['bands']['rgb'] == ['R', 'G', 'B']
        assert meta['channel_order']['hha'] == ['angle', 'height', 'disparity']
        assert meta['bands']['hha'] == ['disparity', 'height', 'angle']

    def test_transforms_scale_as_in_pretraining(self) -> None:
        x = torch.rand(2, 2, 8, 8) * -30
        batch = {'image_s1': x, 'image_s2': torch.rand(2, 13, 8, 8) * 4000, 'label': 3}
        scaled = ResNet50_Weights.SENTINEL1_2_DECUR.transforms(batch)
        assert scaled['image_s1'].equal(ScaleToUnit('sentinel1_grd')(x))
        assert scaled['image_s2'].amax() <= 1
        assert scaled['label'] == 3
        single = ResNet50_Weights.SENTINEL1_GRD_DECUR.transforms(x)
        assert single.equal(scaled['image_s1'])

    @pytest.mark.parametrize('entry', ENTRIES, ids=str)
    def test_pixels_meet_the_weights_as_in_pretraining(self, entry: Any) -> None:
        """Compare with the published loaders, from a pixel to the first convolution."""
        names = entry.meta['modalities']
        pixels = {m: _PIXELS[entry.meta['sensors'][m]] for m in names}
        images = {f'image_{m}': x[None] for m, (x, _) in pixels.items()}
        several = len(names) > 1
        found = entry.transforms(images if several else images[f'image_{names[0]}'])
        for m, (_, expected) in pixels.items():
            # In the order of the file's kernels, which reading puts in that of the bands.
            bands, order = entry.meta['bands'], entry.meta['channel_order']
            bands, order = (bands[m], order[m]) if several else (bands, order)
            image = found[f'image_{m}'] if several else found
            seen = image[0, [bands.index(b) for b in order], 0, 0]
            torch.testing.assert_close(seen, torch.tensor(expected), rtol=0, atol=0.01)


class TestNames:
    def test_lists_names_of_all_entries(self) -> None:
        names = list_weights()
        assert len(names) == len(set(names)) == 24
        assert all(str(get_weight(name)) == name for name in names)

    def test_torchgeo_finds_ours_and_its_own(self) -> None:
        """Fail if TorchGeo changes how it finds weights; see models/torchgeo_registry.py."""
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

    def test_logs_a_torchgeo_without_dictionaries(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(api, '_model_weights', None)
        register()
        assert 'cannot register the weights' in caplog.text

    def test_suggests_names_for_an_unknown_one(self) -> None:
        message = (
            r"got 'ResNet50_Weights.GEONRW_DECUR'; did you mean .*GEONRW_RGB_DECUR"
        )
        with pytest.raises(ValueError, match=message):
            get_weight('ResNet50_Weights.GEONRW_DECUR')
        with pytest.raises(ValueError, match=r"got '#'; see list_weights\(\)"):
            get_weight('#')

    @pytest.mark.parametrize('entry', ENTRIES, ids=str)
    def test_recognises_a_file_by_its_name(self, entry: Any) -> None:
        name = entry.url.rpartition('/')[2]
        assert weights_of_file(Path('x') / name) is entry
        assert weights_of_file(f'my_{name}') is None

    def test_ignores_a_hash_in_the_name(self) -> None:
        found = weights_of_file('rn50_ssl4eo-s12_ms_decur_ep100.pth')
        assert found is ResNet50_Weights.SENTINEL2_ALL_DECUR


class TestResNet50:
    """Return joint Sentinel weights, with all keys of torchvision's ResNet-50."""

    @pytest.fixture
    def states(self, publish: Publish) -> dict[str, State]:
        states = {
            's1': random_state('resnet50', 2, seed=1),
            's2': random_state('resnet50', 13, seed=2),
        }
        publish(ResNet50_Weights.SENTINEL1_GRD_DECUR, states['s1'])
        publish(ResNet50_Weights.SENTINEL2_ALL_DECUR, states['s2'])
        return states

    def test_loads_joint_weights(self, states: dict[str, State], cache: Path) -> None:
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
        alone = MultimodalEncoder(
            {'s2': 13}, weights=ResNet50_Weights.SENTINEL1_2_DECUR
        )
        assert_loaded(alone.encoders['s2'], states['s2'])
        # The joint file is never downloaded: both parts have their hash in the name.
        assert len(list(cache.iterdir())) == 2

        # TorchGeo's builder gives joint weights an encoder for each modality.
        built = torchgeo.models.get_model(
            'decur_resnet50', weights=ResNet50_Weights.SENTINEL1_2_DECUR
        )
        assert_loaded(built.encoders['s1'], states['s1'])

        task = Classification(
            model='resnet50',
            weights=ResNet50_Weights.SENTINEL1_GRD_DECUR,
            in_channels=2,
            num_classes=3,
        )
        loaded = task.model.state_dict()
        assert all(loaded[k].equal(v) for k, v in states['s1'].items())

    def test_torchgeo_builds_a_model(self, publish: Publish) -> None:
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
