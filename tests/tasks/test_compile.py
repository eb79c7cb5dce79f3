"""Check that compiled parts have no graph break, equal values and equal checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.small_fits import datamodule, trainer
from torchgeo_decur.models import save_encoder
from torchgeo_decur.tasks import (
    CLIP,
    BarlowTwins,
    CoMM,
    COrAL,
    DeCUR,
    FactorCL,
    InfMasking,
)
from torchgeo_decur.tasks.base import FiniteGuard
from torchgeo_decur.tasks.optimizers import build_optimizer, build_transfer_optimizer

MODALITIES = {'s1': 2, 's2': 13}
FUSED = (CoMM, COrAL, InfMasking)
PARTLY = {'s1': torch.arange(8) != 1, 's2': torch.arange(8) % 4 != 3}


def task(objective: Any = DeCUR, **kwargs: Any) -> Any:
    options: dict[str, Any] = {'model': 'test_resnet', 'projector': [32, 16]}
    options |= {'size': 32, 'optimizer': 'adamw', 'lr': 1e-3}
    options |= {'augmentations': {m: nn.Identity() for m in MODALITIES}}
    if objective in FUSED:
        options |= {'embed_dim': 32, 'num_heads': 4}
    torch.manual_seed(0)
    return objective(**{'modalities': MODALITIES, **options, **kwargs})


def images(batch: int = 4) -> dict[str, Tensor]:
    return {m: torch.rand(batch, c, 32, 32) for m, c in MODALITIES.items()}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile without generating code, and fail at a graph break."""
    options: dict[str, Any] = {'backend': 'eager', 'fullgraph': True}
    module, function = nn.Module.compile, torch.compile
    monkeypatch.setattr(nn.Module, 'compile', lambda self: module(self, **options))
    monkeypatch.setattr(
        torch, 'compile', lambda f, **kw: function(f, **{**options, **kw})
    )
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures('quick')
@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor:UserWarning')
class TestCompile:
    @pytest.mark.parametrize(
        ('objective', 'options'),
        [
            (DeCUR, {'micro_batch_size': 2}),
            (BarlowTwins, {'projector': [16]}),
            (COrAL, {}),
            (DeCUR, {'masks': PARTLY, 'projector': [16]}),
            (InfMasking, {}),
            (FactorCL, {'critic_dim': 16}),
        ],
    )
    def test_equals_eager_without_a_graph_break(
        self, objective: Any, options: dict[str, Any]
    ) -> None:
        found = []
        masks = options.get('masks')
        options = {k: v for k, v in options.items() if k != 'masks'}
        x = images(8 if masks else 4)
        for compiled in (True, False):
            model = task(objective, compile=compiled, **options)
            torch.manual_seed(1)
            loss = model.compute_loss(x, masks)[0]['loss']
            loss.backward()
            gradient = [
                p.grad.flatten() for p in model.parameters() if p.grad is not None
            ]
            found.append((loss.detach(), torch.cat(gradient), model.state_dict()))
        (loss, gradient, state), (expected, direction, plain) = found
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
        assert (gradient - direction).norm() < 1e-3 * direction.norm()
        assert list(state) == list(plain)
        assert not [k for k in plain if not torch.allclose(state[k], plain[k])]

    def test_checkpoint_and_export_do_not_change(self, tmp_path: Path) -> None:
        model = task(compile=True)
        run = trainer(max_steps=2, default_root_dir=tmp_path)
        run.fit(model, datamodule=datamodule(length=8, val_length=8, batch_size=4))
        run.save_checkpoint(tmp_path / 'last.ckpt')
        plain = DeCUR.load_from_checkpoint(
            tmp_path / 'last.ckpt',
            compile=False,
            augmentations={m: nn.Identity() for m in MODALITIES},
        )
        state = model.state_dict()
        assert list(plain.state_dict()) == list(state)
        encoder = model.encoders.encoders['s1']
        path, _ = save_encoder(encoder, tmp_path / 's1', 'test_resnet', {})
        stored = torch.load(path, weights_only=True)['state_dict']
        assert not [k for k in stored if '_orig_mod' in k]


class NoWaiting(TorchDispatchMode):
    """Module that fails if the host would wait for the device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        waiting = (
            '_local_scalar_dense',
            'nonzero',
            'is_nonzero',
            'equal',
            'masked_select',
        )
        if func.overloadpacket.__name__ in waiting:
            raise AssertionError(f'{func} waits for the device')
        return func(*args, **(kwargs or {}))


class TestNoWaiting:
    @pytest.mark.parametrize('objective', [DeCUR, InfMasking, COrAL, CLIP, FactorCL])
    @pytest.mark.parametrize('optimizer', ['adamw', 'lars'])
    def test_step_does_not_wait_for_the_device(
        self, objective: Any, optimizer: Any
    ) -> None:
        model = task(objective, optimizer=optimizer, micro_batch_size=2)
        optimizers = model.configure_optimizers()['optimizer']
        guard, x = FiniteGuard(), images()
        with NoWaiting():
            terms = model.compute_loss(x)[0]
            guard.add(terms)
            terms['loss'].backward()
        # On a CPU the fused kernel reads its step; on a GPU it is on the device.
        optimizers.step()

    def test_the_test_sees_it(self) -> None:
        with NoWaiting(), pytest.raises(AssertionError, match='waits for the device'):
            torch.ones(1).item()


class TestFusedOptimizer:
    def test_is_used(self) -> None:
        model = task()
        for optimizer in (
            build_optimizer(model, [], 'adamw'),
            build_transfer_optimizer(nn.ModuleDict({'encoders': model}))[0],
        ):
            assert all(group['fused'] for group in optimizer.param_groups)
        assert not build_optimizer(model.to('meta'), [], 'adamw').param_groups[0][
            'fused'
        ]

    def test_equals_the_plain_one(self) -> None:
        steps = []
        for fused in (True, False):
            model = task()
            optimizer = build_optimizer(model, [], 'adamw', lr=1e-2)
            if not fused:
                groups = [
                    {k: g[k] for k in ('params', 'lr', 'weight_decay')}
                    for g in optimizer.param_groups
                ]
                optimizer = AdamW(groups)
            for _ in range(3):
                torch.manual_seed(1)
                optimizer.zero_grad()
                model.projectors['s1'](torch.rand(8, 96)).square().sum().backward()
                optimizer.step()
            steps.append(torch.cat([p.flatten() for p in model.parameters()]))
        torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-6)
