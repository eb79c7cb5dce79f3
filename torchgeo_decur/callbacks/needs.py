"""What callbacks need of the task."""

from lightning.pytorch import Callback, LightningModule

from ..tasks import MultimodalPretraining


def need_encoders(callback: Callback, task: LightningModule) -> None:
    """Refuse a task that does not pretrain, before hours of training.

    Args:
        callback: which needs it.
        task: the task.

    Raises:
        ValueError: if the task has no encoder for each modality.
    """
    if not isinstance(task, MultimodalPretraining):
        raise ValueError(
            f'{type(callback).__name__} needs a task with one encoder per modality, such '
            f'as torchgeo_decur.tasks.DeCUR, got {type(task).__name__}'
        )
