"""Check that unknown targets are ignored."""

from typing import Any

import pytest
import torch
from kornia.losses import focal_loss
from torch import nn
from torch.utils.data import DataLoader
from torchvision.ops import sigmoid_focal_loss

from tests.helpers.small_fits import trainer
from torchgeo_decur.tasks import LateFusionClassification, LateFusionSegmentation
from torchgeo_decur.tasks.transfer.masked_loss import MaskedLoss


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


def test_mean_is_over_known_targets() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(4, 5), torch.randint(0, 2, (4, 5))
    plain = torch.nn.BCEWithLogitsLoss()
    margin = torch.nn.functional.multilabel_soft_margin_loss(logits, y)
    torch.testing.assert_close(MaskedLoss(False)(logits, y), margin)
    known = torch.rand(4, 5) < 0.5
    expected = plain(logits[known], y[known].float())
    found = MaskedLoss(False, -1)(logits, torch.where(known, y, -1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('weights', [None, [1.0, 0.0, 3.0]])
def test_cross_entropy_equals_that_of_torch(weights: list[float] | None) -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(4, 3, 5), torch.randint(0, 3, (4, 5))
    y[0] = 255
    given = None if weights is None else torch.tensor(weights)
    expected = nn.CrossEntropyLoss(given, ignore_index=255)(logits, y)
    torch.testing.assert_close(MaskedLoss(True, 255, weights)(logits, y), expected)


def test_focal_loss_equals_those_of_torchvision_and_kornia() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(4, 3), torch.randint(0, 3, (4,))
    labels = torch.nn.functional.one_hot(y)
    expected = sigmoid_focal_loss(logits, labels.float(), -1, 2, 'mean')
    found = MaskedLoss(False, gamma=2)(logits, labels)
    torch.testing.assert_close(found, expected)
    expected = focal_loss(logits, y, None, 2, reduction='sum') / 4
    torch.testing.assert_close(MaskedLoss(True, gamma=2)(logits, y), expected)


@pytest.mark.parametrize(
    ('task', 'loss', 'number'),
    [
        ('multiclass', 'ce', 3),
        ('multiclass', 'focal', 3),
        ('multiclass', 'dice', 3),
        ('multilabel', 'bce', 3),
        ('multilabel', 'focal', 3),
        ('binary', 'focal', None),
    ],
)
def test_without_known_targets_nothing_is_learned(
    task: str, loss: str, number: int | None
) -> None:
    names = {'multiclass': 'num_classes', 'multilabel': 'num_labels'}
    options = {names[task]: number} if number else {}
    module = segmentation(task, loss, **options)
    logits = torch.randn(2, *([number] if number else []), 4, requires_grad=True)
    shape = (2, 3, 4) if task == 'multilabel' else (2, 4)
    value = module._loss(logits, torch.full(shape, 255))
    value.backward()
    assert value == 0 and logits.grad is not None and logits.grad.eq(0).all()


def scenes(number: int, classes: int = 4) -> list[dict[str, Any]]:
    """Images whose brightness is their class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(number) % classes
    noise = torch.rand(number, 2, 32, 32, generator=generator) / 10
    images = labels[:, None, None, None] / classes + noise
    return [{'image_s1': x, 'label': y} for x, y in zip(images, labels, strict=True)]


def classification(loss: Any, **options: Any) -> LateFusionClassification:
    kind: dict[str, Any] = {'num_classes': 4, 'optimizer': 'sgd', 'lr': 0.05}
    torch.manual_seed(0)
    return LateFusionClassification(
        {'s1': 2}, 'test_resnet', loss=loss, **{**kind, **options}
    )


def test_focal_loss_learns() -> None:
    module: Any = classification('focal')
    data: Any = DataLoader(scenes(32), batch_size=8)  # type: ignore[arg-type]
    run = trainer(max_epochs=12, limit_val_batches=0)
    run.fit(module, data, data)
    (found,) = trainer().validate(module, data, verbose=False)
    assert found['val_OverallAccuracy'] > 0.9


@pytest.mark.parametrize('loss', ['ce', 'focal', 'dice'])
def test_loss_of_a_split_is_over_its_known_targets(loss: str) -> None:
    samples = scenes(12)
    for i in (0, 1, 2, 3, 5):
        samples[i]['label'] = torch.tensor(255)
    module = classification(loss, ignore_index=255)
    data: Any = DataLoader(samples, batch_size=4)  # type: ignore[arg-type]
    run = trainer(max_steps=1, limit_val_batches=0)
    run.fit(module, data, data)
    # The batch without a label neither moved the weights to NaN nor logged a loss.
    assert all(p.isfinite().all() for p in module.parameters())
    assert 'train_loss' not in run.callback_metrics
    losses, module = [], module.eval()
    for part in (samples[4:8], samples[8:]):
        y = torch.stack([s['label'] for s in part])
        with torch.no_grad():
            y_hat = module({'s1': torch.stack([s['image_s1'] for s in part])})
        losses.append(module._loss(y_hat, y).item())
    expected = (3 * losses[0] + 4 * losses[1]) / 7
    (val,) = trainer().validate(module, data, verbose=False)
    (test,) = trainer().test(module, data, verbose=False)
    assert val['val_loss'] == pytest.approx(expected, rel=1e-4)
    assert test['test_loss'] == pytest.approx(expected, rel=1e-4)


class TestLabelsOutsideTheClasses:
    @pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
    @pytest.mark.parametrize(('label', 'found'), [(4, '4'), (-1, '-1')])
    def test_are_refused_before_a_kernel(
        self, stage: str, label: int, found: str
    ) -> None:
        samples = scenes(8)
        samples[1]['label'] = torch.tensor(label)
        data: Any = DataLoader(samples, batch_size=4)  # type: ignore[arg-type]
        message = rf'label must have classes from 0 to 3, got {found}; set num_classes'
        with pytest.raises(ValueError, match=message):
            given = [data, data] if stage == 'fit' else [data]
            getattr(trainer(), stage)(classification('ce'), *given)

    def test_are_refused_in_multilabel_tasks(self) -> None:
        module = segmentation('multilabel', 'bce', num_labels=3)
        module.guard.replace(torch.tensor([0, 1, 255, 3]))
        message = r'mask must have classes from 0 to 1 or ignore_index 255, got 3;'
        with pytest.raises(ValueError, match=message):
            module.guard.check('mask')

    def test_steps_that_are_not_logged_do_not_check(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked: list[int] = []
        module = classification('ce')

        def looks(batch_idx: int) -> bool:
            # As on a GPU: in the first and the last step of an epoch.
            return batch_idx in (0, 3)

        monkeypatch.setattr(module, '_should_log', looks)
        monkeypatch.setattr(module.guard, 'check', lambda key: looked.append(1))
        samples = scenes(16)
        samples[6]['label'] = torch.tensor(9)
        data: Any = DataLoader(samples, batch_size=4)  # type: ignore[arg-type]
        trainer(limit_val_batches=0).fit(module, data, data)
        assert len(looked) == 2
        monkeypatch.undo()
        # The label did not reach the kernels, and is not forgotten.
        with pytest.raises(ValueError, match=r'got 9;'):
            module.guard.check('label')


@pytest.mark.parametrize('loss', ['soft_margin', 'bce', 'focal'])
def test_a_fit_ignores_unknown_labels(loss: Any) -> None:
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
    assert 0 < values['train_loss'] < 5 and 0 < values['val_loss'] < 5
    assert 0 < values['val_mAP_micro'] <= 1


@pytest.mark.parametrize(('task', 'number'), [('binary', None), ('multiclass', 3)])
def test_jaccard_refuses_ignore_index(task: str, number: int | None) -> None:
    with pytest.raises(ValueError, match=r"'jaccard', .* got 255; use loss 'dice'"):
        segmentation(task, 'jaccard', num_classes=number)
