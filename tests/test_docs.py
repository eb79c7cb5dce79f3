"""What the pages say is so: their code runs, their commands are understood, names are spelt in one way."""

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
from encoder_states import random_state

from torchgeo_decur import cli
from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.embed import embed_rasters
from torchgeo_decur.models import create_encoder, published
from torchgeo_decur.models.checkpoints import save_encoder
from torchgeo_decur.tasks import DeCUR

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.rglob('*.md'))
TEXTS = [*PAGES, *(ROOT / f for f in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'))]
TEXTS.append(ROOT / 'experiments' / 'README.md')

# Pages that are run from the first block to the last, with their commands.
WHOLE = ('extend.md', 'missing.md')
# What makes a fit of these pages small; all else is as written.
SMALL = {
    'experiments/quickstart.yaml': (
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


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of each fenced block."""
    found = re.findall(r'^( *)```(\w+)\n(.*?)^\1```$', page.read_text(), re.M | re.S)
    return [(language, inspect.cleandoc(body)) for _, language, body in found]


def commands(text: str) -> Iterator[str]:
    """Commands of a block, those that go over several lines as one."""
    joined = re.sub(r'\\\n\s*', '', text)
    for line in joined.splitlines():
        if re.match(r'(\$ )?(torchgeo|torchgeo-decur|python|pytest) ', line):
            yield line.removeprefix('$ ')


class Reader:
    """Does what a page says, in the current folder."""

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
            argv, sys.argv = sys.argv, args
            try:
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
    """A reader in an empty folder beside the experiments."""
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
    """Rasters of two modalities and their entries."""
    path = ROOT / 'tests' / 'data' / 'rasters' / 'data.py'
    runpy.run_path(str(path))['make'](folder)
    dem = {'bands': ['elevation'], 'kind': 'elevation', 'unit': 'm'}
    return {
        'spectral': {'paths': str(folder / 'optical'), 'bands': ['column', 'row']},
        'dem': {'paths': str(folder / 'dem'), **dem},
    }


def before_embeddings(reader: Reader) -> None:
    """The table that the command of the page writes."""
    datamodule = RasterPairDataModule(write_scene(Path('data')), patch_size=64)
    task = DeCUR({'spectral': 2, 'dem': 1}, 'test_resnet', projector=[16, 16], size=32)
    embed_rasters(task, datamodule, Path('scene.parquet'))


def before_modalities(reader: Reader) -> None:
    """An image in digital numbers."""
    reader.namespace['image'] = 3000 * torch.rand(13, 8, 8)


def before_runs(reader: Reader) -> None:
    """An encoder that a fit exported."""
    encoder = create_encoder('resnet18', 4)
    save_encoder(encoder, Path('encoders/spectral'), 'resnet18', {})


def before_start(reader: Reader) -> None:
    """An encoder that the quickstart exported."""
    path = Path('path/to/encoders/s2')
    save_encoder(create_encoder('resnet18', 13), path, 'resnet18', {})


def before_weights(reader: Reader) -> None:
    """Images of both modalities; and files of the published shape for downloads."""
    reader.namespace |= {
        'image': torch.rand(2, 13, 32, 32),
        'decibels': -30 * torch.rand(2, 2, 32, 32),
        'digital_numbers': 3000 * torch.rand(2, 13, 32, 32),
    }


BEFORE: dict[str, Callable[[Reader], None]] = {
    'embeddings.md': before_embeddings,
    'modalities.md': before_modalities,
    'runs.md': before_runs,
    'start.md': before_start,
    'weights.md': before_weights,
}
# Run by tests/tasks/test_maps.py, on scenes whose pixels tell where they are.
ELSEWHERE = ('transfer.md',)


@pytest.mark.parametrize(
    'page',
    [
        page
        for page in TEXTS
        if page.name not in (*WHOLE, *ELSEWHERE)
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
    monkeypatch.setattr(published, 'fetch', download)
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
    """Each documented `torchgeo-decur` is parsed to the end, and not run."""
    called = []

    def idle(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def instead(*args: Any, **kwargs: Any) -> None:
            called.append(function.__name__)

        return instead

    known = {name: idle(function) for name, function in cli._COMMANDS.items()}
    monkeypatch.setattr(cli, '_COMMANDS', known)
    _, *args = shlex.split(command)
    cli.main(args)
    assert called == [args[0]]


@pytest.mark.parametrize('command', [c for c in ALL_COMMANDS if ' experiments/' in c])
def test_documented_file_exists(command: str) -> None:
    named = [word for word in shlex.split(command) if word.startswith('experiments/')]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_command_is_documented() -> None:
    shown = {c.split()[1] for c in ALL_COMMANDS if c.startswith('torchgeo-decur ')}
    assert shown == set(cli._COMMANDS)


def arguments(cls: type) -> set[str]:
    """Options of a class, and of those that it passes options on to."""
    found: set[str] = set()
    for base in cls.__mro__:
        parameters = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        found |= {p.name for p in parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def classes(node: Any) -> Iterator[tuple[type, set[str]]]:
    """Classes that a config names, with the options that it gives them."""
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


# What is wrong outside of code and addresses, and how it is written.
SPELLINGS = {
    r'Torchgeo|TorchGEO|Torch[- ]Geo': 'TorchGeo',
    r'DeCur|Decur|DECUR|deCUR': 'DeCUR',
    r'Comm\b|COMM\b|Co-MM': 'CoMM',
    r'Coral\b|CORAL\b|CorAl|CoRAL': 'COrAL',
    r'SSL4EO[ _]S12|SSL4EO-s12|Ssl4eo': 'SSL4EO-S12',
    r'BigEarthnet|Bigearthnet|Big Earth ?Net': 'BigEarthNet',
    r'GeoNrw|Geonrw|GEONRW|Geo-NRW': 'GeoNRW',
    r'Pytorch|Py-?Torch lightning|(?<!models-)pytorch': 'PyTorch, Lightning',
    r'Sentinel[ _]?[12]\b|sentinel-[12]': 'Sentinel-1, Sentinel-2',
    r'SUN[- ]?RGBD|Sun RGB|sun rgb': 'SUN RGB-D',
    r'NYU ?v2|NYUD|NYU-Depth|NYU depth': 'NYU Depth v2',
    r'VICREG|VicReg|Vicreg': 'VICReg',
    r'SIMCLR|SimCLr|Simclr|SimClr': 'SimCLR',
    r'Barlow twins|Barlow-Twins|barlow twins': 'Barlow Twins',
    r'Segformer|SegFORMER': 'SegFormer',
    r'Geotiff|GeoTiff|GEOTIFF|geotiff': 'GeoTIFF',
    r'Geoparquet|geoparquet': 'GeoParquet',
    r'Resnet|Res-Net|ResNet ?\d': 'ResNet-50',
    r'Timm\b|TIMM\b': 'timm',
    r'Trifeatures\b': 'Trifeature, the data; `Trifeatures`, the class',
    r'Numpy|Jupyter notebook|Youtube|Github': 'NumPy, GitHub',
    r'data ?sets? module|datamodul\b|data module': 'datamodule',
    r'back[- ]bone': 'backbone',
    r'multi-modal': 'multimodal',
    r'pre-train': 'pretrain',
    r'(?<!_)finetun': 'fine-tune',
}


def prose(text: str) -> str:
    """Text without code, equations, addresses and citations."""
    patterns = (
        r'^( *)(```|~~~).*?^\1\2$',
        r'\{[\w:]+\}`[^`]*`',
        r'``?[^`]*``?',
        r'\]\([^)]*\)',
        r'<?https?://\S+',
        r'\*[A-Z][^*]*\*',
    )
    for pattern in patterns:
        text = re.sub(pattern, ' ', text, flags=re.M | re.S)
    return text


@pytest.mark.parametrize('page', TEXTS, ids=lambda page: page.stem)
def test_names_are_spelt_in_one_way(page: Path) -> None:
    text = prose(page.read_text())
    wrong = {
        found.group(): right
        for pattern, right in SPELLINGS.items()
        for found in re.finditer(pattern, text)
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ('text', 'left'),
    [
        ('of `Trifeatures` here', ''),
        ('[Comm](x.md)', 'Comm'),
        ('[here](https://x.org/Comm)', ''),
        ('```python\nimport Comm\n```', ''),
        ('{py:class}`~x.Comm`', ''),
        ('a *Comm Title* there', ''),
    ],
)
def test_prose_is_what_is_looked_at(text: str, left: str) -> None:
    assert ('Comm' in prose(text)) == bool(left)
    assert 'Trifeatures' not in prose(text)


def test_figures_are_those_of_the_script(tmp_path: Path) -> None:
    """Whoever changes docs/figures.py runs it."""
    figures = runpy.run_path(str(DOCS / 'figures.py'))
    figures['main'](tmp_path)
    drawn = sorted(tmp_path.rglob('*.svg'))
    assert len(drawn) == len(figures['FIGURES'])
    for path in drawn:
        stored = DOCS / '_static' / path.relative_to(tmp_path)
        assert path.read_text() == stored.read_text(), stored.name


def test_every_figure_has_a_page_and_words_for_those_who_do_not_see_it() -> None:
    texts = {page: page.read_text() for page in PAGES}
    shown = {
        (page.parent / path).resolve()
        for page, text in texts.items()
        for path in re.findall(
            r'(?:\{figure\} |\{image\} |!\[[^\]]+\]\()([\w./]+)', text
        )
    }
    kept = {p for s in ('png', 'svg') for p in (DOCS / '_static').rglob(f'*.{s}')}
    assert shown == kept
    figures = [
        f
        for text in texts.values()
        for f in re.findall(r'\{figure\}.*\n(?::.*\n)+', text)
    ]
    assert figures and all(re.search(r'^:alt: \S', f, re.M) for f in figures)
