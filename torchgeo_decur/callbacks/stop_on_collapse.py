"""Callback that stops a fit after a collapse."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from ..tasks import MultimodalPretraining
from .preconditions import need_encoders


class StopOnCollapse(Callback):
    """Callback that stops a fit when the features or embeddings collapse.

    Every pretraining task warns about a collapse. This callback also ends the fit,
    after the validation of that epoch.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> run = Trainer(callbacks=[StopOnCollapse()], accelerator='cpu', logger=False)
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the task has encoders.

        Raises:
            ValueError: if the task has no encoders.
        """
        need_encoders(self, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Request a stop at the end of an epoch if the task has detected a collapse."""
        if not trainer.is_last_batch or not isinstance(
            pl_module, MultimodalPretraining
        ):
            return
        if names := pl_module.collapsed:
            trainer.should_stop = True
            rank_zero_info(f'StopOnCollapse: collapse in {names}; stopping the fit')
