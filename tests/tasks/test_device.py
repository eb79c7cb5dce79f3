"""Check steps on a simulated GPU: no tensor on the CPU, and no synchronization."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from tests.helpers.simulated_device import CUDA, SimulatedDevice, simulated
from torchgeo_decur import losses, tasks
from torchgeo_decur.losses import EmbeddingLoss
from torchgeo_decur.tasks.base import FiniteGuard
from torchgeo_decur.tasks.transfer import masked_regression

MODALITIES = {'s1': 2, 's2': 13}
FUSION = {'embed_dim': 32, 'num_heads': 4}
OBJECTIVES: dict[str, dict[str, Any]] = {
    'DeCUR': {},
    'BarlowTwins': {},
    'VICReg': {},
    'CrossModalSimCLR': {},
    'CLIP': {},
    'CoMM': FUSION,
    'COrAL': FUSION,
    'InfMasking': FUSION,
    'FactorCL': {'critic_dim': 16},
}


def batch(device: SimulatedDevice) -> dict[str, Tensor]:
    return {m: torch.empty(8, 2, c, 48, 48, device=CUDA) for m, c in MODALITIES.items()}


@pytest.mark.parametrize('objective', OBJECTIVES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_pretraining_step_does_not_synchronize(
    objective: str, dtype: torch.dtype
) -> None:
    task = getattr(tasks, objective)(
        MODALITIES, 'test_resnet', projector=[16, 16], size=32, **OBJECTIVES[objective]
    )
    guard = FiniteGuard()
    with simulated() as device:
        device.move(task)
        images = batch(device)
        with torch.autocast('cuda', dtype):
            terms, _, z = task.compute_loss(images)
        guard.add(terms)
        terms['loss'].backward()
        assert all(t.device == CUDA for t in (*terms.values(), *z.values()))
        for name, parameter in task.named_parameters():
            assert parameter.grad is None or parameter.grad.device == CUDA, name
        assert not device.waits
        # Two views of two modalities: a date, places of pixels, factors of Kornia.
        assert 8 <= len(device.copies) <= 2 * (2 + 2 + 1 + 5)


@pytest.mark.parametrize('objective', ['DeCUR', 'CoMM'])
def test_partly_paired_step_does_not_synchronize(objective: str) -> None:
    task = getattr(tasks, objective)(
        MODALITIES, 'test_resnet', projector=[16, 16], size=32, **OBJECTIVES[objective]
    )
    masks = {'s1': torch.arange(8) % 4 > 0, 's2': torch.arange(8) != 2}
    with simulated() as device:
        device.move(task)
        with torch.autocast('cuda', torch.bfloat16):
            terms, h, z = task.compute_loss(batch(device), masks)
        FiniteGuard().add(terms)
        terms['loss'].backward()
        task.collapse_metrics(h, z, {m: x[0].any(1) for m, x in z.items()})
        assert terms['pairs_s1_s2'].device == CUDA and len(h['s1']) == 6
        assert not device.waits


def test_losses_of_partly_paired_samples_do_not_synchronize() -> None:
    found: dict[str, EmbeddingLoss] = {
        '': losses.DeCURLoss(8),
        ' ': losses.VICRegLoss(),
        '  ': losses.SimCLRLoss(),
        '   ': losses.CLIPLoss(),
        'joint': losses.CoMMLoss(),
        'shared': losses.COrALLoss(),
    }
    for extra, criterion in found.items():
        names = [*MODALITIES, *([extra] if extra.strip() else [])]
        with simulated() as device:
            device.move(criterion)
            z = {
                m: torch.empty(2, 8, 12, device=CUDA, requires_grad=True) for m in names
            }
            masks = {'s1': torch.empty(8, dtype=torch.bool, device=CUDA)}
            criterion(z, masks)['loss'].backward()
            assert not device.waits, criterion


def transfer(kind: str) -> Any:
    if kind == 'classification':
        return tasks.LateFusionClassification(
            MODALITIES,
            'test_resnet',
            num_classes=3,
            size=32,
            crop_scale=[0.5, 1.0],
            modality_dropout=0.3,
        )
    if kind == 'regression':
        return tasks.LateFusionPixelwiseRegression(
            MODALITIES, 'fcn', 'resnet10t', nodata=-9999, crop_scale=[0.5, 1.0]
        )
    return tasks.LateFusionSegmentation(
        MODALITIES, 'fcn', 'resnet10t', num_classes=3, crop_scale=[0.5, 1.0]
    )


@pytest.mark.parametrize('kind', ['classification', 'segmentation', 'regression'])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_transfer_step_does_not_synchronize(kind: str, dtype: torch.dtype) -> None:
    task = transfer(kind)
    task.train_metrics.update = lambda *_: None
    with simulated() as device:
        device.move(task)
        shape = (8,) if kind == 'classification' else (8, 48, 48)
        kept = torch.float32 if kind == 'regression' else torch.long
        target = torch.empty(shape, dtype=kept, device=CUDA)
        images = {f'image_{m}': x for m, x in batch(device).items()}
        with (
            patch.object(type(task), 'device', CUDA),
            patch.object(type(task), '_should_log', lambda *_: False),
            torch.autocast('cuda', dtype),
        ):
            loss = task.training_step({**images, task.hparams['label_key']: target}, 1)
        loss.backward()
        assert loss.device == CUDA and not device.waits
        assert all(p.grad is None or p.grad.device == CUDA for p in task.parameters())


def test_errors_of_numbers_do_not_synchronize() -> None:
    with simulated() as device:
        y_hat, y = torch.empty(2, 4, 2, 8, 8, device=CUDA)
        error, known = masked_regression._errors(y_hat, y)
        assert error.shape == (256, 2) and known.shape == (2,)
        assert not device.waits


def test_simulated_device_detects_synchronization() -> None:
    with simulated() as device:
        x = torch.ones(3).to(CUDA)
        with pytest.raises(Exception, match=r'two (different )?devices'):
            x + torch.ones(3)
        device.waits.clear()
        assert x.sum().item() == 0 and x.cpu().tolist() == [0, 0, 0]
        assert device.waits == ['_local_scalar_dense', 'to the CPU']
        with pytest.raises(DynamicOutputShapeException):
            x[x > 0]
        with torch.autocast('cuda', torch.float16):
            assert (
                torch.nn.functional.linear(x, torch.ones(2, 3).to(CUDA)).dtype
                == torch.float16
            )
