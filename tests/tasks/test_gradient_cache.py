"""Check gradient caching: the gradient of a large batch, the memory of a small one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.profiler import profile

from tests.helpers.small_fits import datamodule, trainer
from torchgeo_decur.tasks import (
    CLIP,
    BarlowTwins,
    CoMM,
    COrAL,
    CrossModalSimCLR,
    DeCUR,
    FactorCL,
    InfMasking,
    VICReg,
)
from torchgeo_decur.tasks.gradient_cache import apply_in_micro_batches

MODALITIES = {'s1': 2, 's2': 13}
FUSED = (CoMM, COrAL, InfMasking)
OBJECTIVES = (BarlowTwins, VICReg, CrossModalSimCLR, CLIP, DeCUR, FactorCL, *FUSED)


def task(objective: Any = DeCUR, **kwargs: Any) -> Any:
    options: dict[str, Any] = {'model': 'test_resnet', 'projector': [32, 16]}
    options |= {'size': 32, 'optimizer': 'adamw', 'lr': 1e-3}
    if objective in FUSED:
        options |= {'embed_dim': 32, 'num_heads': 4}
    torch.manual_seed(0)
    # In float32, dimensions with little variance amplify the rounding of the encoders.
    return objective(**{'modalities': MODALITIES, **options, **kwargs}).double()


def images(batch: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        m: torch.rand(batch, c, 40, 40, generator=generator).double()
        for m, c in MODALITIES.items()
    }


def step(model: Any, batch: int = 8, bf16: bool = False) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of one step, always with the same draws."""
    torch.manual_seed(2)
    dtype = next(model.parameters()).dtype
    x = {m: image.to(dtype) for m, image in images(batch).items()}
    with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
        loss: Tensor = model.compute_loss(x)[0]['loss']
    loss.backward()
    gradient = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return loss.detach(), torch.cat(gradient)


def assert_equal(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    assert found[1].shape == expected[1].shape
    assert (found[1] - expected[1]).norm() < 1e-5 * expected[1].norm()


@pytest.mark.parametrize('objective', OBJECTIVES)
class TestGradientEqualsThatOfTheBatch:
    @pytest.mark.parametrize('micro_batch_size', [2, 3])
    def test_equals_without_batch_statistics(
        self, objective: Any, micro_batch_size: int
    ) -> None:
        options: dict[str, Any] = {'model': 'test_vit', 'projector': [16]}
        expected = step(task(objective, **options))
        found = step(task(objective, micro_batch_size=micro_batch_size, **options))
        assert_equal(found, expected)

    def test_equals_with_fixed_batch_statistics(self, objective: Any) -> None:
        expected = step(task(objective).eval())
        assert_equal(step(task(objective, micro_batch_size=3).eval()), expected)


def test_gradient_in_bf16_is_as_exact_as_that_of_the_batch() -> None:
    options: dict[str, Any] = {'model': 'test_vit', 'projector': [16]}
    exact = step(task(**options))[1]
    loss, gradient = step(task(**options).float(), bf16=True)
    found = step(task(micro_batch_size=4, **options).float(), bf16=True)
    torch.testing.assert_close(found[0], loss, rtol=1e-2, atol=0)
    error = (gradient - exact).norm()
    assert 1e-3 * exact.norm() < error < 0.2 * exact.norm()
    assert (found[1] - exact).norm() < 1.2 * error


class TestBatchNorm:
    """Check statistics of a micro-batch against a loop that keeps all activations."""

    def loop(self, model: Any, size: int) -> tuple[Tensor, Tensor]:
        whole = model.encode_and_project

        def encode(views: dict[str, Tensor], view: int) -> Any:
            parts = {m: x.split(size) for m, x in views.items()}
            outputs = [
                whole({m: x[i] for m, x in parts.items()}, view)
                for i in range(len(parts['s1']))
            ]
            return tuple(
                {k: torch.cat([o[k] for o in same]) for k in same[0]}
                for same in zip(*outputs, strict=True)
            )

        model.encode_and_project = encode
        return step(model)

    @pytest.mark.parametrize('objective', [DeCUR, CoMM, COrAL])
    def test_equals_a_loop(self, objective: Any) -> None:
        model, reference = task(objective, micro_batch_size=4), task(objective)
        assert_equal(step(model), self.loop(reference, 4))

    def test_only_the_first_pass_updates_running_statistics(self) -> None:
        model, reference = task(micro_batch_size=4), task()
        step(model)
        self.loop(reference, 4)
        found, expected = dict(model.named_buffers()), dict(reference.named_buffers())
        assert not [k for k, b in expected.items() if not torch.equal(found[k], b)]
        batches = [b for k, b in found.items() if k.endswith('num_batches_tracked')]
        assert batches and {int(b) for b in batches} == {2 * 2}  # views, chunks

    def test_differs_from_the_batch(self) -> None:
        found, expected = step(task(micro_batch_size=4)), step(task())
        assert (found[1] - expected[1]).norm() > 1e-2 * expected[1].norm()


class TestApplyInMicroBatches:
    def test_random_draws_are_repeated(self) -> None:
        layer = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        x = torch.rand(6, 4)

        def gradient(size: int | None) -> tuple[Tensor, Tensor]:
            layer.zero_grad()
            torch.manual_seed(3)
            if size is None:
                z = torch.cat([layer(part) for part in x.split(2)])
            else:
                z = apply_in_micro_batches(
                    lambda x: ({'a': layer(x['a'])},), {'a': x}, size, layer
                )[0]['a']
            z.square().sum().backward()
            weight = layer[0].weight.grad
            assert weight is not None
            return weight.clone(), torch.get_rng_state()

        (found, after), (expected, state) = gradient(2), gradient(None)
        torch.testing.assert_close(found, expected)
        assert torch.equal(after, state)

    @pytest.mark.parametrize(
        ('samples', 'size', 'sizes'),
        [
            (8, None, [8]),
            (8, 8, [8]),
            (8, 9, [8]),
            (8, 7, [4, 4]),
            (8, 3, [3, 3, 2]),
            (5, 2, [3, 2]),
            (3, 2, [3]),
            (1, 1, [1]),
        ],
    )
    def test_sizes_of_micro_batches_differ_by_at_most_one(
        self, samples: int, size: int | None, sizes: list[int]
    ) -> None:
        seen: list[int] = []

        def function(x: dict[str, Tensor]) -> tuple[dict[str, Tensor]]:
            seen.append(len(x['a']))
            return (x,)

        x = torch.rand(samples, 2)
        with torch.no_grad():
            (found,) = apply_in_micro_batches(function, {'a': x}, size, nn.Identity())
        assert seen == sizes and torch.equal(found['a'], x)


def peak(function: Callable[[], Any]) -> int:
    """Return the peak memory of tensors during a call, above the start."""
    with profile(profile_memory=True) as recorded:
        function()
    assert recorded.profiler is not None
    results = recorded.profiler.kineto_results
    assert results is not None
    events = [e for e in results.events() if e.name() == '[memory]']
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def test_memory_is_that_of_a_micro_batch() -> None:
    still = {m: nn.Identity() for m in MODALITIES}
    options = {'projector': [16], 'augmentations': still}
    cases = [({}, 32), ({'micro_batch_size': 4}, 32), ({}, 4)]
    whole, chunked, small = (
        peak(partial(step, task(**o, **options), n)) for o, n in cases
    )
    # Besides a chunk there are the images, and their views in another layout.
    kept = 3 * sum(x.nbytes for x in images(32).values())
    assert chunked < small + kept < 0.5 * whole


class TestFit:
    def fit(self, model: LightningModule, **kwargs: Any) -> list[float]:
        losses: list[float] = []

        class Watch(Callback):
            def on_train_batch_end(
                self, _: Any, __: Any, outputs: Any, *a: Any
            ) -> None:
                losses.append(outputs['loss'].item())

        trainer(callbacks=[Watch()], **kwargs).fit(
            model, datamodule=datamodule(val_length=8)
        )
        return losses

    @pytest.mark.parametrize(
        ('precision', 'lr', 'tolerance'),
        [('64-true', 1e-3, 1e-5), ('bf16-mixed', 0, 1e-2)],
    )
    def test_equals_a_fit_without_micro_batches(
        self, precision: str, lr: float, tolerance: float
    ) -> None:
        # In bf16-mixed, weights must not change. A rate of 1e-6 changes the next loss by
        # 1e-7 in float32, but by 1.5 % in bf16: it flips the rounding of some weights, and
        # then of all activations. Each loss in bf16 is up to 1 % from that in float32.
        options: dict[str, Any] = {'model': 'test_vit', 'projector': [16], 'lr': lr}
        # Lightning turns to float64 itself, and under autocast weights are in float32.
        expected = self.fit(task(**options).float(), precision=precision)
        found = self.fit(
            task(micro_batch_size=4, **options).float(), precision=precision
        )
        assert found == pytest.approx(expected, rel=tolerance)

    @pytest.mark.parametrize('micro_batch_size', [0, 1])
    def test_micro_batches_of_one_are_refused(self, micro_batch_size: int) -> None:
        with pytest.raises(ValueError, match=rf'at least 2.* got {micro_batch_size}'):
            task(micro_batch_size=micro_batch_size)

    def test_a_remaining_sample_joins_a_micro_batch(self) -> None:
        # BatchNorm would raise on a chunk of one.
        loss, gradient = step(task(micro_batch_size=2), batch=3)
        assert loss.isfinite() and gradient.isfinite().all()
