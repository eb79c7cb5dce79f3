"""What the pages say is so: their code runs, their commands are understood, names are spelt in one way."""

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
import torch

from torchgeo_decur import cli

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
