"""Options of the transfer tasks that contradict each other."""

from collections.abc import Mapping, Sequence
from typing import Any

_LOSSES = {
    'binary': ('bce', 'jaccard', 'focal', 'dice'),
    'multiclass': ('ce', 'jaccard', 'focal', 'dice'),
    'multilabel': ('soft_margin', 'bce', 'jaccard', 'focal', 'dice'),
}


def check_options(
    options: Mapping[str, Any], missing_modalities: Sequence[str]
) -> None:
    """Refuse options of a transfer task that contradict each other.

    Args:
        options: hyperparameters of the task.
        missing_modalities: modalities that it does without.

    Raises:
        ValueError: naming the option.
    """
    task, loss = options['task'], options['loss']
    if task not in _LOSSES:
        raise ValueError(f'task must be one of {list(_LOSSES)}, got {task!r}')
    if loss not in _LOSSES[task]:
        raise ValueError(
            f'loss must be one of {list(_LOSSES[task])} for a {task} task, got {loss!r}'
        )
    if loss == 'jaccard' and options['ignore_index'] is not None:
        raise ValueError(
            "ignore_index must be left out with the loss 'jaccard', which counts all "
            f"pixels, got {options['ignore_index']}; use 'dice'"
        )
    needed = {'multiclass': 'num_classes', 'multilabel': 'num_labels'}
    for kind, name in needed.items():
        if (options[name] is not None) != (task == kind):
            raise ValueError(
                f'{name} must be {"given" if task == kind else "left out"} for a '
                f'{task} task, got {options[name]}'
            )
    known, absent = list(options['modalities']), set(missing_modalities)
    if not absent < set(known):
        raise ValueError(
            f'missing_modalities must be some but not all of the modalities {known}, '
            f'got {list(missing_modalities)}'
        )
