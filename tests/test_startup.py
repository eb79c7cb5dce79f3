"""Check that help and lists need no torch and agree with the code."""

import ast
import subprocess
import sys
from inspect import getdoc
from pathlib import Path

import pytest
import torch

import torchgeo_decur
from torchgeo_decur.cli import listing, parser
from torchgeo_decur.models import get_weight, list_weights
from torchgeo_decur.published_weights import cached_file

PACKAGE = Path(torchgeo_decur.__file__).parent
# Slow imports that other commands need.
SLOW = {'torch', 'lightning', 'torchgeo', 'sklearn', 'pandas', 'timm', 'kornia'}


def test_help_and_lists_import_nothing_slow() -> None:
    code = """
import contextlib, io, sys
sys.argv = ['torchgeo-decur']
from torchgeo_decur.cli import main
for args in (['--help'], ['weights'], ['config'], ['config', 'quickstart'], ['config', '--help']):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(args)
    assert out.getvalue(), args
print(*sys.modules)
"""
    run = subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True, text=True
    )
    assert set(run.stdout.split()) & SLOW == set()


def test_import_of_the_package_leaves_lightning_out() -> None:
    for part in ('modalities', 'transforms', 'models'):
        for file in (PACKAGE / part).rglob('*.py'):
            for node in ast.parse(file.read_text()).body:
                names = [a.name for a in getattr(node, 'names', [])]
                module = getattr(node, 'module', None) or ' '.join(names)
                assert not module.startswith('lightning'), file


@pytest.mark.parametrize('name', parser._SUMMARIES)
def test_summary_equals_the_docstring(name: str) -> None:
    text = getdoc(parser._command(name))
    assert text is not None
    assert text.splitlines()[0] == parser._SUMMARIES[name]


@pytest.mark.parametrize('name', list_weights())
def test_listed_bands_equal_those_of_the_weights(name: str) -> None:
    bands = get_weight(name).meta['bands']
    several = bands.values() if isinstance(bands, dict) else [bands]
    shown = [f'{b[0]} to {b[-1]}' if len(b) > 5 else ' '.join(b) for b in several]
    assert listing._row(name)[2] == ' + '.join(shown)


@pytest.mark.parametrize('variable', ['', 'TORCH_HOME', 'XDG_CACHE_HOME'])
def test_cache_is_the_cache_of_torch(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known in ('TORCH_HOME', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(known, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    expected = Path(torch.hub.get_dir(), 'checkpoints', 'a.pth')
    monkeypatch.delitem(sys.modules, 'torch')
    assert cached_file('https://example.org/a.pth') == expected
