"""Check optimizers and the effects of their options."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from lightly.utils.lars import LARS
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.small_fits import MODALITIES, datamodule, trainer
from torchgeo_decur.tasks import DeCUR, LateFusionClassification
from torchgeo_decur.tasks.optimizers import InPlaceLARS, build_optimizer


def pretraining(**options: Any) -> DeCUR:
    given: dict[str, Any] = {'projector': [8], 'size': 32, 'optimizer': 'adamw'}
    return DeCUR(MODALITIES, 'test_resnet', **{**given, **options})


def transfer() -> LateFusionClassification:
    return LateFusionClassification(
        MODALITIES, 'test_resnet', num_classes=8, label_key='label_common'
    )


def change(weight_decay: float) -> Tensor:
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    before = layer.weight.detach().clone()
    optimizer = build_optimizer(layer, ['resnet50'], weight_decay=weight_decay)
    layer(torch.ones(1, 8)).square().sum().backward()
    optimizer.step()
    return layer.weight.detach() - before


def test_lars_adapts_rates_without_weight_decay_too() -> None:
    torch.testing.assert_close(change(0.0), change(1e-9), rtol=1e-4, atol=1e-9)


def test_lars_equals_that_of_lightly() -> None:
    torch.manual_seed(0)
    # Parameters that are 0, or have no gradient, are not adapted.
    shapes = [torch.randn(4, 3), torch.zeros(4, 3), torch.randn(4, 3), torch.randn(5)]
    both = []
    for kind in (LARS, InPlaceLARS):
        p = [nn.Parameter(x.double()) for x in shapes]
        groups = [
            {'params': p[:3], 'weight_decay': 0.1},
            {'params': p[3:], 'weight_decay': 0.0},
        ]
        both.append((p, kind(groups, lr=0.3, momentum=0.9)))
    for step in range(3):
        for parameters, optimizer in both:
            torch.manual_seed(step)
            for number, parameter in enumerate(parameters):
                gradient = torch.randn_like(parameter)
                parameter.grad = 0 * gradient if number == 2 else gradient
            assert optimizer.step(lambda: 2.0) == 2.0
    (theirs, old), (ours, new) = both
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        new.state_dict()['state'], old.state_dict()['state'], check_stride=True
    )
    waits = []
    for optimizer in (old, new):
        with Waits() as counter:
            optimizer.step()
        waits.append(counter.number)
    assert waits[0] > 0 and waits[1] == 0


@pytest.mark.parametrize('build', [pretraining, transfer])
@pytest.mark.parametrize('precision', ['bf16-mixed', '32-true'])
def test_gradients_can_be_clipped(build: Any, precision: Any) -> None:
    module: LightningModule = build()
    run = trainer(precision=precision, gradient_clip_val=1.0, limit_val_batches=0)
    run.fit(module, datamodule=datamodule())
    assert run.global_step == 2


class Waits(TorchDispatchMode):
    """Count synchronizations with the host."""

    number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_steps_that_are_not_logged_do_not_synchronize(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module: Any = pretraining()
    looks = type(module)._should_log

    def as_on_a_gpu(self: Any, batch_idx: int) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(type(self), 'device', torch.device('meta'))
            return bool(looks(self, batch_idx))

    monkeypatch.setattr(type(module), '_should_log', as_on_a_gpu)
    counted: list[int] = []
    module.on_train_batch_start = lambda batch, batch_idx: counted.append(waits.number)
    run = trainer(log_every_n_steps=4, limit_val_batches=0)
    with Waits() as waits:
        run.fit(module, datamodule=datamodule(length=64))
    steps = [b - a for a, b in pairwise(counted)]
    assert len(counted) == 8
    # Lightning looks at what it shows in every step: on a GPU that is on the host already.
    assert steps[0] > steps[1] == steps[2] < steps[3]


def test_groups_are_those_before_sharding() -> None:
    task = pretraining()
    expected = [
        {id(p) for p in group['params']}
        for group in task.configure_optimizers()['optimizer'].param_groups
    ]
    for parameter in task.parameters():
        # What FSDP does to the shard that a device has.
        parameter.data = parameter.data.flatten()
    for name, encoder in list(task.encoders.encoders.items()):
        task.encoders.encoders[name] = nn.ModuleDict({'_fsdp_wrapped_module': encoder})
    found = [
        {id(p) for p in group['params']}
        for group in task.configure_optimizers()['optimizer'].param_groups
    ]
    assert found == expected and all(len(group) > 4 for group in found)


def test_validation_leaves_the_random_numbers_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check that validation restores the random state of a GPU."""
    forked: list[Any] = []
    task: Any = pretraining()
    fork = torch.random.fork_rng
    monkeypatch.setattr(type(task), 'device', torch.device('cuda', 0))
    monkeypatch.setattr(type(task), 'global_rank', 0)
    monkeypatch.setattr(task, 'log_dict', lambda *_, **__: None)

    def note(devices: Any) -> Any:
        forked.extend(devices)
        return fork([])

    monkeypatch.setattr(torch.random, 'fork_rng', note)
    task.validation_step(
        {f'image_{m}': torch.rand(2, c, 32, 32) for m, c in MODALITIES.items()}, 0
    )
    assert forked == [torch.device('cuda', 0)]


def test_parameters_in_one_vector_need_another_layout() -> None:
    """Check parameters_to_vector, LBFGS and others that use view, see docs/traps.md."""
    made = DeCUR({'a': 2, 'b': 3}, model='test_resnet', projector=[8])
    with pytest.raises(RuntimeError, match='view size is not compatible'):
        nn.utils.parameters_to_vector(made.parameters())
    made.to(memory_format=torch.contiguous_format)
    vector = nn.utils.parameters_to_vector(made.parameters())
    assert len(vector) == sum(p.numel() for p in made.parameters())
    nn.utils.vector_to_parameters(vector, made.parameters())
    optimizer = torch.optim.LBFGS(made.parameters(), max_iter=1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.stack([p.square().sum() for p in made.parameters()]).sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert closure() < first
