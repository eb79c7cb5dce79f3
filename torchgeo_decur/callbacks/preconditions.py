"""Check what callbacks require of the task and the trainer."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer

from ..tasks import MultimodalPretraining


def need_encoders(callback: Callback, task: LightningModule) -> None:
    """Check before training that a task has encoders.

    Args:
        callback: the callback, for the message.
        task: the task.

    Raises:
        ValueError: if the task has no encoder for each modality.
    """
    if not isinstance(task, MultimodalPretraining):
        raise ValueError(
            f'{type(callback).__name__} needs a task with one encoder per modality, such '
            f'as torchgeo_decur.tasks.DeCUR, got {type(task).__name__}'
        )


def validates_last(trainer: Trainer) -> bool:
    """Check if the current validation is the last one at the end of an epoch.

    Args:
        trainer: a trainer that validates during a fit.

    Returns:
        True if ``max_epochs``, ``max_steps`` or a request to stop ends the fit before the
        next validation.
    """
    most, batches = trainer.max_steps, trainer.num_training_batches
    if trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop:
        return True
    if most == -1:
        return False
    # Lightning does not validate if max_steps ends a fit within an epoch.
    endless = math.isinf(batches)
    epoch = 1 if endless else math.ceil(batches / trainer.accumulate_grad_batches)
    return trainer.global_step + epoch > most
