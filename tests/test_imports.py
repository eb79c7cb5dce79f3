"""The shape of the package: who may import whom, and what no file holds."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'torchgeo_decur'
FILES = sorted(PACKAGE.rglob('*.py'))

# What each part may import of the package, besides itself.
DATA = {'transforms', 'modalities'}
TASKS = {'losses', 'models', 'transforms', 'modalities'}
ALLOWED = {
    '': {'models'},
    'modalities': set(),
    'losses': set(),
    # An entry of weights carries the scale of its input; transforms know no model.
    'models': {'modalities', 'transforms'},
    'transforms': {'modalities'},
    'datasets': DATA,
    'datamodules': DATA | {'datasets'},
    'tasks': TASKS,
    'analysis': {'losses.functional', 'models', 'modalities'},
    'callbacks': TASKS | {'tasks', 'analysis', 'datasets', 'datamodules'},
    'config': set(),
    'embed': {'models', 'modalities', 'config'},
    'report': {'analysis', 'embed', 'models', 'modalities'},
    'packing': DATA | {'datasets', 'datamodules', 'config'},
    'plan': {'config'},
    'interop': {'models', 'modalities', 'transforms'},
    'commands': TASKS
    | {
        'tasks',
        'analysis',
        'datasets',
        'datamodules',
        'callbacks',
        'embed',
        'packing',
        'plan',
        'config',
    },
    'cli': {'commands', 'datasets', 'report'},
    '__main__': {'cli'},
}


def part(module: str) -> str:
    """Part of the package that a module belongs to, '' for the package itself."""
    return [*module.split('.'), ''][1]


def imports(source: str, package: str) -> list[str]:
    """Modules of ours that code in a package imports anywhere, by absolute names."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split('.')
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = '.'.join([*base, *filter(None, [node.module])])
            # `from .. import x` imports the module x, not the package alone.
            whole = module == PACKAGE.name
            found += [f'{module}.{a.name}' for a in node.names] if whole else [module]
    return [f for f in found if f.split('.')[0] == PACKAGE.name]


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def package_of(file: Path) -> str:
    return '.'.join(file.relative_to(ROOT).parent.parts)


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix('').parts
    return '.'.join(p for p in parts if p != '__init__')


def test_every_part_has_a_rule() -> None:
    assert len(FILES) > 10
    assert {part(module_of(file)) for file in FILES} <= set(ALLOWED)


def test_the_page_says_the_same() -> None:
    page = (ROOT / 'docs' / 'architecture.md').read_text()
    rows = re.findall(r'^\| `(\w+)` \|.*\| ([^|]*) \|$', page, re.M)
    said = {own: set(re.findall(r'`([\w.]+)`', cell)) for own, cell in rows}
    assert said == {own: rule for own, rule in ALLOWED.items() if own}


@pytest.mark.parametrize('file', FILES, ids=name)
def test_imports_go_one_way(file: Path) -> None:
    own = part(module_of(file))
    forbidden = []
    for module in imports(file.read_text(), package_of(file)):
        target = part(module)
        inside = module.removeprefix(f'{PACKAGE.name}.')
        allowed = ALLOWED[own] | {own}
        # A rule with a dot names the only module of that part.
        if target not in allowed and inside not in allowed and target in ALLOWED:
            forbidden.append(module)
    assert forbidden == []


@pytest.mark.parametrize('file', FILES, ids=name)
def test_no_file_is_long(file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= 400


@pytest.mark.parametrize('file', FILES, ids=name)
def test_no_assert_statement(file: Path) -> None:
    tree = ast.parse(file.read_text())
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert lines == []


@pytest.mark.parametrize('file', FILES, ids=name)
def test_no_path_of_a_machine(file: Path) -> None:
    found = re.findall(
        r'(?<![\w.~-])/(?:work|root|tmp|home|Users)/.*', file.read_text()
    )
    assert found == []


@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('import torchgeo_decur.tasks', 'torchgeo_decur.tasks'),
        ('from torchgeo_decur import models', 'torchgeo_decur.models'),
        ('from torchgeo_decur.datasets.x import y', 'torchgeo_decur.datasets.x'),
        ('from .. import transforms', 'torchgeo_decur.transforms'),
        ('from ..modalities import split', 'torchgeo_decur.modalities'),
        ('from .functional import x', 'torchgeo_decur.losses.functional'),
        ('def f():\n    from ..tasks.decur import x', 'torchgeo_decur.tasks.decur'),
    ],
)
def test_every_form_of_import_is_seen(source: str, expected: str) -> None:
    assert imports(f'import torch\n{source}', 'torchgeo_decur.losses') == [expected]
