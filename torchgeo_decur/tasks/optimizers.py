"""Optimizers and schedules of the published recipes."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import timm
import torch
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..weights.state_dict_layouts import normalize_key

# Learning rate, ratio of the bias learning rate to it, and weight decay.
_DEFAULTS = {'lars': (0.05, 0.096, 1e-6), 'adamw': (1e-4, 1.0, 0.01)}
# lightly's LARS adapts the learning rate only for groups with weight decay.
_NO_DECAY = 1e-12
# Prefixes that FSDP, activation checkpointing and torch.compile add to parameter names.
_WRAPPERS = re.compile(r'(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.')
# timm names of plain ResNets, such as resnet50, resnet10t, resnet18d, resnet50.a1_in1k
_PLAIN_RESNET = re.compile(r'resnet\d+[a-z]?(\..*)?')


class WarmupCosine(CosineWarmupScheduler):  # type: ignore[misc]
    """Pretraining schedule with linear warm-up and cosine decay.

    Its class distinguishes this schedule from the schedules of callbacks.
    """


class InPlaceLARS(LARS):  # type: ignore[misc]
    """LARS with momentum, which neither copies gradients nor waits for the device.

    lightly's optimizer gives the same result but compares the norms of each parameter
    on the host and copies each gradient. For large layers on a CPU, its step takes 2.7
    times as long.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the parameters once.

        Args:
            closure: function that recomputes the gradients and returns the loss.

        Returns:
            Loss from ``closure``, or None without ``closure``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state, decay = self.state[p], group['weight_decay']
        if 'momentum_buffer' not in state:
            state['momentum_buffer'] = torch.zeros_like(p)
        update = state['momentum_buffer'].mul_(group['momentum'])
        if decay == 0:
            update.add_(gradient)
        else:
            length, steepness = (torch.linalg.vector_norm(x) for x in (p, gradient))
            adapts = (length != 0) & (steepness != 0)
            rate = length / (steepness + decay * length + group['eps'])
            rate = group['trust_coefficient'] * rate
            update.addcmul_(gradient, rate.where(adapts, 1))
            update.addcmul_(p, (decay * rate).where(adapts, 0))
        p.add_(update, alpha=-group['lr'])


class EpochShare(LambdaLR):
    """Transfer schedule with one step per epoch.

    Its class distinguishes this schedule from the schedules of callbacks.
    """


def build_optimizer(
    module: nn.Module,
    models: Iterable[str],
    name: Literal['adamw', 'lars'] | None = None,
    lr: float | None = None,
    lr_biases: float | None = None,
    weight_decay: float | None = None,
    fused: bool = True,
    ndims: Mapping[str, int] | None = None,
) -> Optimizer:
    """Build an optimizer with a separate group for biases and normalization layers.

    This group has no weight decay, and LARS does not adapt its learning rate. timm's
    ``create_optimizer_v2`` builds the same groups, except for transformer tokens, but
    has no separate learning rate for biases. It also fails for parameters that FSDP has
    flattened.

    Args:
        module: module with the parameters to optimize.
        models: names of the timm models in ``module``, which determine the default of
            ``name``.
        name: 'adamw' or 'lars'. The default is 'lars' if all models are plain ResNets,
            and otherwise 'adamw'.
        lr: learning rate; by default 1e-4 for AdamW and 0.05 for LARS.
        lr_biases: learning rate of the separate group; by default ``lr`` for AdamW and
            0.096 ``lr`` for LARS.
        weight_decay: weight decay of all other parameters; by default 0.01 for AdamW
            and 1e-6 for LARS.
        fused: whether AdamW may update all parameters in one kernel.
        ndims: original number of dimensions of each parameter, from
            :func:`parameter_ndims`; by default the current number.

    Returns:
        The optimizer. Loading a checkpoint restores its state but not its options; see
        :func:`reset_lr_schedule`.

    Example:
        >>> optimizer = build_optimizer(nn.Linear(4, 4), ['resnet50'])
        >>> [round(group['lr'], 4) for group in optimizer.param_groups]
        [0.05, 0.0048]
    """
    plain = all(_PLAIN_RESNET.fullmatch(m) for m in models)
    name = name or ('lars' if plain else 'adamw')
    default_lr, ratio, default_decay = _DEFAULTS[name]
    lr = default_lr if lr is None else lr
    decay = default_decay if weight_decay is None else weight_decay
    now = parameter_ndims(module)
    parameters = dict(zip(now, module.parameters(), strict=True))
    ndim = now | {k: v for k, v in (ndims or {}).items() if k in now}
    groups = [
        {
            'params': [p for k, p in parameters.items() if ndim[k] > 1],
            'lr': lr,
            'weight_decay': max(decay, _NO_DECAY) if name == 'lars' else decay,
        },
        {
            'params': [p for k, p in parameters.items() if ndim[k] <= 1],
            'lr': ratio * lr if lr_biases is None else lr_biases,
            'weight_decay': 0.0,
        },
    ]
    if name == 'lars':
        return _with_options_of_run(InPlaceLARS(groups, lr=lr, momentum=0.9))
    return _adamw(groups, fused)


def parameter_ndims(module: nn.Module) -> dict[str, int]:
    """Return the number of dimensions of each parameter.

    Call this function before FSDP flattens the parameters.

    Args:
        module: module with the parameters.

    Returns:
        Number of dimensions by parameter name, without wrapper prefixes.

    Example:
        >>> parameter_ndims(nn.Linear(4, 2))
        {'weight': 2, 'bias': 1}
    """
    return {_WRAPPERS.sub('', k): p.ndim for k, p in module.named_parameters()}


def build_transfer_optimizer(
    model: nn.Module,
    optimizer: str = 'adamw',
    lr: float = 1e-3,
    lr_backbone: float | None = None,
    layer_decay: float | None = None,
    weight_decay: float = 0.0,
    lr_schedule: str = 'constant',
    epochs: int | None = None,
    fused: bool = True,
) -> tuple[Optimizer, EpochShare]:
    """Build the optimizer of a transfer task and a schedule with one step per epoch.

    Args:
        model: model with ``encoders``. Frozen parameters are skipped.
        optimizer: 'adamw', or 'sgd' with momentum 0.9.
        lr: learning rate.
        lr_backbone: learning rate of the encoders, by default ``lr``.
        layer_decay: factor by which the learning rate decreases from each encoder layer
            to the layer before it; the last layer uses ``lr_backbone``. timm defines
            the layers and exempts biases from weight decay. By default, all layers use
            the same rate.
        weight_decay: weight decay of all parameters that are not exempt.
        lr_schedule: learning rate schedule: 'constant', 'cosine' decay to 0, or 'step',
            which divides the rates by 10 after 60 % and after 80 % of the epochs.
        epochs: number of epochs in the fit. The schedule 'constant' does not need it.
        fused: whether AdamW may update all parameters in one kernel.

    Returns:
        The optimizer and the scheduler. Loading a checkpoint restores their states but
        not their options; see :func:`reset_lr_schedule`.

    Raises:
        ValueError: if a name is unknown, ``epochs`` is missing, ``layer_decay`` is not
            in (0, 1], or timm defines no layers for a model.

    Example:
        >>> model = nn.ModuleDict({'encoders': nn.Linear(4, 4), 'head': nn.Linear(4, 2)})
        >>> optimizer, _ = build_transfer_optimizer(model, 'sgd', 0.1, lr_backbone=0.01)
        >>> [group['lr'] for group in optimizer.param_groups]
        [0.1, 0.01]
    """
    if optimizer not in ('adamw', 'sgd'):
        raise ValueError(f"optimizer must be 'adamw' or 'sgd', got {optimizer!r}")
    if lr_schedule not in ('constant', 'step', 'cosine'):
        raise ValueError(
            f"lr_schedule must be 'constant', 'step' or 'cosine', got {lr_schedule!r}"
        )
    if lr_schedule != 'constant' and (epochs is None or epochs < 1):
        raise ValueError(
            f'max_epochs must be positive for lr_schedule {lr_schedule!r}, got {epochs}; '
            "set max_epochs, or use lr_schedule 'constant'"
        )
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f'layer_decay must be in (0, 1], got {layer_decay}')
    rates = {False: lr, True: lr if lr_backbone is None else lr_backbone}
    layers: list[dict[str, Any]] = []
    if layer_decay is not None:
        encoders: Any = model.encoders
        for m, encoder in encoders.encoders.items():
            layers += _layers(
                encoder, encoders.model[m], rates[True], layer_decay, weight_decay
            )
    done = {id(p) for group in layers for p in group['params']}
    inside: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in done:
            inside[key.startswith('encoders.')].append(parameter)
    groups = [{'params': inside[k], 'lr': rates[k]} for k in inside if inside[k]]
    groups += layers
    if optimizer == 'sgd':
        sgd = SGD(groups, lr, momentum=0.9, weight_decay=weight_decay)
        built = _with_options_of_run(sgd)
    else:
        built = _adamw(groups, fused, lr=lr, weight_decay=weight_decay)
    return built, EpochShare(built, partial(_share, lr_schedule, epochs or 1))


def warmup_steps(epochs: float, steps: float, batches: float, max_epochs: int) -> int:
    """Count the optimizer steps of the warm-up.

    Args:
        epochs: number of warm-up epochs.
        steps: number of optimizer steps in the fit, or infinity if it is open-ended.
        batches: number of optimizer steps per epoch, or infinity for data without a
            length.
        max_epochs: number of epochs in the fit, or -1 for no limit.

    Raises:
        ValueError: if the warm-up is negative or longer than the fit, or the data have
            no length.

    Example:
        >>> warmup_steps(0.5, steps=100, batches=20, max_epochs=5)
        10
    """
    if epochs and math.isinf(batches):
        raise ValueError(
            f'warmup_epochs must be 0 for data without a length, got {epochs}; set it to 0'
        )
    # If max_steps shortens the fit, the warm-up keeps its fraction of the steps.
    if not epochs:
        return 0
    per_epoch = steps / max_epochs if max_epochs > 0 else math.ceil(batches)
    warmup = round(epochs * per_epoch)
    if not 0 <= warmup <= steps:
        limit = max_epochs if max_epochs > 0 else steps / per_epoch
        raise ValueError(
            f'warmup_epochs must be in [0, {limit:g}], the number of epochs in this fit, '
            f'got {epochs}; lower it, or train for longer'
        )
    return warmup


def reset_lr_schedule(scheduler: LambdaLR, fresh: Optimizer) -> None:
    """Reset the current learning rates to the values from this run's options.

    A checkpoint restores the learning rates of an earlier run, and
    ``LearningRateFinder`` leaves the last rates that it tried.

    Args:
        scheduler: scheduler to change in place, together with its optimizer.
        fresh: new optimizer, built with the options of this run.
    """
    groups = scheduler.optimizer.param_groups
    for group, new in zip(groups, fresh.param_groups, strict=True):
        group['initial_lr'] = new['initial_lr']
    scheduler.base_lrs = [group['initial_lr'] for group in groups]
    for group, share in zip(groups, scheduler.lr_lambdas, strict=True):
        group['lr'] = group['initial_lr'] * share(scheduler.last_epoch)


def _share(lr_schedule: str, epochs: int, epoch: int) -> float:
    """Return the learning rate factor for an epoch."""
    if lr_schedule == 'step':
        passed = sum(epoch >= round(part * epochs) for part in (0.6, 0.8))
        return 0.1**passed
    if lr_schedule == 'cosine':
        return (1 + math.cos(math.pi * epoch / epochs)) / 2
    return 1.0


def _adamw(groups: list[dict[str, Any]], fused: bool, **options: Any) -> Optimizer:
    """Build AdamW, fused if torch supports this on the device of the parameters."""
    devices = {p.device.type for group in groups for p in group['params']}
    one_pass = (fused and devices <= {'cpu', 'cuda'}) or None
    return _with_options_of_run(AdamW(groups, fused=one_pass, **options))


def _with_options_of_run(optimizer: Optimizer) -> Optimizer:
    optimizer.register_load_state_dict_pre_hook(_keep_options)
    return optimizer


def _keep_options(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Replace the optimizer options of a checkpoint with the options of this run."""
    own, stored = optimizer.param_groups, state['param_groups']
    expected, found = _describe(own), _describe(stored)
    if expected != found:
        raise ValueError(
            f'checkpoint must contain the optimizer of this run, expected {expected}, '
            f'found {found}; set optimizer, layer_decay and freeze_backbone as in the run '
            'that wrote it, or start a new fit with its encoders as weights'
        )
    kept = ('initial_lr', 'weight_decay')
    groups = [
        saved | {k: group[k] for k in kept if k in group}
        for saved, group in zip(stored, own, strict=True)
    ]
    return state | {'param_groups': groups}


def _describe(groups: list[dict[str, Any]]) -> str:
    names = {'betas': 'adamw', 'trust_coefficient': 'lars'}
    name = next((name for key, name in names.items() if key in groups[0]), 'sgd')
    sizes = ' + '.join(str(len(group['params'])) for group in groups)
    return f'{name} of {sizes} parameters'


class _Layered:
    """Adapter that lets timm group the parameters of an encoder or pyramid by layer."""

    def __init__(self, module: nn.Module, layers: Mapping[str, int]) -> None:
        self.named_parameters = module.named_parameters
        self.layers = layers

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        return lambda key: self.layers[normalize_key(key)]


def _layers(
    encoder: nn.Module, model: str, lr: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the parameter groups of an encoder, one or more for each layer."""
    # A pyramid has the parameters of the model, but does not define its layers.
    whole: Any = encoder
    if not hasattr(encoder, 'group_matcher'):
        whole = timm.create_model(model, num_classes=0)
    if not hasattr(whole, 'group_matcher'):
        raise ValueError(
            f'layer_decay needs a model with layers defined by timm, got {model!r}; '
            'set the option lr_backbone instead of layer_decay'
        )
    found = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    named: Iterable[str] = getattr(whole, 'no_weight_decay', set)()
    exempt = {normalize_key(key) for key in named}
    layers = {normalize_key(key): layer for key, layer in found.items()}
    layered: Any = _Layered(encoder, layers)
    groups = param_groups_layer_decay(
        layered,
        weight_decay=weight_decay,
        no_weight_decay_list=[
            key for key, _ in encoder.named_parameters() if normalize_key(key) in exempt
        ],
        layer_decay=layer_decay,
    )
    return [
        {
            'params': g['params'],
            'lr': lr * g['lr_scale'],
            'weight_decay': g['weight_decay'],
        }
        for g in groups
    ]
