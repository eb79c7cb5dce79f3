"""Check the table of predictions of scenes."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.small_fits import trainer
from torchgeo_decur.callbacks import WritePredictions
from torchgeo_decur.tasks import LateFusionClassification, LateFusionSegmentation


def predict(path: Path, ids: list[str] | None, **options: Any) -> list[dict[str, str]]:
    samples: Any = [{'image_s1': torch.rand(2, 32, 32)} for _ in range(5)]
    for sample, name in zip(samples, ids or [], strict=bool(ids)):
        sample['id'] = name
    task = LateFusionClassification({'s1': 2}, 'test_resnet', **options)
    run = trainer(callbacks=[WritePredictions(str(path))])
    found = run.predict(task, DataLoader(samples, batch_size=2))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    values = torch.cat(found).tolist()  # type: ignore[arg-type]
    columns = [name for name in rows[0] if name not in ('id', 'prediction')]
    for row, expected in zip(rows, values, strict=True):
        assert [float(row[c]) for c in columns] == pytest.approx(expected, rel=1e-5)
    return rows


def test_classes_have_their_names(tmp_path: Path) -> None:
    names = ['wood', 'field', 'water']
    ids = [f'plot/{i}' for i in range(5)]
    rows = predict(tmp_path / 'a.csv', ids, num_classes=3, labels=names)
    assert [row['id'] for row in rows] == ids
    for row in rows:
        best = max(names, key=lambda name: float(row[name]))
        assert row['prediction'] == best


def test_scenes_without_id_have_their_number(tmp_path: Path) -> None:
    options: Any = {'task': 'multilabel', 'num_labels': 2, 'loss': 'bce'}
    rows = predict(tmp_path / 'a.csv', None, **options)
    assert [row['id'] for row in rows] == list('01234')
    assert list(rows[0]) == ['id', '0', '1']


def test_maps_are_refused() -> None:
    task = LateFusionSegmentation({'s1': 2}, 'fcn', 'test_resnet', num_classes=2)
    loader: Any = DataLoader([{'image_s1': torch.rand(2, 32, 32)}])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='needs a task that predicts scenes'):
        trainer(callbacks=[WritePredictions()]).predict(task, loader)
