"""Check that recomputed activations save memory and change no result."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from torchgeo_decur.models import MultimodalEncoder, create_encoder
from torchgeo_decur.tasks import (
    CLIP,
    BarlowTwins,
    CoMM,
    COrAL,
    CrossModalSimCLR,
    DeCUR,
    FactorCL,
    InfMasking,
    LateFusionClassification,
    LateFusionSegmentation,
    VICReg,
)

FUSED = (CoMM, COrAL, InfMasking)


def task(objective: Any = DeCUR, **options: Any) -> Any:
    small: dict[str, Any] = {'model': 'test_resnet', 'projector': [32, 16]}
    small |= {'size': 32, 'optimizer': 'adamw', 'lr': 1e-3}
    if objective in FUSED:
        small |= {'embed_dim': 32, 'num_heads': 4}
    torch.manual_seed(0)
    return objective(MODALITIES, **{**small, **options})


def step(model: Any) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of one step, always with the same draws."""
    torch.manual_seed(2)
    x = {m: torch.rand(6, c, 32, 32).double() for m, c in MODALITIES.items()}
    loss: Tensor = model.double().compute_loss(x)[0]['loss']
    loss.backward()
    gradient = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(gradient)


def stored_bytes(encoder: nn.Module, x: Any) -> int:
    """Return the bytes that autograd stores for the backward pass, without weights."""
    found = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    total = 0

    def pack(t: Tensor) -> Tensor:
        nonlocal total
        storage = t.untyped_storage()
        if storage.data_ptr() not in found:
            found.add(storage.data_ptr())
            total += storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        encoder(x).sum()
    return total


@pytest.mark.parametrize(
    ('objective', 'options'),
    [
        *((o, {}) for o in (BarlowTwins, VICReg, CrossModalSimCLR, CLIP, FactorCL)),
        *((o, {}) for o in FUSED),
        *((DeCUR, {'model': m}) for m in ('test_vit', 'mit_b0', 'alexnet_small')),
        (DeCUR, {'model': 'resnet18_rda'}),
        (DeCUR, {'micro_batch_size': 3}),
    ],
)
def test_loss_and_gradient_are_the_same(objective: Any, options: Any) -> None:
    expected = step(task(objective, **options))
    found = step(task(objective, **options, grad_checkpointing=True))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=0)
    assert found[1].shape == expected[1].shape
    assert (found[1] - expected[1]).norm() < 1e-6 * expected[1].norm()


def transfer(objective: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return objective(MODALITIES, num_classes=3, **options).double()


@pytest.mark.parametrize(
    ('objective', 'options'),
    [
        (LateFusionClassification, {'model': 'test_resnet'}),
        (LateFusionSegmentation, {'model': 'fcn', 'backbone': 'test_resnet'}),
        (LateFusionSegmentation, {'model': 'fcn', 'backbone': 'test_vit'}),
        (LateFusionSegmentation, {'model': 'cmx', 'backbone': 'test_resnet'}),
    ],
)
def test_gradient_of_a_transfer_is_the_same_with_less_memory(
    objective: Any, options: Any
) -> None:
    x = {m: torch.rand(2, c, 64, 64).double() for m, c in MODALITIES.items()}
    found = []
    for enable in (False, True):
        model = transfer(objective, **options, grad_checkpointing=enable)
        stored = stored_bytes(model, x)
        logits = model(x)
        model.zero_grad()
        logits.square().mean().backward()
        found.append((stored, logits, [p.grad for p in model.parameters()]))
    (before, *expected), (after, *same) = found
    assert after < before
    torch.testing.assert_close(same, expected, rtol=1e-6, atol=1e-12)


def test_fit_of_a_transfer_has_the_same_statistics() -> None:
    states = []
    for enable in (False, True):
        torch.manual_seed(0)
        options: dict[str, Any] = {'num_classes': 8, 'grad_checkpointing': enable}
        options['label_key'] = 'label_common'
        model = LateFusionClassification(MODALITIES, 'test_resnet', **options)
        trainer(max_steps=2, limit_val_batches=0).fit(model, datamodule())
        states.append(model.state_dict())
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


def test_every_encoder_recomputes() -> None:
    model = task(COrAL, grad_checkpointing=True)
    encoders = [e for e in model.modules() if hasattr(e, 'grad_checkpointing')]
    assert len(encoders) == 4 and all(e.grad_checkpointing for e in encoders)


@pytest.mark.parametrize('name', ['test_resnet', 'resnet18_rda', 'mit_b0', 'alexnet'])
def test_recomputation_stores_less(name: str) -> None:
    encoder: Any = create_encoder(name, 3)
    x = torch.rand(1, 3, 64, 64)
    before = stored_bytes(encoder, x)
    encoder.set_grad_checkpointing()
    assert stored_bytes(encoder, x) < 0.8 * before


def test_fit_has_the_same_weights_and_statistics() -> None:
    states = []
    for enable in (False, True):
        model = task(grad_checkpointing=enable)
        trainer(default_root_dir=None).fit(model, datamodule())
        states.append(model.state_dict())
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


def test_rejects_a_model_that_cannot_recompute(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = MultimodalEncoder({'s1': 2}, 'test_resnet')
    monkeypatch.delattr(timm.models.ResNet, 'set_grad_checkpointing')
    with pytest.raises(ValueError, match=r"got 'test_resnet' for s1; use smaller"):
        encoder.set_grad_checkpointing()
