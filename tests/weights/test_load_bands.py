"""Check weights that are adapted to bands, or loaded into several encoders."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.models._api import Weights

from tests.helpers.encoder_states import SMALL, State, assert_loaded, random_state
from torchgeo_decur.modalities import MODALITIES
from torchgeo_decur.models import (
    MultimodalEncoder,
    MultimodalPyramid,
    create_encoder,
    load_weights,
    save_encoder,
)
from torchgeo_decur.tasks import LateFusionClassification, LateFusionSegmentation


class TestBands:
    """Check that the first convolution is adapted to named bands."""

    known = ('B2', 'B3', 'B4', 'B8A')

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        encoder = create_encoder(SMALL, 4)
        encoder.load_state_dict(random_state(channels=4))
        options = {'bands': self.known, 'modality': 's2'}
        return save_encoder(encoder, tmp_path / 's2', SMALL, options)[1]

    @pytest.mark.parametrize(
        ('bands', 'index', 'changes'),
        [
            (['B2', 'B3', 'B4', 'B8A'], [0, 1, 2, 3], []),
            (['B02', 'b3', 'B04', 'B8a'], [0, 1, 2, 3], []),
            (
                ['B4', 'B3', 'B2', 'B8A'],
                [2, 1, 0, 3],
                [r"reordered the bands \['B2', .*\] to \['B4', 'B3', 'B2', 'B8A'\]"],
            ),
            (['B3', 'B8A'], [1, 3], [r"dropped the unused bands \['B2', 'B4'\]"]),
            (
                ['B2', 'B3', 'B4', 'B8A', 'B9'],
                [0, 1, 2, 3, None],
                [r"initialized the new bands \['B9'\] with zeros"],
            ),
            (
                ['B11', 'B8A', 'B2'],
                [None, 3, 0],
                [
                    'reordered the bands',
                    'initialized the new bands',
                    r"dropped the unused bands \['B3', 'B4'\]",
                ],
            ),
        ],
        ids=['same', 'spelling', 'order', 'fewer', 'new', 'order, new and fewer'],
    )
    def test_adapts_by_name(
        self,
        file: Path,
        bands: list[str],
        index: list[int | None],
        changes: list[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        encoder = create_encoder(SMALL, len(bands))
        with caplog.at_level('INFO'):
            report = load_weights(encoder, file, bands=bands)['']
        kernel = random_state(channels=4)['conv_stem.weight']
        for i, source in enumerate(index):
            expected = (
                torch.zeros_like(kernel[:, 0]) if source is None else kernel[:, source]
            )
            assert encoder.conv_stem.weight[:, i].equal(expected)
        assert len(report.changes) == len(changes)
        for said, change in zip(report.changes, changes, strict=True):
            assert re.search(change, said)
            assert said in caplog.text
        assert report.loaded == len(encoder.state_dict())

    def test_adapted_encoder_gives_the_features_of_the_bands(self, file: Path) -> None:
        first, second = create_encoder(SMALL, 4).eval(), create_encoder(SMALL, 4).eval()
        load_weights(first, file)
        load_weights(second, file, bands=['B8A', 'B4', 'B3', 'B2'])
        x = torch.rand(2, 4, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(first(x), second(x.flip(1)))

    def test_keeps_other_parameters(self, file: Path) -> None:
        encoder = create_encoder(SMALL, 2)
        load_weights(encoder, file, bands=['B3', 'B4'])
        state = random_state(channels=4)
        actual = encoder.state_dict()
        assert all(
            actual[k].equal(v) for k, v in state.items() if k != 'conv_stem.weight'
        )

    @pytest.mark.parametrize(
        ('channels', 'bands', 'message'),
        [
            (4, ['B2'], r"bands must name the 4 channels of the encoder, got \['B2'\]"),
            (
                2,
                ['VV', 'VH'],
                r'must include at least one band of the weights .*, got \[',
            ),
            (
                3,
                None,
                r"set the argument bands to the bands of the images \(the weights have \['B2', 'B3'",
            ),
        ],
    )
    def test_rejects_invalid_bands(
        self, file: Path, channels: int, bands: list[str] | None, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, channels), file, bands=bands)

    def test_rejects_weights_without_names(self, tmp_path: Path) -> None:
        torch.save(random_state(channels=4), tmp_path / 'x.pt')
        message = r'expected weights that name their 4 bands, found no names; remove'
        with pytest.raises(ValueError, match=message):
            load_weights(
                create_encoder(SMALL, 2), tmp_path / 'x.pt', bands=['B2', 'B3']
            )


class TestBandsOfAModel:
    """Check that every class with encoders adapts thirteen bands to four."""

    wanted: ClassVar = ['B02', 'B03', 'B04', 'B08']

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        encoder = create_encoder('test_resnet', 13)
        known = MODALITIES['sentinel2_l1c'].bands
        options = {'bands': known, 'modality': 's2'}
        return save_encoder(encoder, tmp_path / 's2', 'test_resnet', options)[1]

    @pytest.mark.parametrize(
        'build',
        [
            lambda **options: MultimodalEncoder(model='test_resnet', **options),
            lambda **options: MultimodalPyramid(model='test_resnet', **options),
            lambda **options: (
                LateFusionClassification(
                    model='test_resnet', num_classes=3, **options
                ).model.encoders
            ),
            lambda **options: (
                LateFusionSegmentation(
                    backbone='test_resnet', num_classes=3, **options
                ).model.encoders
            ),
        ],
        ids=['encoder', 'pyramid', 'classification', 'segmentation'],
    )
    def test_adapts_the_first_convolution(
        self, file: Path, build: Callable[..., Any]
    ) -> None:
        made = build(
            modalities={'s1': 2, 's2': 4},
            weights={'s2': str(file)},
            bands={'s2': self.wanted},
        )
        kernel = load_file(file)['conv1.0.weight']
        bands = list(MODALITIES['sentinel2_l1c'].bands)
        index = [bands.index(b.replace('B0', 'B')) for b in self.wanted]
        assert index == [1, 2, 3, 7]
        assert made.encoders['s2'].conv1[0].weight.equal(kernel[:, index])

    @pytest.mark.parametrize(
        ('bands', 'modality'), [({'s2': ['B2']}, 's2'), ({'s3': ['B2']}, 's3')]
    )
    def test_rejects_invalid_bands(
        self, bands: dict[str, list[str]], modality: str
    ) -> None:
        message = rf"one name per channel of {modality} in .*, got \['B2'\]"
        with pytest.raises(ValueError, match=message):
            MultimodalEncoder({'s2': 4}, 'test_resnet', bands=bands)


class TestSeveral:
    """Check that several encoders are loaded at once, by name of modality."""

    modalities: ClassVar = {'s1': 2, 's2': 4}

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        states = {m: random_state(channels=c) for m, c in self.modalities.items()}
        named = {
            f'model.encoders.encoders.{m}.{k}': v
            for m, state in states.items()
            for k, v in state.items()
        }
        records = {'s2': {'bands': ['B2', 'B3', 'B4', 'B8']}}
        content = {'state_dict': named, 'encoder_modalities': records}
        torch.save(content, tmp_path / 'last.ckpt')
        return tmp_path / 'last.ckpt'

    def test_loads_a_checkpoint_of_a_task(self, file: Path) -> None:
        encoder = MultimodalEncoder(self.modalities, SMALL, str(file))
        for m, channels in self.modalities.items():
            assert_loaded(encoder.encoders[m], random_state(channels=channels))

    def test_loads_some_encoders_of_a_checkpoint(self, file: Path) -> None:
        encoder = MultimodalEncoder({'s2': 4}, SMALL, str(file))
        assert_loaded(encoder.encoders['s2'], random_state(channels=4))

    def test_adapts_bands_of_some(self, file: Path) -> None:
        encoder = MultimodalEncoder({'s1': 2, 's2': 1}, SMALL)
        reports = load_weights(encoder, file, bands={'s2': ['B8']})
        assert reports['s1'].changes == ()
        kernel = random_state(channels=4)['conv_stem.weight'][:, 3:]
        assert encoder.encoders['s2'].conv_stem.weight.equal(kernel)

    def test_loads_weights_for_each(self, file: Path, tmp_path: Path) -> None:
        torch.save(random_state(seed=5), tmp_path / 's1.pt')
        encoder = MultimodalEncoder(self.modalities, SMALL)
        start = encoder.encoders['s2'].conv_stem.weight.clone()
        assert list(load_weights(encoder, {'s1': tmp_path / 's1.pt'})) == ['s1']
        assert_loaded(encoder.encoders['s1'], random_state(seed=5))
        assert encoder.encoders['s2'].conv_stem.weight.equal(start)

    def test_an_error_changes_nothing(self, file: Path) -> None:
        encoder = MultimodalEncoder({'s1': 2, 's2': 3}, SMALL)
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        with pytest.raises(ValueError, match='1 of another shape'):
            load_weights(encoder, file)
        assert_loaded(encoder, before)

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            (
                {'bands': ['B2']},
                r"must be a mapping with the keys \['s1', 's2'\], got \['B2'\]",
            ),
            (
                {'bands': {'s3': ['B2']}},
                r"keys of bands must be among the encoders .*, got \['s3'\]",
            ),
            (
                {'weights': {'s3': 'x.pt'}},
                r"keys of weights must be among the encoders .* got \['s3'\]",
            ),
            ({'weights': 3}, r'weights must be a weight enum, .* got int'),
        ],
    )
    def test_rejects_invalid_bands(
        self, file: Path, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            load_weights(
                MultimodalEncoder(self.modalities, SMALL),
                **{'weights': file, **options},
            )


class TestNotStrict:
    def test_loads_what_fits(self, tmp_path: Path) -> None:
        state = random_state()
        del state['bn1.weight']
        torch.save({**state, 'extra': torch.rand(2)}, tmp_path / 'x.pt')
        encoder = create_encoder(SMALL, 2)
        message = r"1 are missing \['bn1\.weight'\] and 1 are unexpected \['extra'\]"
        with pytest.warns(UserWarning, match=message):
            report = load_weights(encoder, tmp_path / 'x.pt', strict=False)['']
        assert report.missing == ('bn1.weight',)
        assert report.unexpected == ('extra',)
        assert encoder.bn1.bias.equal(state['bn1.bias'])

    def test_rejects_weights_of_which_nothing_fits(self, tmp_path: Path) -> None:
        torch.save({'extra': torch.rand(2)}, tmp_path / 'x.pt')
        with pytest.raises(ValueError, match='found another model'):
            load_weights(create_encoder(SMALL, 2), tmp_path / 'x.pt', strict=False)


class OwnReader(WeightsEnum):
    """Enum of weights that modify the file of their URL."""

    ENTRY = Weights(
        'https://nowhere.invalid/x.pth', nn.Identity(), {'bands': ['a', 'b']}
    )

    def get_state_dict(self, *args: Any, **kwargs: Any) -> State:
        assert kwargs['weights_only'] and kwargs['check_hash']
        return random_state()


def test_uses_the_reader_of_foreign_weights() -> None:
    encoder = create_encoder(SMALL, 1)
    load_weights(encoder, OwnReader.ENTRY, bands=['b'])
    kernel = random_state()['conv_stem.weight'][:, 1:]
    assert encoder.conv_stem.weight.equal(kernel)
