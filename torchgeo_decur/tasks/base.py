"""The base of all tasks: checks of losses, inputs and checkpoints, and the seed of a run."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample
from torchgeo.tasks import BaseTask

from ..deprecation import collect_arguments, current_names, outermost, renamed
from ..modalities import check_unit_interval
from ..weights.formats import TASK_OPTIONS
from .optimizers import parameter_ndims

# A gradient scaler begins at 2 ** 16, halves that in each step that it skips, and is then
# no longer the cause.
_SKIPPED = 16


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


class ScaleCheck:
    """Refuse images outside [0, 1], which any data may deliver that nobody scaled.

    For a :class:`lightning.pytorch.LightningModule`. Only the first batch of each stage is
    looked at, for looking makes the host wait.
    """

    _looked_at: frozenset[str] = frozenset()

    def setup(self, stage: str) -> None:
        """Forget what was looked at: other data may follow.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
        """
        self._looked_at = frozenset()

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Look at the first training batch.

        Args:
            batch: has images, in [0, 1].
            batch_idx: index of the batch.
        """
        self._look(batch, 'train')

    def on_validation_batch_start(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first validation batch.

        Args:
            batch: has images, in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.
        """
        self._look(batch, f'val {dataloader_idx}')

    def on_test_batch_start(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first test batch.

        Args:
            batch: has images, in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.
        """
        self._look(batch, f'test {dataloader_idx}')

    def on_predict_batch_start(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first batch of a prediction.

        Args:
            batch: has images, in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.
        """
        self._look(batch, f'predict {dataloader_idx}')

    def _look(self, batch: Any, stage: str) -> None:
        if stage in self._looked_at:
            return
        self._looked_at |= {stage}
        names = getattr(self, 'hparams', {}).get('modalities', {})
        keys = [f'image_{m}' for m in names] + ['image']
        found = {k: batch[k] for k in keys if isinstance(batch.get(k), Tensor)}
        check_unit_interval({k.removeprefix('image_'): x for k, x in found.items()})


class CheckedTask(ScaleCheck, BaseTask):
    """A task that refuses the checkpoint of another model, and seldom makes the host wait."""

    CHECKPOINT_HYPER_PARAMS_KEY = TASK_OPTIONS
    #: Hyperparameters that a checkpoint must share.
    architecture_hparams: tuple[str, ...] = ()

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Save the arguments of the constructors by their present names.

        Args:
            args: names of those to save, by default all; or one mapping to save instead.
            ignore: names of those not to save.
            frame: frame of the innermost constructor, by default that of the caller.
            logger: whether loggers get them.
        """
        caller = frame or sys._getframe(1)
        # No constructor runs outside it: Lightning adds only what its command has parsed.
        outside = outermost(caller)
        super().save_hyperparameters(frame=outside, logger=logger)
        parsed = '_instantiator' in self.hparams
        options = current_names(
            type(self), self.hparams if parsed else collect_arguments(caller, self)
        )
        for old in renamed(type(self)):
            self.hparams.pop(old, None)
        named = all(isinstance(name, str) for name in args)
        chosen = ({name: options[name] for name in args or options},) if named else args
        super().save_hyperparameters(
            *chosen, ignore=ignore, frame=outside, logger=logger
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store whose checkpoint it is.

        Args:
            checkpoint: what is about to be written.
        """
        checkpoint['task'] = type(self).__name__
        # TorchGeo reads this key without looking whether it is there. It stays empty, for
        # Lightning's command would prefer what is in it to the options it is given.
        checkpoint['hyper_parameters'] = {}
        # In torch 2.6 the schedule of weight averaging stores a function, with which the
        # file could not be read. A new schedule has it already.
        schedules = [*checkpoint.get('lr_schedulers', [])]
        for callback in checkpoint.get('callbacks', {}).values():
            schedules.append(callback.get('scheduler_state') or {})
        for state in schedules:
            state.pop('anneal_func', None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model.

        Args:
            checkpoint: what was read.

        Raises:
            ValueError: naming the task, or each hyperparameter that shapes the model,
                that differs.
        """
        stored = current_names(type(self), checkpoint.get(TASK_OPTIONS, {}))
        options = {'task': type(self).__name__} | {
            k: self.hparams[k] for k in self.architecture_hparams
        }
        found = {k: stored.get(k) for k in self.architecture_hparams} | {
            'task': checkpoint.get('task')
        }
        if 'modalities' in self.architecture_hparams:
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

    def _should_log(self, batch_idx: int) -> bool:
        """Say whether the host may wait for the device in this training step.

        It does where loggers get the step, in the first and the last step of an epoch,
        and on a CPU. What is logged for the progress bar makes it wait.
        """
        # With 0 nothing is logged.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logged = every > 0 and (self.global_step + 1) % every == 0
        ends = batch_idx == 0 or self.trainer.is_last_batch
        return logged or ends or self.device.type == 'cpu'

    def _can_fuse_optimizer(self) -> bool:
        """Say whether the optimiser may have a single kernel for all parameters.

        In mixed precision Lightning clips no gradients for such a kernel.
        """
        trainer = self._trainer
        if trainer is None or not trainer.gradient_clip_val:
            return True
        return 'mixed' not in str(trainer.precision)


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


def _plain(value: Any) -> Any:
    """Make lists of tuples, so that a value equals its copy from a checkpoint."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, list | tuple) else value
