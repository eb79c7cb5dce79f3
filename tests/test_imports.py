"""Check the rules of imports, and forbidden content of files."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'torchgeo_decur'
FILES = sorted(PACKAGE.rglob('*.py'))

# What each part may import of the package, besides itself: all of it is imported.
ALLOWED = {
    '': {'models', 'terminal'},
    'modalities': {'deprecation'},
    'losses': set(),
    'published_weights': set(),
    'config': set(),
    'deprecation': set(),
    'files': set(),
    'terminal': set(),
    'resumable_parts': {'files'},
    'transforms': {'deprecation', 'modalities'},
    # An entry of weights carries the scale of its input; transforms know no model.
    'weights': {'published_weights', 'files', 'modalities', 'transforms'},
    'models': {'deprecation', 'files', 'modalities', 'transforms', 'weights'},
    # Packed data are also found under the old path, at first use.
    'datasets': {'deprecation', 'files', 'modalities', 'packed', 'transforms'},
    'datamodules': {*('datasets', 'deprecation', 'modalities', 'packed', 'transforms')},
    'packed': {
        *('config', 'datamodules', 'datasets', 'files', 'modalities'),
        *('resumable_parts', 'transforms'),
    },
    'tasks': {
        *('deprecation', 'losses', 'modalities', 'models', 'terminal', 'transforms'),
        'weights',
    },
    'analysis': {'deprecation', 'losses.functional', 'modalities', 'models'},
    'callbacks': {
        *('analysis', 'files', 'modalities', 'models', 'tasks', 'terminal'),
        *('transforms', 'weights'),
    },
    'cli': {
        *(
            'analysis',
            'callbacks',
            'published_weights',
            'config',
            'datamodules',
            'datasets',
            'files',
            'modalities',
            'models',
        ),
        *('packed', 'resumable_parts', 'tasks', 'weights'),
    },
    'interop': {'modalities', 'models', 'transforms', 'weights'},
    '__main__': {'cli'},
}
# What a part must work without, of other projects: a loss knows no rank, and no sensor.
FOREIGN = {
    'losses': {'lightning', 'lightly', 'torchgeo', 'timm'},
    'modalities': {'lightning', 'lightly', 'torchgeo', 'timm'},
    'transforms': {'lightning', 'lightly', 'torchgeo', 'timm'},
    'models': {'torchgeo.tasks', 'torchgeo.datamodules', 'torchgeo.datasets'},
    'weights': {'torchgeo.tasks', 'torchgeo.datamodules', 'torchgeo.datasets'},
    'datasets': {'lightning', 'timm'},
    'analysis': {'lightning', 'torchgeo'},
}


def part(module: str) -> str:
    """Return the part of the package of a module, '' for the package itself."""
    return [*module.split('.'), ''][1]


def imports(source: str, package: str) -> list[str]:
    """Return the modules that code imports, by absolute names."""
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
    return found


def ours(file: Path) -> list[str]:
    """Return the modules of the package that a file imports, '' for the package itself."""
    found = imports(file.read_text(), package_of(file))
    inside = [m for m in found if m.split('.')[0] == PACKAGE.name]
    # What is no part, such as `__version__`, is of the package itself.
    return [m.partition('.')[2] if part(m) in ALLOWED else '' for m in inside]


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
    allowed = ALLOWED[own] | {own}
    # A rule with a dot names the only module of that part.
    forbidden = [m for m in ours(file) if not {m, m.split('.')[0]} & allowed]
    assert forbidden == []


def test_no_rule_is_wider_than_what_is_imported() -> None:
    used: dict[str, set[str]] = {own: set() for own in ALLOWED}
    for file in FILES:
        own = part(module_of(file))
        for module in ours(file):
            used[own] |= {module, module.split('.')[0]}
    assert {own: rule - used[own] for own, rule in ALLOWED.items()} == {
        own: set() for own in ALLOWED
    }


@pytest.mark.parametrize('own', FOREIGN)
def test_other_projects_stay_outside(own: str) -> None:
    for file in FILES:
        if part(module_of(file)) == own:
            found = imports(file.read_text(), package_of(file))
            wrong = [
                m for m in found for f in FOREIGN[own] if f'{m}.'.startswith(f'{f}.')
            ]
            assert wrong == [], file


@pytest.mark.parametrize('file', FILES, ids=name)
def test_private_names_stay_in_their_file(file: Path) -> None:
    taken = [
        alias.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (node.level or str(node.module).startswith(PACKAGE.name))
        for alias in node.names
        if re.match('_(?!_)', alias.name)
    ]
    assert taken == []


@pytest.mark.parametrize('file', FILES, ids=name)
def test_package_has_no_assert_statement(file: Path) -> None:
    tree = ast.parse(file.read_text())
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert lines == []


@pytest.mark.parametrize('file', FILES, ids=name)
def test_package_has_no_path_of_a_machine(file: Path) -> None:
    found = re.findall(
        r'(?<![\w.~-])/(?:work|root|tmp|home|Users)/.*', file.read_text()
    )
    assert found == []


@pytest.mark.parametrize(
    ('source', 'expected'),
    [
        ('import torchgeo_decur.tasks', 'torchgeo_decur.tasks'),
        ('import torchgeo_decur.tasks as x', 'torchgeo_decur.tasks'),
        ('from torchgeo_decur import models', 'torchgeo_decur.models'),
        ('from torchgeo_decur.datasets.x import y', 'torchgeo_decur.datasets.x'),
        ('from .. import transforms', 'torchgeo_decur.transforms'),
        ('from ..modalities import split', 'torchgeo_decur.modalities'),
        ('from .functional import x', 'torchgeo_decur.losses.functional'),
        ('def f():\n    from ..tasks.decur import x', 'torchgeo_decur.tasks.decur'),
        ('if TYPE_CHECKING:\n    from ..tasks import x', 'torchgeo_decur.tasks'),
        ('try:\n    from .. import cli\nfinally:\n    pass', 'torchgeo_decur.cli'),
    ],
)
def test_every_form_of_import_is_seen(source: str, expected: str) -> None:
    found = imports(f'import torch\n{source}', 'torchgeo_decur.losses')
    assert found == ['torch', expected]


def examples() -> dict[str, tuple[str, set[str]]]:
    """Return the example of each row of 'Where to add something', and the files of the row."""
    page = (ROOT / 'docs' / 'architecture.md').read_text()
    table = page.split('## Where to add something')[1].split('## ')[0]
    rows = re.findall(r'^\| (a [\w ]+) \| (.*) \| `(\w+)` \|$', table, re.M)
    return {
        what: (example, set(re.findall(r'`([\w/<>]+\.py)`', cells)))
        for what, cells, example in rows
    }


@pytest.mark.parametrize('what', examples())
def test_page_names_the_files_to_touch(what: str) -> None:
    example, listed = examples()[what]
    if what == 'a command':
        # Its name is a word like others: a key of the parser, and a function.
        pattern = rf"^    '{example}': |^def {example}\("
    else:
        # Not in a comment or a docstring, which may name anything.
        pattern = rf'^(?!\s*(#|>>>)).*(?<![`\w.]){example}\b'
    files = {
        str(file.relative_to(PACKAGE))
        for file in FILES
        if re.search(pattern, file.read_text(), re.M)
    }
    named = {f.replace('<name>', stem) for f in listed for stem in NAMES}
    missing = {f for f in listed if '<name>' not in f} - files
    assert files - named == set()
    assert missing == set()


# What `<name>` stands for in the examples.
NAMES = ('coral', 'mit', 'geonrw', 'pack')


def test_no_two_modules_import_each_other() -> None:
    used = {module_of(file).partition('.')[2]: set(ours(file)) for file in FILES}
    pairs = {
        (module, other)
        for module, found in used.items()
        for other in found & used.keys()
        # A package may import its modules, and they import one another through it.
        if module in used[other] and not module.startswith(f'{other}.')
        if not other.startswith(f'{module}.') and module != other
    }
    assert pairs == set()
