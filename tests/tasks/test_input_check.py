"""Check that tasks refuse images outside [0, 1]."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.helpers.small_fits import trainer
from torchgeo_decur.modalities import check_unit_interval
from torchgeo_decur.tasks import DeCUR, LateFusionClassification, base

MODALITIES = {'s1': 2, 's2': 4}


def loader(**change: Any) -> DataLoader[Any]:
    """Return six samples in [0, 1], in batches of two, with changed images."""

    def sample(index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        images = {
            f'image_{m}': torch.rand(c, 32, 32, generator=generator)
            for m, c in MODALITIES.items()
        }
        for m, function in change.items():
            images[f'image_{m}'] = function(images[f'image_{m}'], index)
        return {**images, 'label': torch.tensor(index % 2)}

    samples: Any = [sample(i) for i in range(6)]
    return DataLoader(samples, batch_size=2)


def pretraining() -> DeCUR:
    return DeCUR(MODALITIES, model='test_resnet', projector=[8], size=32)


def transfer() -> LateFusionClassification:
    return LateFusionClassification(MODALITIES, model='test_resnet', num_classes=2)


@pytest.mark.parametrize('task', [pretraining, transfer])
class TestRefuses:
    def test_refuses_digital_numbers(self, task: Any) -> None:
        raw = loader(s2=lambda x, _: 3000 * x)
        message = r's2: expected images in \[0, 1\], found values in \[.*ScaleToUnit'
        with pytest.raises(ValueError, match=message):
            trainer().fit(task(), raw, loader())

    def test_refuses_decibels_in_validation(self, task: Any) -> None:
        raw = loader(s1=lambda x, _: -30 * x)
        with pytest.raises(ValueError, match=r's1: expected images in \[0, 1\]'):
            trainer(num_sanity_val_steps=1).fit(task(), loader(), raw)

    def test_refuses_bytes_in_prediction(self, task: Any) -> None:
        raw = loader(s2=lambda x, _: (255 * x).byte())
        message = r's2: expected floating-point images in \[0, 1\], found torch.uint8'
        with pytest.raises(ValueError, match=message):
            trainer().predict(task(), raw)


def test_checks_each_stage_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def spy(images: Any) -> None:
        calls.append(list(images))
        check_unit_interval(images)

    monkeypatch.setattr(base, 'check_unit_interval', spy)
    # Later batches are not checked, to avoid device synchronization.
    later = loader(s1=lambda x, index: x - 5 if index > 1 else x)
    task = pretraining()
    trainer(num_sanity_val_steps=1, max_epochs=2).fit(task, later, later)
    assert calls == [['s1', 's2']] * 2
    trainer().test(task, later, verbose=False)
    assert len(calls) == 3


def test_warns_if_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCHGEO_DECUR_CHECK', 'warn')
    with pytest.warns(UserWarning, match='s1: expected images in'):
        trainer().predict(transfer(), loader(s1=lambda x, _: x - 5))
