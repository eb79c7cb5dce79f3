"""Targets that are not known count nowhere."""

from typing import Any

import pytest
import torch
from small_fits import trainer
from torch.utils.data import DataLoader

from torchgeo_decur.tasks import LateFusionClassification, LateFusionSegmentation
from torchgeo_decur.tasks.masked import MaskedBinaryCrossEntropy


def segmentation(task: str, loss: str, **options: Any) -> LateFusionSegmentation:
    kind: Any = {'task': task, 'loss': loss}
    return LateFusionSegmentation(
        {'s1': 2}, 'fcn', 'test_resnet', ignore_index=255, **kind, **options
    )


@pytest.mark.parametrize(
    ('task', 'loss', 'number'),
    [
        ('binary', 'bce', None),
        ('binary', 'focal', None),
        ('binary', 'dice', None),
        ('multiclass', 'ce', 3),
        ('multiclass', 'focal', 3),
        ('multiclass', 'dice', 3),
    ],
)
def test_logits_of_unknown_pixels_do_not_matter(
    task: str, loss: str, number: int | None
) -> None:
    torch.manual_seed(0)
    module = segmentation(task, loss, num_classes=number)
    y = torch.randint(0, number or 2, (2, 8, 8))
    y[:, :3] = 255
    logits = torch.randn(2, *([number] if number else []), 8, 8)
    other = logits.clone()
    other[..., :3, :] += 3
    expected = module._loss(logits, y)
    torch.testing.assert_close(module._loss(other, y), expected)
    assert 0 < expected < 5


def test_mean_of_the_known() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(4, 5), torch.randint(0, 2, (4, 5))
    plain = torch.nn.BCEWithLogitsLoss()
    margin = torch.nn.functional.multilabel_soft_margin_loss(logits, y)
    torch.testing.assert_close(MaskedBinaryCrossEntropy()(logits, y), margin)
    known = torch.rand(4, 5) < 0.5
    expected = plain(logits[known], y[known].float())
    found = MaskedBinaryCrossEntropy(-1)(logits, torch.where(known, y, -1))
    torch.testing.assert_close(found, expected)
    assert MaskedBinaryCrossEntropy(-1)(logits, torch.full_like(y, -1)) == 0


@pytest.mark.parametrize('loss', ['soft_margin', 'bce'])
def test_unknown_labels_of_a_fit(loss: Any) -> None:
    torch.manual_seed(0)
    samples = [
        {
            'image_s1': torch.rand(2, 32, 32),
            'label': torch.tensor([i % 2, 1, i % 3 - 1]),
        }
        for i in range(8)
    ]
    module = LateFusionClassification(
        {'s1': 2},
        'test_resnet',
        task='multilabel',
        num_labels=3,
        loss=loss,
        ignore_index=-1,
    )
    data: Any = DataLoader(samples, batch_size=4)  # type: ignore[arg-type]
    run = trainer()
    run.fit(module, data, data)
    values = run.callback_metrics
    assert 0 < values['train_loss'] < 5 and 0 < values['val_mAP_micro'] <= 1


@pytest.mark.parametrize(('task', 'number'), [('binary', None), ('multiclass', 3)])
def test_jaccard_leaves_out_nothing(task: str, number: int | None) -> None:
    with pytest.raises(ValueError, match=r"'jaccard', .* got 255; use 'dice'"):
        segmentation(task, 'jaccard', num_classes=number)
