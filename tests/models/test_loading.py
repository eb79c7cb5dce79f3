import hashlib
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.torch
import timm
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torchgeo.models import ResNet18_Weights

from torchgeo_decur.models import (
    MultimodalEncoder,
    create_encoder,
    load_weights,
    save_encoder,
)

SMALL = 'mobilenetv3_small_050'

State = dict[str, Tensor]


def random_state(
    model: str = SMALL, channels: int = 2, seed: int = 0, **options: Any
) -> State:
    """Parameters and statistics, all of them different from a fresh model's."""
    generator = torch.Generator().manual_seed(seed)
    options = {'num_classes': 0, **options}
    state = timm.create_model(model, in_chans=channels, **options).state_dict()
    return {
        k: torch.rand(v.shape, generator=generator)
        if v.is_floating_point()
        else torch.tensor(seed + 7)
        for k, v in state.items()
    }


def with_prefix(prefix: str, state: State) -> State:
    return {f'{prefix}{k}': v for k, v in state.items()}


def assert_loaded(encoder: nn.Module, state: State) -> None:
    actual = encoder.state_dict()
    assert list(actual) == list(state)
    assert all(actual[k].equal(state[k]) for k in state)


class TestFiles:
    def test_layout_of_torchgeo(self, tmp_path: Path) -> None:
        state = random_state('resnet18')
        checkpoint = {
            'hyper_parameters': {'model': 'resnet18'},
            'state_dict': with_prefix('model.', state),
        }
        torch.save(checkpoint, tmp_path / 's1.pt')
        encoder = create_encoder('resnet18', 2)
        load_weights(encoder, tmp_path / 's1.pt')
        assert_loaded(encoder, state)

    def test_safetensors(self, tmp_path: Path) -> None:
        state = random_state()
        safetensors.torch.save_file(state, tmp_path / 's1.safetensors')
        encoder = create_encoder(SMALL, 2)
        load_weights(encoder, str(tmp_path / 's1.safetensors'))
        assert_loaded(encoder, state)

    @pytest.mark.parametrize('modality', ['s1', 's11', 's2'])
    def test_checkpoint_of_several_modalities(
        self, tmp_path: Path, modality: str
    ) -> None:
        states = {m: random_state(seed=i) for i, m in enumerate(['s2', 's11', 's1'])}
        checkpoint: dict[str, Any] = {
            'epoch': 3,
            'optimizer_states': [],
            'state_dict': {},
        }
        for m, state in states.items():
            checkpoint['state_dict'] |= with_prefix(f'encoders.encoders.{m}.', state)
            projector = {f'projectors.{m}.layers.0.weight': torch.rand(4, 4)}
            checkpoint['state_dict'] |= projector
        torch.save(checkpoint, tmp_path / 'last.ckpt')
        encoder = create_encoder(SMALL, 2)
        load_weights(encoder, tmp_path / 'last.ckpt', modality)
        assert_loaded(encoder, states[modality])

    @pytest.mark.parametrize('model', ['resnet18', 'vit_tiny_patch16_224', SMALL])
    def test_classifier_is_left_out(self, tmp_path: Path, model: str) -> None:
        state = random_state(model, 2, num_classes=5)
        torch.save(state, tmp_path / 'bare.pth')
        encoder = create_encoder(model, 2)
        expected = {k: v for k, v in state.items() if k in encoder.state_dict()}
        assert len(state) == len(expected) + 2
        load_weights(encoder, tmp_path / 'bare.pth')
        assert_loaded(encoder, expected)

    @pytest.mark.parametrize('prefix', ['model.', 'backbone.', ''])
    @pytest.mark.parametrize('key', ['state_dict', 'model', None])
    def test_keys_and_prefixes(
        self, tmp_path: Path, key: str | None, prefix: str
    ) -> None:
        state = random_state()
        named = with_prefix(prefix, state)
        torch.save({key: named, 'epoch': 1} if key else named, tmp_path / 'x.pt')
        encoder = create_encoder(SMALL, 2)
        load_weights(encoder, tmp_path / 'x.pt')
        assert_loaded(encoder, state)

    def test_other_entries_beside_tensors(self, tmp_path: Path) -> None:
        state = random_state()
        torch.save({**state, 'epoch': 3, 7: 'seven'}, tmp_path / 'x.pt')
        encoder = create_encoder(SMALL, 2)
        load_weights(encoder, tmp_path / 'x.pt')
        assert_loaded(encoder, state)

    def test_loaded_tensors_are_copies(self, tmp_path: Path) -> None:
        torch.save(random_state(), tmp_path / 'x.pt')
        first, second = create_encoder(SMALL, 2), create_encoder(SMALL, 2)
        load_weights(first, tmp_path / 'x.pt')
        load_weights(second, tmp_path / 'x.pt')
        with torch.no_grad():
            first.conv_stem.weight.zero_()
        assert second.conv_stem.weight.ne(0).any()


class TestEnum:
    weight = ResNet18_Weights.SENTINEL2_RGB_MOCO

    @pytest.fixture
    def publish(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[State], Path]:
        """Put weights where the enum downloads them from, by their hash."""

        def publish(state: State) -> Path:
            file = tmp_path / 'weights.pth'
            torch.save(state, file)
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            file = file.rename(tmp_path / f'resnet18-{digest[:8]}.pth')
            monkeypatch.setattr(self.weight.value, 'url', file.as_uri())
            return file

        monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
        return publish

    def test_by_name_and_by_value(self, publish: Callable[[State], Path]) -> None:
        state = random_state('resnet18', 3)
        file = publish(
            {**state, 'fc.weight': torch.rand(5, 512), 'fc.bias': torch.rand(5)}
        )
        encoder = create_encoder('resnet18', 3)
        load_weights(encoder, 'ResNet18_Weights.SENTINEL2_RGB_MOCO')
        assert_loaded(encoder, state)

        # From now on it is in the cache.
        file.unlink()
        again = create_encoder('resnet18', 3)
        load_weights(again, self.weight)
        assert_loaded(again, state)

    def test_another_hash(self, publish: Callable[[State], Path]) -> None:
        file = publish({'x': torch.zeros(1)})
        torch.save({'x': torch.ones(1)}, file)
        with pytest.raises(
            ValueError, match=r'truncated or altered and has been removed'
        ):
            load_weights(create_encoder('resnet18', 3), self.weight)

    def test_other_channels(self, publish: Callable[[State], Path]) -> None:
        publish(random_state('resnet18', 3))
        message = (
            r'ResNet18_Weights\.SENTINEL2_RGB_MOCO: .* 1 of another shape '
            r"\{'conv1\.weight': \(\(64, 13, 7, 7\), \(64, 3, 7, 7\)\)\}"
        )
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder('resnet18', 13), self.weight)


class TestBands:
    """The first convolution, adapted by names of bands."""

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
                [
                    r"put the bands \['B2', .*\] in the order \['B4', 'B3', 'B2', 'B8A'\]"
                ],
            ),
            (['B3', 'B8A'], [1, 3], [r"bands \['B2', 'B4'\] .* are dropped"]),
            (
                ['B2', 'B3', 'B4', 'B8A', 'B9'],
                [0, 1, 2, 3, None],
                [r"bands \['B9'\] are new and start from zero"],
            ),
            (
                ['B11', 'B8A', 'B2'],
                [None, 3, 0],
                [
                    'put the bands',
                    'are new',
                    r"\['B3', 'B4'\] of the weights are dropped",
                ],
            ),
        ],
    )
    def test_by_name(
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

    def test_features_are_those_of_the_bands(self, file: Path) -> None:
        first, second = create_encoder(SMALL, 4).eval(), create_encoder(SMALL, 4).eval()
        load_weights(first, file)
        load_weights(second, file, bands=['B8A', 'B4', 'B3', 'B2'])
        x = torch.rand(2, 4, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(first(x), second(x.flip(1)))

    def test_the_others_stay_as_they_are(self, file: Path) -> None:
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
            (2, ['VV', 'VH'], r'must share at least one .*, got \['),
            (3, None, r"name the bands of the images \(the weights have \['B2', 'B3'"),
        ],
    )
    def test_errors(
        self, file: Path, channels: int, bands: list[str] | None, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, channels), file, bands=bands)

    def test_weights_without_names(self, tmp_path: Path) -> None:
        torch.save(random_state(channels=4), tmp_path / 'x.pt')
        message = r'expected weights that name their 4 bands, found none; they cannot'
        with pytest.raises(ValueError, match=message):
            load_weights(
                create_encoder(SMALL, 2), tmp_path / 'x.pt', bands=['B2', 'B3']
            )


class TestSeveral:
    """Several encoders at once, by name of modality."""

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

    def test_checkpoint_of_a_task(self, file: Path) -> None:
        encoder = MultimodalEncoder(self.modalities, SMALL, str(file))
        for m, channels in self.modalities.items():
            assert_loaded(encoder.encoders[m], random_state(channels=channels))

    def test_fewer_than_the_checkpoint_has(self, file: Path) -> None:
        encoder = MultimodalEncoder({'s2': 4}, SMALL, str(file))
        assert_loaded(encoder.encoders['s2'], random_state(channels=4))

    def test_bands_of_some(self, file: Path) -> None:
        encoder = MultimodalEncoder({'s1': 2, 's2': 1}, SMALL)
        reports = load_weights(encoder, file, bands={'s2': ['B8']})
        assert reports['s1'].changes == ()
        kernel = random_state(channels=4)['conv_stem.weight'][:, 3:]
        assert encoder.encoders['s2'].conv_stem.weight.equal(kernel)

    def test_weights_for_each(self, file: Path, tmp_path: Path) -> None:
        torch.save(random_state(seed=5), tmp_path / 's1.pt')
        encoder = MultimodalEncoder(self.modalities, SMALL)
        start = encoder.encoders['s2'].conv_stem.weight.clone()
        assert list(load_weights(encoder, {'s1': tmp_path / 's1.pt'})) == ['s1']
        assert_loaded(encoder.encoders['s1'], random_state(seed=5))
        assert encoder.encoders['s2'].conv_stem.weight.equal(start)

    def test_nothing_is_changed_by_an_error(self, file: Path) -> None:
        encoder = MultimodalEncoder({'s1': 2, 's2': 3}, SMALL)
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        with pytest.raises(ValueError, match='1 of another shape'):
            load_weights(encoder, file)
        assert_loaded(encoder, before)

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'bands': ['B2']}, r"must be a mapping with \['s1', 's2'\], got \['B2'\]"),
            ({'bands': {'s3': ['B2']}}, r"bands must name encoders .*, got \['s3'\]"),
            (
                {'weights': {'s3': 'x.pt'}},
                r"weights must name encoders .* got \['s3'\]",
            ),
            ({'weights': 3}, r'weights must be a weight enum, .* got int'),
        ],
    )
    def test_errors(self, file: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_weights(
                MultimodalEncoder(self.modalities, SMALL),
                **{'weights': file, **options},
            )


class TestNotStrict:
    def test_what_fits_is_loaded(self, tmp_path: Path) -> None:
        state = random_state()
        del state['bn1.weight']
        torch.save({**state, 'extra': torch.rand(2)}, tmp_path / 'x.pt')
        encoder = create_encoder(SMALL, 2)
        message = r"1 missing \['bn1\.weight'\], 1 unexpected \['extra'\]"
        with pytest.warns(UserWarning, match=message):
            report = load_weights(encoder, tmp_path / 'x.pt', strict=False)['']
        assert report.missing == ('bn1.weight',)
        assert report.unexpected == ('extra',)
        assert encoder.bn1.bias.equal(state['bn1.bias'])

    def test_nothing_fits(self, tmp_path: Path) -> None:
        torch.save({'extra': torch.rand(2)}, tmp_path / 'x.pt')
        with pytest.raises(ValueError, match='found another model'):
            load_weights(create_encoder(SMALL, 2), tmp_path / 'x.pt', strict=False)


class Code:
    """Makes a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def write_truncated(file: Path) -> None:
    torch.save(random_state(), file)
    file.write_bytes(file.read_bytes()[:-4000])


def write_truncated_safetensors(file: Path) -> None:
    safetensors.torch.save_file(random_state(), file)
    file.write_bytes(file.read_bytes()[:-4000])


def write_page(file: Path) -> None:
    file.write_text('<!DOCTYPE html><html><body>Not found</body></html>')


def write_noise(file: Path) -> None:
    """What torch.load takes for text that is not UTF-8, which is a ValueError to it."""
    file.write_bytes(b'X\x01\x00\x00\x00\xe9.')


def write_reference(file: Path) -> None:
    """What torch.load takes for a reference to nothing, a KeyError to it."""
    file.write_bytes(b'h\x07.')


class TestErrors:
    @pytest.mark.parametrize(
        'name', ['ResNet18_Weights.SENTINEL9', 'missing.pt', '', 'resnet18']
    )
    def test_unknown_name(self, name: str) -> None:
        message = f'weights must be a weight enum, the name of one .* got {name!r}'
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 2), name)

    def test_missing_path(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r'missing\.pt'):
            load_weights(create_encoder(SMALL, 2), tmp_path / 'missing.pt')

    @pytest.mark.parametrize(
        ('name', 'write'),
        [
            ('cut.pt', write_truncated),
            ('cut.safetensors', write_truncated_safetensors),
            ('page.pth', write_page),
            ('page.safetensors', write_page),
            ('noise.pth', write_noise),
            ('reference.pth', write_reference),
            ('empty.pt', Path.touch),
            ('folder.pt', Path.mkdir),
        ],
    )
    def test_no_checkpoint(
        self, tmp_path: Path, name: str, write: Callable[[Path], None]
    ) -> None:
        write(tmp_path / name)
        message = rf'{name}: expected a checkpoint of tensors, found a file that cannot'
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 2), tmp_path / name)

    @pytest.mark.parametrize('content', [[1, 2], {'a': 1}, {'state_dict': {}}, 'text'])
    def test_no_tensors(self, tmp_path: Path, content: Any) -> None:
        torch.save(content, tmp_path / 'x.pt')
        with pytest.raises(ValueError, match=r'x\.pt: .* found none in it'):
            load_weights(create_encoder(SMALL, 2), tmp_path / 'x.pt')

    @pytest.mark.parametrize('save', [torch.save, None])
    def test_code_is_never_run(self, tmp_path: Path, save: Any) -> None:
        file, made = tmp_path / 'evil.pt', tmp_path / 'made'
        content = {**random_state(), 'evil': Code(made)}
        if save is None:
            file.write_bytes(pickle.dumps({'evil': Code(made)}, protocol=2))
        else:
            save(content, file)
        encoder = create_encoder(SMALL, 2)
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        with pytest.raises(
            ValueError, match=r'evil\.pt: .* or hold code, which is never'
        ):
            load_weights(encoder, file)
        assert not made.exists()
        assert_loaded(encoder, before)

    @pytest.mark.parametrize(
        ('model', 'channels', 'message'),
        [
            ('resnet18', 2, r'x\.pt: .* of s1, found another model: \d+ missing'),
            (
                SMALL,
                3,
                r"0 missing \[\], 0 unexpected \[\], 1 of another shape \{'conv_stem",
            ),
            (SMALL, 1, r'set model and number of channels to those of the weights'),
        ],
    )
    def test_another_model(
        self, tmp_path: Path, model: str, channels: int, message: str
    ) -> None:
        torch.save(random_state(model, channels), tmp_path / 'x.pt')
        encoder = create_encoder(SMALL, 2)
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            load_weights(encoder, tmp_path / 'x.pt', modality='s1')
        assert_loaded(encoder, before)

    @pytest.mark.parametrize('change', ['missing', 'unexpected'])
    def test_one_parameter(self, tmp_path: Path, change: str) -> None:
        state = random_state()
        if change == 'missing':
            del state['bn1.weight']
        else:
            state['bn9.weight'] = torch.zeros(1)
        torch.save(state, tmp_path / 'x.pt')
        message = rf"1 {change} \['bn[19]\.weight'\]"
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 2), tmp_path / 'x.pt')

    def test_modality_that_the_checkpoint_does_not_have(self, tmp_path: Path) -> None:
        state = with_prefix('encoders.encoders.s1.', random_state())
        torch.save({'state_dict': state}, tmp_path / 'x.ckpt')
        with pytest.raises(
            ValueError, match=r"x\.ckpt: .* of dem, found those of \['s1'\]"
        ):
            load_weights(create_encoder(SMALL, 2), tmp_path / 'x.ckpt', modality='dem')


class TestSaveEncoder:
    @pytest.fixture
    def encoder(self) -> nn.Module:
        encoder = create_encoder(SMALL, 2)
        encoder.load_state_dict(random_state())
        return encoder.to(memory_format=torch.channels_last)

    @pytest.fixture
    def files(self, encoder: nn.Module, tmp_path: Path) -> list[Path]:
        metadata = {'bands': ['VV', 'VH'], 'unit': 'dB'}
        return save_encoder(encoder, tmp_path / 'out' / 's1.v2', SMALL, metadata)

    def test_both_layouts_are_read_back(
        self, encoder: nn.Module, files: list[Path]
    ) -> None:
        assert [file.name for file in files] == ['s1.v2.pt', 's1.v2.safetensors']
        assert sorted(files[0].parent.iterdir()) == files
        for file in files:
            fresh = create_encoder(SMALL, 2)
            load_weights(fresh, file)
            assert_loaded(fresh, encoder.state_dict())

    def test_layout_of_torchgeo(self, encoder: nn.Module, files: list[Path]) -> None:
        checkpoint = torch.load(files[0], weights_only=True)
        assert checkpoint['hyper_parameters'] == {'model': SMALL}
        expected = with_prefix('model.', encoder.state_dict())
        assert list(checkpoint['state_dict']) == list(expected)

    def test_metadata(self, files: list[Path]) -> None:
        with safe_open(files[1], framework='pt') as opened:
            metadata = opened.metadata()
        assert metadata['bands'] == '["VV", "VH"]'
        assert metadata['unit'] == 'dB'
        assert metadata['model'] == SMALL

    def test_folder_that_cannot_be_written(
        self, encoder: nn.Module, tmp_path: Path
    ) -> None:
        (tmp_path / 'file').touch()
        message = r'output folder must be writable, got .*file'
        with pytest.raises(ValueError, match=message):
            save_encoder(encoder, tmp_path / 'file' / 's1', SMALL, {})
