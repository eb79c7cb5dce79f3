"""What lets a fit be stopped and go on: its seed, its checkpoint, and their checks."""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn

from .guard import CheckedTask, FiniteGuard
from .optimizers import parameter_ndims

# A gradient scaler begins at 2 ** 16, halves that in each step that it skips, and is then
# no longer the cause.
_SKIPPED = 16


class ResumableTask(CheckedTask):
    """A task of which a resumed fit ends like one that never stopped.

    Random draws of a step depend on the seed of the run, the epoch, the batch and the
    device alone. A model that diverged is not stored, and the checkpoint of another
    model is refused.
    """

    augmentations: nn.ModuleDict

    def __init__(self) -> None:
        """Initialize a new ResumableTask instance."""
        self._run_seed: int | None = None
        self._guard = FiniteGuard()
        super().__init__()
        self._ndims = parameter_ndims(self)

    def on_fit_start(self) -> None:
        """Remember the seed of the run, unless it comes from a checkpoint."""
        if self._run_seed is None:
            self._run_seed = torch.initial_seed()
        # A fit that went wrong must not speak of the next one.
        scales = getattr(self.trainer.precision_plugin, 'scaler', None) is not None
        self._guard = FiniteGuard(patience=_SKIPPED if scales else 0)

    def on_train_end(self) -> None:
        """Refuse a model that diverged in its last steps, before it is exported.

        Raises:
            FloatingPointError: if a part of the loss was NaN or infinite.
        """
        self._guard.check(self.global_step, ended=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the seed of the run, and refuse to store a model that diverged.

        Args:
            checkpoint: what is about to be written.

        Raises:
            FloatingPointError: if a part of the loss was NaN or infinite.
        """
        self._guard.check(self.global_step)
        super().on_save_checkpoint(checkpoint)
        checkpoint['run_seed'] = self._run_seed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the seed of the run, and refuse the checkpoint of another model.

        Augmentations are those of this task, not of the checkpoint: they are options of
        the run, which ``load_from_checkpoint`` does not know.

        Args:
            checkpoint: what was read.

        Raises:
            ValueError: naming the task, or each hyperparameter that shapes the model,
                that differs.
        """
        super().on_load_checkpoint(checkpoint)
        self._run_seed = checkpoint.get('run_seed')
        state = checkpoint['state_dict']
        own = self.augmentations.state_dict(prefix='augmentations.')
        checkpoint['state_dict'] = own | {
            k: v for k, v in state.items() if not k.startswith('augmentations.')
        }

    def _forked(self) -> AbstractContextManager[None]:
        """Put the random states of the CPU and the GPU back at the end of a context."""
        devices = [self.device] if self.device.type == 'cuda' else []
        return torch.random.fork_rng(devices)

    def _seed(self, *step: int) -> None:
        words = [abs(self._run_seed or 0), *(s + 1 for s in step), self.global_rank]
        state = np.random.SeedSequence(words).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))
