"""Check SECURITY.md: loading a file never runs code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torchgeo.tasks import Classification

from torchgeo_decur.cli.embed import load_run
from torchgeo_decur.datasets import PackedDataset
from torchgeo_decur.datasets.base import UnreadableFileError
from torchgeo_decur.models import create_encoder, load_weights
from torchgeo_decur.tasks import DeCUR


class Code:
    """Object that creates a file when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / 'code_has_run'


@pytest.fixture
def checkpoint(fitted: Path, tmp_path: Path, trace: Path) -> Path:
    """Return a complete checkpoint that contains code."""
    (original,) = list((fitted / 'checkpoints').glob('*.ckpt'))[:1]
    content = torch.load(original, weights_only=True)
    path = tmp_path / 'code.ckpt'
    torch.save({**content, 'code': Code(trace)}, path)
    return path


def test_the_file_is_dangerous(checkpoint: Path, trace: Path) -> None:
    torch.load(checkpoint, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize(
    'load',
    [
        lambda path: load_weights(create_encoder('resnet18', 2), path),
        lambda path: Classification('resnet18', weights=str(path), num_classes=2),
        DeCUR.load_from_checkpoint,
    ],
    ids=['weights', 'torchgeo', 'lightning'],
)
def test_weights_run_no_code(
    checkpoint: Path, trace: Path, load: Callable[[Path], object]
) -> None:
    with pytest.raises(Exception, match=r'UnpicklingError|Weights only'):
        load(checkpoint)
    assert not trace.exists()


def test_a_run_runs_no_code(checkpoint: Path, trace: Path, fitted: Path) -> None:
    with pytest.raises(
        ValueError, match=r'found an unreadable file \(UnpicklingError\)'
    ):
        load_run(fitted / 'config.yaml', checkpoint)
    assert not trace.exists()


@pytest.mark.parametrize('command', ['fit', 'validate'])
def test_ckpt_path_runs_no_code(
    command: str,
    checkpoint: Path,
    trace: Path,
    torchgeo: Callable[..., None],
    decur_yaml: Callable[..., Path],
) -> None:
    with pytest.raises(Exception, match='Weights only load failed'):
        torchgeo(command, '--config', decur_yaml(), '--ckpt_path', checkpoint)
    assert not trace.exists()


def test_packed_values_are_not_unpickled(packed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(packed, tmp_path / 'packed')
    index = folder / 'train' / 'index.json'
    content = json.loads(index.read_text())
    formats = content['config']['data_format']
    for name in ('pickle', 'graph:pickle'):
        content['config']['data_format'] = [name, *formats[1:]]
        index.write_text(json.dumps(content))
        with pytest.raises(UnreadableFileError, match=f"and numbers, found '{name}'"):
            PackedDataset(folder)[0]
