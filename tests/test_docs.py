"""Check the code and the commands of the pages."""

import functools
import glob
import importlib
import inspect
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from tests.helpers.encoder_states import random_state
from tests.helpers.fake_data import fake
from tests.helpers.pages import DOCS, ROOT, TEXTS, blocks, commands
from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from tests.helpers.versions import NO_ONNX
from torchgeo_decur.cli import parser
from torchgeo_decur.cli.embed import embed_rasters
from torchgeo_decur.cli.maps import embed_dense
from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.models import MultimodalEncoder, create_encoder
from torchgeo_decur.tasks import DeCUR, LateFusionClassification
from torchgeo_decur.weights import enums
from torchgeo_decur.weights.encoder_files import save_encoder

# Pages that are run from the first block to the last, with their commands.
WHOLE = ('extend.md', 'missing.md')
# What makes a fit of these pages small; all else is as written.
SMALL = {
    'experiments/synthetic.yaml': (
        '--data.length=8',
        '--data.val_length=24',
        '--data.size=32',
        '--data.batch_size=4',
        '--data.num_workers=0',
        '--model.size=32',
        '--trainer.max_epochs=1',
        '--model.warmup_epochs=0',
    ),
    'experiments/transfer/synthetic.yaml': (
        '--data.init_args.length=32',
        '--data.init_args.val_length=16',
        '--data.init_args.label_fraction=0.5',
        '--data.init_args.size=32',
        '--data.init_args.batch_size=8',
        '--data.init_args.num_workers=0',
        '--trainer.max_epochs=2',
    ),
}


class Reader:
    """Run the code of a page in the current folder."""

    def __init__(self, torchgeo: Callable[..., None]) -> None:
        self.torchgeo = torchgeo
        self.namespace: dict[str, Any] = {'__name__': 'page'}
        self.written: list[Path] = []

    def __call__(self, language: str, content: str) -> None:
        name = re.match(r'# (\w+\.(?:py|yaml))\n', content)
        if name:
            self.written.append(Path(name[1]))
            Path(name[1]).write_text(f'{content}\n')
        elif language == 'python':
            exec(compile(content, 'page', 'exec'), self.namespace)
        elif language == 'console':
            for command in commands(content):
                self.run(command)

    def run(self, command: str) -> None:
        program, *args = shlex.split(command)
        args = [f for a in args for f in (glob.glob(a) if '*' in a else [a])]
        args += [option for name in args for option in SMALL.get(name, ())]
        if program == 'python' and args[:2] == ['-m', 'torchgeo']:
            self.torchgeo(*args[2:])
        elif program == 'torchgeo':
            self.torchgeo(*args)
        elif program == 'pytest':
            for file in args:
                self.test(file)
        elif program == 'python':
            argv, sys.argv = sys.argv, args[args[0] == '-m' :]
            try:
                if args[0] == '-m':
                    runpy.run_module(args[1], run_name='__main__')
                else:
                    runpy.run_path(args[0], run_name='__main__')
            finally:
                sys.argv = argv
        else:
            raise AssertionError(f'nobody here runs {command}')

    def test(self, file: str) -> None:
        """Run each test of a file, with each value of its parameter."""
        module = importlib.import_module(Path(file).stem)
        tests = {k: v for k, v in vars(module).items() if k.startswith('test_')}
        assert tests
        for name, function in tests.items():
            marks = getattr(function, 'pytestmark', [])
            values = [dict.fromkeys([m.args[0]], v) for m in marks for v in m.args[1]]
            for i, options in enumerate(values or [{}]):
                if 'tmp_path' in inspect.signature(function).parameters:
                    folder = Path.cwd() / f'{name}_{i}'
                    folder.mkdir()
                    options['tmp_path'] = folder
                function(**options)


@pytest.fixture
def reader(
    torchgeo: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    """Return a reader in an empty folder next to the experiments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'experiments').symlink_to(ROOT / 'experiments')
    reader = Reader(torchgeo)
    yield reader
    for path in reader.written:
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize('name', WHOLE)
def test_page_runs_from_the_first_block_to_the_last(name: str, reader: Reader) -> None:
    found = blocks(DOCS / name)
    assert {language for language, _ in found} >= {'python', 'console'}
    for language, content in found:
        reader(language, content)


def write_scene(folder: Path) -> dict[str, dict[str, Any]]:
    """Return rasters of two modalities and their entries."""
    fake('rasters').make(folder)
    dem = {'bands': ['elevation'], 'kind': 'elevation', 'unit': 'm'}
    return {
        'spectral': {'paths': str(folder / 'optical'), 'bands': ['column', 'row']},
        'dem': {'paths': str(folder / 'dem'), **dem},
    }


def before_embeddings(reader: Reader) -> None:
    """Return the table of the command of the page."""
    datamodule = RasterPairDataModule(write_scene(Path('data')), patch_size=64)
    task = DeCUR({'spectral': 2, 'dem': 1}, 'test_resnet', projector=[16, 16], size=32)
    embed_rasters(task, datamodule, Path('scene.parquet'))
    embed_dense(task, datamodule, Path('scene.tif'))


def before_interoperability(reader: Reader) -> None:
    """Export a checkpoint of an encoder, and of a transfer."""
    if NO_ONNX:
        pytest.skip('ONNX needs torch 2.10')
    # A model of few layers, because the export of each takes time.
    encoder = MultimodalEncoder({'s2': 13}, 'alexnet_small')
    options = {'modalities': {'s2': 13}, 'model': 'alexnet_small', 'size': 64}
    state = {f'encoders.{key}': value for key, value in encoder.state_dict().items()}
    torch.save({'state_dict': state, 'hyper_parameters': options}, 'last.ckpt')
    parser.main(['export', 'last.ckpt', '--out', 'encoders', '--onnx'])
    task = LateFusionClassification(
        MODALITIES, 'alexnet_small', num_classes=8, label_key='label_common'
    )
    run = trainer(max_steps=1)
    run.fit(task, datamodule(size=64))
    run.save_checkpoint('transfer.ckpt')
    switches = ['--onnx', '--program']
    parser.main(['export', 'transfer.ckpt', '--out', 'encoders', *switches])


def before_modalities(reader: Reader) -> None:
    """Return an image in digital numbers."""
    reader.namespace['image'] = 3000 * torch.rand(13, 8, 8)


def before_runs(reader: Reader) -> None:
    """Write an encoder as exported by a fit."""
    encoder = create_encoder('resnet18', 4)
    save_encoder(encoder, Path('encoders/spectral'), 'resnet18', {})


def before_start(reader: Reader) -> None:
    """Write an encoder as exported by experiments/synthetic.yaml."""
    path = Path('path/to/encoders/s2')
    save_encoder(create_encoder('resnet18', 13), path, 'resnet18', {})


def before_weights(reader: Reader) -> None:
    """Return images of both modalities, with files in place of downloads."""
    reader.namespace |= {
        'image': torch.rand(2, 13, 32, 32),
        'decibels': -30 * torch.rand(2, 2, 32, 32),
        'digital_numbers': 3000 * torch.rand(2, 13, 32, 32),
    }


BEFORE: dict[str, Callable[[Reader], None]] = {
    'embeddings.md': before_embeddings,
    'interoperability.md': before_interoperability,
    'modalities.md': before_modalities,
    'runs.md': before_runs,
    'start.md': before_start,
    'weights.md': before_weights,
}


@pytest.mark.parametrize(
    'page',
    [
        page
        for page in TEXTS
        if page.name not in WHOLE
        and any(language == 'python' for language, _ in blocks(page))
    ],
    ids=lambda page: page.stem,
)
def test_python_of_a_page_runs(
    page: Path, reader: Reader, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(model: str, **options: Any) -> Any:
        # A small backbone in place of the published one: the size does not matter.
        return timm_create(model.replace('resnet50', 'resnet18'), **options)

    def download(url: str, read: Callable[[Path], Any], *args: Any) -> Any:
        file = Path(url.rpartition('/')[2])
        if not file.exists():
            torch.save(random_state('resnet18', 2 if 'sar' in url else 13), file)
        return read(file)

    timm_create = timm.create_model
    monkeypatch.setattr(timm, 'create_model', create)
    monkeypatch.setattr(enums, 'fetch', download)
    Path('data').mkdir()
    Path('data/packed').symlink_to(packed)
    BEFORE.get(page.name, lambda reader: None)(reader)
    for language, content in blocks(page):
        if language == 'python':
            reader(language, content)


ALL_COMMANDS = sorted(
    {
        command
        for page in TEXTS
        for language, content in blocks(page)
        if language == 'console'
        for command in commands(content)
    }
)


@pytest.mark.parametrize(
    'command', [c for c in ALL_COMMANDS if c.startswith('torchgeo-decur ')]
)
def test_documented_option_exists(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that each documented `torchgeo-decur` command parses."""
    called = []
    imported = parser._command

    def idle(name: str) -> Callable[..., None]:
        @functools.wraps(imported(name))
        def instead(*args: Any, **kwargs: Any) -> None:
            called.append(name)

        return instead

    monkeypatch.setattr(parser, '_command', idle)
    _, *args = shlex.split(command)
    parser.main(args)
    assert called == [args[0]]


@pytest.mark.parametrize('command', [c for c in ALL_COMMANDS if ' experiments/' in c])
def test_documented_file_exists(command: str) -> None:
    named = [word for word in shlex.split(command) if word.startswith('experiments/')]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_command_is_documented() -> None:
    shown = {c.split()[1] for c in ALL_COMMANDS if c.startswith('torchgeo-decur ')}
    assert shown == set(parser._SUMMARIES)


def arguments(cls: type) -> set[str]:
    """Return the options of a class and of its base classes."""
    found: set[str] = set()
    for base in cls.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        found |= {p.name for p in parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def classes(node: Any) -> Iterator[tuple[type, set[str]]]:
    """Yield the classes in a config, with their options."""
    if isinstance(node, dict):
        for value in node.values():
            yield from classes(value)
        if path := node.get('class_path'):
            module, _, name = path.rpartition('.')
            # Modules of a page are written and run with it.
            if '.' in module:
                cls = getattr(importlib.import_module(module), name)
                yield cls, {*node.get('init_args', {})}
    elif isinstance(node, list):
        for value in node:
            yield from classes(value)


@pytest.mark.parametrize('page', TEXTS, ids=lambda page: page.stem)
def test_yaml_names_what_exists(page: Path) -> None:
    for language, content in blocks(page):
        if language == 'yaml':
            for cls, options in classes(yaml.safe_load(content)):
                assert options <= arguments(cls), (page.name, cls.__name__)
