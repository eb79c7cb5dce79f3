"""Checks of the task and the trainer that callbacks share."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer

from ..tasks import MultimodalPretraining


def need_encoders(callback: Callback, task: LightningModule) -> None:
    """Raise an error if the task does not have one encoder per modality."""
    if not isinstance(task, MultimodalPretraining):
        raise ValueError(
            f'{type(callback).__name__} needs a task with one encoder per modality, such '
            f'as torchgeo_decur.tasks.DeCUR, got {type(task).__name__}; remove the callback'
        )


def validates_last(trainer: Trainer) -> bool:
    """Check whether the fit ends before the next validation."""
    most, batches = trainer.max_steps, trainer.num_training_batches
    if trainer.current_epoch + 1 == trainer.max_epochs or trainer.should_stop:
        return True
    if most == -1:
        return False
    # Lightning does not validate if max_steps ends the fit within an epoch.
    endless = math.isinf(batches)
    epoch = 1 if endless else math.ceil(batches / trainer.accumulate_grad_batches)
    return trainer.global_step + epoch > most
