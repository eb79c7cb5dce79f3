"""Check the style of the tutorials, which building the site runs."""

import ast
import importlib
from pathlib import Path

import pytest
import yaml

from tests.helpers.pages import DOCS, TUTORIALS, cells

HEAD = """---
file_format: mystnb
kernelspec:
  name: python3
  display_name: Python 3
---
"""


@pytest.mark.parametrize('page', TUTORIALS, ids=lambda page: page.stem)
def test_is_a_notebook_to_take_away(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(HEAD) and cells(page)
    assert f'<{page.stem}.ipynb>`' in text


@pytest.mark.parametrize('page', TUTORIALS, ids=lambda page: page.stem)
def test_is_found_from_the_table(page: Path) -> None:
    text = (DOCS / 'tutorials' / 'index.md').read_text()
    assert f']({page.name})' in text
    assert page.stem in text[text.index('{toctree}') :].split()


@pytest.mark.parametrize('page', TUTORIALS, ids=lambda page: page.stem)
def test_what_it_imports_exists(page: Path) -> None:
    """Check that cells are plain Python, faster than the build."""
    found = set()
    for _, code in cells(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {(node.module, alias.name) for alias in node.names}
    own = {(m, n) for m, n in found if m.split('.')[0] == 'torchgeo_decur'}
    assert own
    for module, name in own:
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f'{module}.{name}')


@pytest.mark.parametrize('page', TUTORIALS, ids=lambda page: page.stem)
def test_figures_have_words_for_those_who_do_not_see_them(page: Path) -> None:
    options = [yaml.safe_load(given) or {} for given, _ in cells(page)]
    images = [o['mystnb']['image'] for o in options if 'image' in o.get('mystnb', {})]
    assert images and all(image['alt'].strip() for image in images)
