"""Each benchmark runs, in small; and the loss that ours is compared with is the same loss."""

import csv
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from torchgeo_decur.losses import DeCURLoss

FOLDER = Path(__file__).parents[1] / 'experiments' / 'benchmarks'

SMALL: dict[str, dict[str, Any]] = {
    'loss': {'samples': [4], 'dimensions': [16]},
    'augmentation': {'batch_size': 2, 'sizes': [16]},
    'step': {'model': 'test_resnet', 'projector': [16], 'batch_size': 2, 'size': 32},
}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python does for a script: its folder comes first."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, 'path', list(sys.path))


@pytest.mark.parametrize('name', SMALL)
def test_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(FOLDER / f'{name}.py'))['main']
    path = tmp_path / 'results.csv'
    main(**SMALL[name], repeats=1, results=path)
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 3 and {row['benchmark'] for row in rows} == {name}
    assert all(float(row['value']) > 0 for row in rows)
    assert 'times' in {row['unit'] for row in rows}
    assert rows[-1]['case'] in capsys.readouterr().out


def test_matrix_loss_is_the_same_loss() -> None:
    loss = runpy.run_path(str(FOLDER / 'published.py'))['matrix_loss']
    z = {m: torch.randn(2, 6, 16, dtype=torch.float64) for m in ('s1', 's2')}
    torch.testing.assert_close(loss(z, 14), DeCURLoss(14)(z)['loss'])
