"""The two optimisers that the published recipes use."""

import re
from collections.abc import Iterable
from typing import Literal

from lightly.utils.lars import LARS
from torch import nn
from torch.optim import AdamW, Optimizer

# Rate of weights, that of biases relative to it, and weight decay.
_DEFAULTS = {'lars': (0.05, 0.096, 1e-6), 'adamw': (1e-4, 1.0, 0.01)}
# timm's names of plain ResNets: resnet50, resnet10t, resnet18d, resnet50.a1_in1k
_PLAIN_RESNET = re.compile(r'resnet\d+[a-z]?(\..*)?')


def build_optimizer(
    module: nn.Module,
    models: Iterable[str],
    name: Literal['adamw', 'lars'] | None = None,
    lr: float | None = None,
    lr_biases: float | None = None,
    weight_decay: float | None = None,
) -> Optimizer:
    """Build an optimiser with biases and normalisation parameters in their own group.

    That group has no weight decay, and with LARS no adaptation of the rate.

    Args:
        module: whose parameters to optimise.
        models: names of the timm models in it, for the default of ``name``.
        name: 'adamw' or 'lars'; by default 'lars' if all models are plain ResNets.
        lr: learning rate; by default 1e-4 for AdamW and 0.05 for LARS.
        lr_biases: rate of the other group; by default ``lr`` for AdamW and 0.096 ``lr``
            for LARS.
        weight_decay: by default 0.01 for AdamW and 1e-6 for LARS.

    Returns:
        The optimiser.

    Example:
        >>> optimizer = build_optimizer(nn.Linear(4, 4), ['resnet50'])
        >>> [round(group['lr'], 4) for group in optimizer.param_groups]
        [0.05, 0.0048]
    """
    plain = all(_PLAIN_RESNET.fullmatch(m) for m in models)
    name = name or ('lars' if plain else 'adamw')
    default_lr, ratio, default_decay = _DEFAULTS[name]
    lr = default_lr if lr is None else lr
    groups = [
        {
            'params': [p for p in module.parameters() if p.ndim > 1],
            'lr': lr,
            'weight_decay': default_decay if weight_decay is None else weight_decay,
        },
        {
            'params': [p for p in module.parameters() if p.ndim <= 1],
            'lr': ratio * lr if lr_biases is None else lr_biases,
            'weight_decay': 0.0,
        },
    ]
    return LARS(groups, lr=lr, momentum=0.9) if name == 'lars' else AdamW(groups)
