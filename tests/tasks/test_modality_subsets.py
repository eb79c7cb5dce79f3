"""Check the scores of every subset of modalities."""

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from torchgeo_decur.tasks import LateFusionClassification
from torchgeo_decur.tasks.transfer.modality_subsets import SubsetMetrics


def test_names_may_contain_the_separator() -> None:
    modalities = {'a+b': 1, 'a': 1, 'b': 1}
    task = LateFusionClassification(
        modalities, 'test_resnet', num_classes=2, test_modality_subsets=True
    ).eval()
    task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    images = {f'image_{m}': torch.rand(2, 1, 32, 32) for m in modalities}
    task.test_step({**images, 'label': torch.tensor([0, 1])}, 0)
    found = task.subset_metrics.compute()
    assert len(found) == 6 * len(task.summary)
    assert "test_OverallAccuracy_'a'+'b'" in found
    assert "test_OverallAccuracy_'a+b'" in found
    assert 'test_OverallAccuracy_a' in found


def test_each_subset_has_its_own_values() -> None:
    metrics = SubsetMetrics({'acc': MulticlassAccuracy(2, average='micro')}, ['a', 'b'])
    right, wrong = torch.eye(2), 1 - torch.eye(2)
    logits: dict[tuple[str, ...], Tensor] = {('a',): right, ('b',): wrong}
    for subset, collection in metrics.items():
        collection.update(logits[subset], torch.arange(2))
    values = metrics.compute()
    assert {k: v.item() for k, v in values.items()} == {
        'test_acc_a': 1.0,
        'test_acc_b': 0.0,
    }
    lines = metrics.table({**values, 'test_acc': torch.tensor(0.5)}).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ['modalities', 'acc'],
        ['a', '100.0'],
        ['b', '0.0'],
        ['a+b', '50.0'],
    ]


@pytest.mark.parametrize('modalities', [[], ['s1']])
def test_one_modality_has_no_subsets(modalities: list[str]) -> None:
    metrics = SubsetMetrics({'acc': MulticlassAccuracy(2)}, modalities)
    assert not metrics.subsets and not metrics.compute()
