import hashlib
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torchgeo import tasks
from torchgeo.models import ResNet18_Weights

from tests.helpers.encoder_states import SMALL, State, assert_loaded, random_state
from torchgeo_decur import tasks as our_tasks
from torchgeo_decur.models import create_encoder, load_weights
from torchgeo_decur.weights.load import read_weights


def with_prefix(prefix: str, state: State) -> State:
    return {f'{prefix}{k}': v for k, v in state.items()}


class TestFiles:
    def test_loads_the_layout_of_torchgeo(self, tmp_path: Path) -> None:
        state = random_state('resnet18')
        checkpoint = {
            'hyper_parameters': {'model': 'resnet18'},
            'state_dict': with_prefix('model.', state),
        }
        torch.save(checkpoint, tmp_path / 's1.pt')
        encoder = create_encoder('resnet18', 2)
        load_weights(encoder, tmp_path / 's1.pt')
        assert_loaded(encoder, state)

    def test_loads_safetensors(self, tmp_path: Path) -> None:
        state = random_state()
        safetensors.torch.save_file(state, tmp_path / 's1.safetensors')
        encoder = create_encoder(SMALL, 2)
        load_weights(encoder, str(tmp_path / 's1.safetensors'))
        assert_loaded(encoder, state)

    @pytest.mark.parametrize('modality', ['s1', 's11', 's2'])
    def test_loads_a_checkpoint_of_several_modalities(
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
    def test_ignores_the_classifier(self, tmp_path: Path, model: str) -> None:
        state = random_state(model, 2, num_classes=5)
        torch.save(state, tmp_path / 'bare.pth')
        encoder = create_encoder(model, 2)
        expected = {k: v for k, v in state.items() if k in encoder.state_dict()}
        assert len(state) == len(expected) + 2
        load_weights(encoder, tmp_path / 'bare.pth')
        assert_loaded(encoder, expected)

    @pytest.mark.parametrize('prefix', ['model.', 'backbone.', ''])
    @pytest.mark.parametrize('key', ['state_dict', 'model', None])
    def test_accepts_keys_and_prefixes(
        self, tmp_path: Path, key: str | None, prefix: str
    ) -> None:
        state = random_state()
        named = with_prefix(prefix, state)
        torch.save({key: named, 'epoch': 1} if key else named, tmp_path / 'x.pt')
        encoder = create_encoder(SMALL, 2)
        load_weights(encoder, tmp_path / 'x.pt')
        assert_loaded(encoder, state)

    @pytest.mark.parametrize(
        'prefix',
        ['_orig_mod.', 'module._orig_mod.', 'module.module.', 'model._orig_mod.'],
    )
    def test_accepts_compiled_and_distributed_models(
        self, tmp_path: Path, prefix: str
    ) -> None:
        state = random_state()
        torch.save(with_prefix(prefix, state), tmp_path / 'x.pt')
        encoder = create_encoder(SMALL, 2)
        load_weights(encoder, tmp_path / 'x.pt')
        assert_loaded(encoder, state)

    @pytest.mark.parametrize('name', ['DeCUR', 'LateFusionClassification'])
    def test_loads_into_a_task(self, tmp_path: Path, name: str) -> None:
        states = {m: random_state(SMALL, 2, seed=i) for i, m in enumerate('ab')}
        file = {f'encoders.{m}.{k}': v for m in 'ab' for k, v in states[m].items()}
        torch.save(file, tmp_path / 'x.pt')
        options = {'projector': [4]} if name == 'DeCUR' else {'num_classes': 2}
        task = getattr(our_tasks, name)({'a': 2, 'b': 2}, model=SMALL, **options)
        reports = load_weights(task, tmp_path / 'x.pt')
        assert list(reports) == ['a', 'b']
        encoders = getattr(task, 'encoders', None) or task.model.encoders
        for m, state in states.items():
            assert_loaded(encoders.encoders[m], state)

    def test_loads_compiled_parts_of_a_task(self, tmp_path: Path) -> None:
        state = random_state()
        named = with_prefix('encoders.encoders.s1._orig_mod.', state)
        torch.save({'state_dict': named}, tmp_path / 'last.ckpt')
        encoder = create_encoder(SMALL, 2)
        load_weights(encoder, tmp_path / 'last.ckpt', 's1')
        assert_loaded(encoder, state)

    @pytest.mark.parametrize(
        ('task', 'model', 'where', 'options'),
        [
            ('BYOL', 'resnet18', 'model.backbone.model', {}),
            ('MoCo', 'resnet18', 'backbone', {}),
            ('SimCLR', 'resnet18', 'backbone', {}),
            ('Classification', 'resnet18', 'model', {'num_classes': 3}),
            ('SemanticSegmentation', 'unet', 'model.encoder', {'backbone': 'resnet18'}),
            (
                'SemanticSegmentation',
                'unet',
                'model.encoder.model',
                {'backbone': 'tu-resnet18'},
            ),
        ],
    )
    def test_loads_a_checkpoint_of_torchgeo(
        self, tmp_path: Path, task: str, model: str, where: str, options: dict[str, Any]
    ) -> None:
        classes = {'num_classes': 3} if model == 'unet' else {}
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # what TorchGeo says of its own options
            made = getattr(tasks, task)(
                model=model, in_channels=2, **classes, **options
            )
        content = {
            'state_dict': made.state_dict(),
            'hyper_parameters': {**made.hparams},
        }
        torch.save(content, tmp_path / 'last.ckpt')
        encoder = create_encoder('resnet18', 2)
        load_weights(encoder, tmp_path / 'last.ckpt')
        found = made.get_submodule(where).state_dict()
        for key, value in encoder.state_dict().items():
            assert value.equal(found[key]), key
        assert read_weights(tmp_path / 'last.ckpt').metadata[''].model == 'resnet18'

    def test_ignores_other_entries_beside_tensors(self, tmp_path: Path) -> None:
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

    def test_loads_by_name_and_by_value(self, publish: Callable[[State], Path]) -> None:
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

    def test_rejects_another_hash(self, publish: Callable[[State], Path]) -> None:
        file = publish({'x': torch.zeros(1)})
        torch.save({'x': torch.ones(1)}, file)
        with pytest.raises(
            ValueError, match=r'truncated or altered and has been removed'
        ):
            load_weights(create_encoder('resnet18', 3), self.weight)

    def test_rejects_other_channels(self, publish: Callable[[State], Path]) -> None:
        publish(random_state('resnet18', 3))
        message = (
            r'ResNet18_Weights\.SENTINEL2_RGB_MOCO: .* 1 of another shape '
            r"\{'conv1\.weight': \(\(64, 13, 7, 7\), \(64, 3, 7, 7\)\)\}"
        )
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder('resnet18', 13), self.weight)


class Code:
    """Create a folder when unpickled."""

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
    """Return bytes that torch.load reads as text other than UTF-8: a ValueError."""
    file.write_bytes(b'X\x01\x00\x00\x00\xe9.')


def write_reference(file: Path) -> None:
    """Return bytes that torch.load reads as a missing reference: a KeyError."""
    file.write_bytes(b'h\x07.')


class TestErrors:
    @pytest.mark.parametrize('value', [float('nan'), float('inf')])
    def test_rejects_parameters_of_a_diverged_fit(
        self, tmp_path: Path, value: float
    ) -> None:
        state = random_state()
        state['conv_stem.weight'].view(-1)[0] = value
        torch.save(state, tmp_path / 'x.pt')
        encoder = create_encoder(SMALL, 2)
        before = encoder.conv_stem.weight.clone()
        message = r"x\.pt: expected finite .* in 1 of .*\['conv_stem\.weight'\]; use a"
        with pytest.raises(ValueError, match=message):
            load_weights(encoder, tmp_path / 'x.pt')
        assert encoder.conv_stem.weight.equal(before)

    @pytest.mark.parametrize(
        'name', ['ResNet18_Weights.SENTINEL9', 'missing.pt', '', 'resnet18']
    )
    def test_rejects_an_unknown_name(self, name: str) -> None:
        message = f'weights must be a weight enum, its name .* got {name!r}'
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 2), name)

    def test_rejects_a_missing_path(self, tmp_path: Path) -> None:
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
    def test_rejects_files_that_are_not_checkpoints(
        self, tmp_path: Path, name: str, write: Callable[[Path], None]
    ) -> None:
        write(tmp_path / name)
        message = (
            rf'{name}: expected a checkpoint with tensors, found an unreadable file'
        )
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 2), tmp_path / name)

    @pytest.mark.parametrize(
        'content', [[1, 2], {'a': 1}, {'state_dict': {}}, 'text'], ids=repr
    )
    def test_rejects_files_without_tensors(self, tmp_path: Path, content: Any) -> None:
        torch.save(content, tmp_path / 'x.pt')
        with pytest.raises(ValueError, match=r'x\.pt: .* found none; choose'):
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
            ValueError, match=r'evil\.pt: .* or contain code, which is never'
        ):
            load_weights(encoder, file)
        assert not made.exists()
        assert_loaded(encoder, before)

    @pytest.mark.parametrize(
        ('model', 'channels', 'message'),
        [
            ('resnet18', 2, r'x\.pt: .* for s1, found another model with \d+ missing'),
            (
                SMALL,
                3,
                r"0 missing parameters \[\], 0 unexpected \[\], and 1 of another shape \{'conv_stem",
            ),
            (SMALL, 1, r'use the same model and number of channels as the weights'),
        ],
    )
    def test_rejects_another_model(
        self, tmp_path: Path, model: str, channels: int, message: str
    ) -> None:
        torch.save(random_state(model, channels), tmp_path / 'x.pt')
        encoder = create_encoder(SMALL, 2)
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        with pytest.raises(ValueError, match=message):
            load_weights(encoder, tmp_path / 'x.pt', modality='s1')
        assert_loaded(encoder, before)

    @pytest.mark.parametrize('change', ['missing', 'unexpected'])
    def test_rejects_one_wrong_parameter(self, tmp_path: Path, change: str) -> None:
        state = random_state()
        if change == 'missing':
            del state['bn1.weight']
        else:
            state['bn9.weight'] = torch.zeros(1)
        torch.save(state, tmp_path / 'x.pt')
        message = rf"1 {change}( parameters)? \['bn[19]\.weight'\]"
        with pytest.raises(ValueError, match=message):
            load_weights(create_encoder(SMALL, 2), tmp_path / 'x.pt')

    def test_rejects_a_modality_that_the_file_lacks(self, tmp_path: Path) -> None:
        state = with_prefix('encoders.encoders.s1.', random_state())
        torch.save({'state_dict': state}, tmp_path / 'x.ckpt')
        with pytest.raises(
            ValueError, match=r"x\.ckpt: .* for dem, found encoders for \['s1'\]"
        ):
            load_weights(create_encoder(SMALL, 2), tmp_path / 'x.ckpt', modality='dem')
