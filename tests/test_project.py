"""Check the consistency of the files of the project."""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
import yaml

import torchgeo_decur

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def citation() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    return found


def test_version_is_the_same_everywhere(
    project: Mapping[str, Any], citation: Mapping[str, Any]
) -> None:
    version = project['version']
    assert re.fullmatch(r'\d+\.\d+\.\d+', version)
    assert torchgeo_decur.__version__ == version
    assert citation['version'] == version
    newest = re.search(
        r'^## (\S+) \((.*)\)$', (ROOT / 'CHANGELOG.md').read_text(), re.M
    )
    assert newest is not None and newest[1] == version
    assert newest[2] == str(citation.get('date-released', 'unreleased'))


def test_all_holds_every_extra(project: Mapping[str, Any]) -> None:
    extras = dict(project['optional-dependencies'])
    (everything,) = extras.pop('all')
    named = re.fullmatch(rf'{project["name"]}\[(.*)\]', everything)
    assert named is not None
    assert sorted(named[1].split(',')) == sorted(extras)


def test_constraints_cover_every_dependency(project: Mapping[str, Any]) -> None:
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pins = [line for line in lines if not line.startswith('#')]
    assert all(re.fullmatch(r'[a-z0-9-]+==[\w.]+', pin) for pin in pins)
    wanted = list(project['dependencies'])
    for name, requirements in project['optional-dependencies'].items():
        wanted += [] if name == 'all' else requirements
    names = {re.match(r'[\w-]+', r)[0].lower() for r in wanted}  # type: ignore[index]
    assert names - {pin.split('==')[0] for pin in pins} == set()


@pytest.mark.parametrize(
    'command',
    [
        'pip install uv && uv run torchgeo fit --config experiments/quickstart.yaml',
        'pip install uv && uv run pytest',
    ],
)
def test_readme_has_the_commands(command: str) -> None:
    lines = (ROOT / 'README.md').read_text().splitlines()
    assert any(line.strip().removeprefix('$ ') == command for line in lines)


def test_licence_is_mit(
    project: Mapping[str, Any], citation: Mapping[str, Any]
) -> None:
    assert (ROOT / 'LICENSE').read_text().startswith('MIT License\n')
    assert project['license'] == citation['license'] == 'MIT'


def test_citation_has_what_the_format_requires(citation: Mapping[str, Any]) -> None:
    assert citation['cff-version'] == '1.2.0'
    assert {'message', 'title', 'authors'} <= set(citation)
    works = [citation['preferred-citation'], *citation['references']]
    for work in works:
        assert {'type', 'title', 'authors', 'year', 'url'} <= set(work), work['title']
        assert all({'family-names', 'given-names'} <= set(a) for a in work['authors'])
    papers = {work['url'].rpartition('/')[2] for work in works}
    assert papers == {
        '2309.05300',
        '2409.07402',
        '2602.14983',
        '2306.05268',
        '2509.25270',
        '2111.08872',
    }


def test_reference_lists_every_subpackage() -> None:
    listed = set(
        re.findall(
            r'^ +(torchgeo_decur\.\w+)$', (ROOT / 'docs/api/index.md').read_text(), re.M
        )
    )
    modules = iter_modules(torchgeo_decur.__path__, 'torchgeo_decur.')
    packages = {module.name for module in modules if module.ispkg}
    assert packages <= listed
    for name in packages:
        package = import_module(name)
        assert all(hasattr(package, public) for public in package.__all__), name
