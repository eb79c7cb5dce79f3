"""What a fit must not go on with: a loss that is no number, another model's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchgeo.tasks import BaseTask

from ..models.checkpoints import TASK_OPTIONS
from .scale import ScaleCheck


class FiniteGuard:
    """Remembers the first step in which a part of the loss was NaN or infinite.

    The memory stays on the device, for looking at it makes the host wait.

    Args:
        patience: number of bad steps in a row that are no failure, because each is
            skipped, as the gradient scaler of ``16-mixed`` does.

    Example:
        >>> guard = FiniteGuard()
        >>> guard.add({'loss': torch.tensor(1.0), 'intra_s1': torch.tensor(1.0)})
        >>> guard.check(step=0)
    """

    def __init__(self, patience: float = 0) -> None:
        """Initialize a new FiniteGuard instance."""
        self.patience = patience
        self.parts: list[str] = []
        #: Which parts were bad in the first of the present bad steps in a row.
        self.first: Tensor | None = None
        self._row: Tensor | int = 0
        self._failed: Tensor | bool = False
        self._never_good: Tensor | bool = True

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Look at the loss of a step, without waiting.

        Args:
            terms: the loss and its parts, scalars.
        """
        self.parts = [k for k in terms if k != 'loss'] or list(terms)
        parts = ~torch.stack([terms[k].detach() for k in self.parts]).isfinite()
        bad = parts.any()
        if self.first is None:
            self.first = parts
        kept = (bad & (self._row > 0)) | self._failed
        self.first = torch.where(kept, self.first, parts)
        self._row = torch.where(bad, self._row + 1, 0)
        self._failed = (self._row > self.patience) | self._failed
        self._never_good = bad & self._never_good

    def check(self, step: int, ended: bool = False) -> None:
        """Raise if a step was bad; this waits for the device.

        Args:
            step: number of optimiser steps so far, for the message.
            ended: whether the fit has ended, in which at least one step must be good.

        Raises:
            FloatingPointError: naming the parts that were bad first.
        """
        if self.first is None or not (self._failed | (self._never_good & ended)):
            return
        flags = zip(self.parts, self.first.tolist(), strict=True)
        raise FloatingPointError(
            f'the loss must be finite, got NaN or infinity in {[p for p, b in flags if b]} '
            f'by step {step}; lower lr or add warmup_epochs, and look at the data for NaN'
        )


@contextmanager
def batch_of(size: int) -> Iterator[None]:
    """Explain the error of a BatchNorm that gets one value: a last batch of one sample.

    Args:
        size: number of samples of the batch.

    Raises:
        ValueError: if the block raises one and the batch has a single sample.
    """
    try:
        yield
    except ValueError as error:
        if size > 1:
            raise
        raise ValueError(
            'a training batch must have two samples or more for this model, whose '
            f'BatchNorm compares them, got {size}; leave out the last, smaller batch '
            '(drop_last=True), or choose another batch_size'
        ) from error


class CheckedTask(ScaleCheck, BaseTask):
    """A task that refuses the checkpoint of another model, and seldom makes the host wait."""

    CHECKPOINT_HYPER_PARAMS_KEY = TASK_OPTIONS
    #: Hyperparameters that a checkpoint must share.
    shape: tuple[str, ...] = ()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store whose checkpoint it is.

        Args:
            checkpoint: what is about to be written.
        """
        checkpoint['task'] = type(self).__name__
        # TorchGeo reads this key without looking whether it is there. It stays empty, for
        # Lightning's command would prefer what is in it to the options it is given.
        checkpoint['hyper_parameters'] = {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model.

        Args:
            checkpoint: what was read.

        Raises:
            ValueError: naming the task, or each hyperparameter that shapes the model,
                that differs.
        """
        stored = checkpoint.get(TASK_OPTIONS, {})
        options = {'task': type(self).__name__} | {
            k: self.hparams[k] for k in self.shape
        }
        found = {k: stored.get(k) for k in self.shape} | {
            'task': checkpoint.get('task')
        }
        if 'modalities' in self.shape:
            # Features are concatenated, and optimisers count parameters, in this order.
            order = 'order of modalities'
            options[order] = list(options['modalities'])
            found[order] = list(found['modalities'] or ())
        differ = [
            f'{k}: expected {_plain(v)}, found {_plain(found[k])}'
            for k, v in options.items()
            if _plain(v) != _plain(found[k])
        ]
        if differ:
            raise ValueError(f'checkpoint is of another model; {"; ".join(differ)}')

    def _looks(self, batch_idx: int) -> bool:
        """Say whether the host may wait for the device in this training step.

        It does where loggers get the step, in the first and the last step of an epoch,
        and on a CPU. What is logged for the progress bar makes it wait.
        """
        # With 0 nothing is logged.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logged = every > 0 and (self.global_step + 1) % every == 0
        ends = batch_idx == 0 or self.trainer.is_last_batch
        return logged or ends or self.device.type == 'cpu'

    def _may_fuse(self) -> bool:
        """Say whether the optimiser may have a single kernel for all parameters.

        In mixed precision Lightning clips no gradients for such a kernel.
        """
        trainer = self._trainer
        if trainer is None or not trainer.gradient_clip_val:
            return True
        return 'mixed' not in str(trainer.precision)


def _plain(value: Any) -> Any:
    """Make lists of tuples, so that a value equals its copy from a checkpoint."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, list | tuple) else value
