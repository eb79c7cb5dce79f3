"""Write the encoders when a fit ends."""

from dataclasses import asdict
from pathlib import Path
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from ..modalities import Modality
from ..models.weights import save_encoder, writable
from ..tasks import MultimodalPretraining


class ExportEncoders(Callback):
    """At the end of a fit, write one encoder per modality for use elsewhere.

    For each modality ``<folder>/<modality>.pt``, which TorchGeo's own ``Classification``
    and ``SemanticSegmentation`` load with ``weights=``, and
    ``<folder>/<modality>.safetensors``, whose metadata say the bands, the scaling and
    the hyperparameters. Files appear whole or not at all.

    Args:
        folder: where to write; by default ``encoders`` in the folder of the logger.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """Initialize a new ExportEncoders instance."""
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that the folder can be written, before anything else writes there.

        Args:
            trainer: the trainer.
            pl_module: the task.
            stage: the stage.

        Raises:
            ValueError: if it cannot, or the task has no encoders.
        """
        if stage != 'fit':
            return
        if not isinstance(pl_module, MultimodalPretraining):
            raise ValueError(
                'ExportEncoders needs a task with one encoder per modality, such as '
                f'torchgeo_decur.tasks.DeCUR, got {type(pl_module).__name__}'
            )
        folder = self._folder(trainer)
        if trainer.is_global_zero and not getattr(trainer, 'fast_dev_run', False):
            writable(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the encoders.

        Args:
            trainer: the trainer.
            pl_module: the task.
        """
        folder = self._folder(trainer)
        if not trainer.is_global_zero or getattr(trainer, 'fast_dev_run', False):
            return
        known: dict[str, Modality] = getattr(
            getattr(trainer, 'datamodule', None), 'modalities', {}
        )
        task = cast(MultimodalPretraining, pl_module)
        for m, encoder in task.encoders.encoders.items():
            modality = known.get(m)
            metadata = {
                'modality': m,
                'in_chans': task.hparams['modalities'][m],
                **(asdict(modality) if modality else {}),
                'limits': modality.limits if modality else None,
                'task': type(task).__name__,
                'hyper_parameters': dict(task.hparams),
                'epochs': trainer.current_epoch,
                'steps': trainer.global_step,
            }
            files = save_encoder(encoder, folder / m, task.encoders.model[m], metadata)
            rank_zero_info(f'encoder of {m}: {", ".join(map(str, files))}')

    def _folder(self, trainer: Trainer) -> Path:
        # log_dir is broadcast from the first process: every process has to ask.
        log_dir = trainer.log_dir or trainer.default_root_dir
        return Path(self.folder) if self.folder else Path(log_dir) / 'encoders'
