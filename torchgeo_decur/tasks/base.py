"""The base of all tasks: checks of losses, inputs and checkpoints."""

import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torchgeo.datasets.utils import Sample
from torchgeo.tasks import BaseTask

from ..deprecation import collect_arguments, current_names, outermost, renamed
from ..modalities import check_unit_interval
from ..weights.encoder_files import TASK_OPTIONS
from .progress_bar import use_compact_bar


class FiniteGuard:
    """Stop a fit whose loss is NaN or infinite.

    Bad steps are recorded on the device, because reading them synchronizes with it.

    Args:
        patience: number of consecutive bad steps to allow. The gradient scaler of
            ``16-mixed``, for example, skips bad steps.

    Example:
        >>> guard = FiniteGuard()
        >>> guard.add({'loss': torch.tensor(1.0), 'intra_s1': torch.tensor(1.0)})
        >>> guard.check(step=0)
    """

    def __init__(self, patience: float = 0) -> None:
        """Initialize a new FiniteGuard instance."""
        self.patience = patience
        self.parts: list[str] = []
        #: Bad parts of the loss in the first of the current consecutive bad steps.
        self.first: Tensor | None = None
        self._row: Tensor | int = 0
        self._failed: Tensor | bool = False
        self._never_good: Tensor | bool = True

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Record the loss of a step, without device synchronization.

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
        """Raise if too many steps were bad; this synchronizes with the device.

        Args:
            step: number of optimizer steps so far, for the message.
            ended: whether the fit has ended, so that at least one step must be good.

        Raises:
            FloatingPointError: naming the parts that were bad first.
        """
        if self.first is None or not (self._failed | (self._never_good & ended)):
            return
        flags = zip(self.parts, self.first.tolist(), strict=True)
        raise FloatingPointError(
            f'loss must be finite, got NaN or infinity in {[p for p, b in flags if b]} '
            f'by step {step}; lower lr or add warmup_epochs, and check the data for NaN'
        )


class CheckedTask(BaseTask):
    """Base of all tasks: it checks input images and checkpoints.

    Images must be in [0, 1]. Only the first batch of each stage is checked, to avoid
    device synchronization. A checkpoint must belong to the same task and architecture.
    """

    CHECKPOINT_HYPER_PARAMS_KEY = TASK_OPTIONS
    #: Hyperparameters that define the architecture. A checkpoint must have the same.
    architecture_hparams: tuple[str, ...] = ()
    _checked: frozenset[tuple[str | None, int]] = frozenset()

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Save the arguments of the constructors by their current names.

        Args:
            args: names of the arguments to save, by default all; or one mapping to save
                instead.
            ignore: names of the arguments not to save.
            frame: frame of the innermost constructor, by default the caller's frame.
            logger: whether to log them.
        """
        caller = frame or sys._getframe(1)
        # In the outermost frame, Lightning adds only the options that its CLI has parsed.
        outside = outermost(caller)
        super().save_hyperparameters(ignore=ignore, frame=outside, logger=logger)
        parsed = '_instantiator' in self.hparams
        options = current_names(
            type(self), self.hparams if parsed else collect_arguments(caller, self)
        )
        # Lightning 2.6.0 does not apply `ignore` to a mapping.
        ignored = {ignore} if isinstance(ignore, str) else {*(ignore or ())}
        for name in {*renamed(type(self)), *ignored}:
            self.hparams.pop(name, None)
        named = all(isinstance(name, str) for name in args)
        chosen = (
            ({name: options[name] for name in args or options if name not in ignored},)
            if named
            else args
        )
        super().save_hyperparameters(
            *chosen, ignore=ignore, frame=outside, logger=logger
        )

    def configure_callbacks(self) -> Sequence[Callback]:
        """Replace Lightning's default progress bar by one that fits 80 columns.

        Returns:
            No further callbacks.
        """
        # Lightning would report a bar in this list as an override on each run.
        use_compact_bar(self.trainer)
        return []

    def setup(self, stage: str) -> None:
        """Check the data of every stage again, because they may have changed."""
        self._checked = frozenset()

    def on_train_batch_start(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the images of the first batch of a stage and data loader.

        Raises:
            ValueError: if values are outside [0, 1].
        """
        stage = self.trainer.state.stage
        # Sanity checking reads the batches of validation.
        key = (stage.dataloader_prefix if stage else None, dataloader_idx)
        if key in self._checked:
            return
        self._checked |= {key}
        modalities = self.hparams.get('modalities', {})
        keys = [f'image_{m}' for m in modalities] + ['image']
        found = {k: batch[k] for k in keys if isinstance(batch.get(k), Tensor)}
        check_unit_interval({k.removeprefix('image_'): x for k, x in found.items()})

    on_validation_batch_start = on_train_batch_start
    on_test_batch_start = on_train_batch_start
    on_predict_batch_start = on_train_batch_start

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the name of the task."""
        checkpoint['task'] = type(self).__name__
        # TorchGeo needs this key. It is empty, because Lightning's CLI would prefer its
        # content to the options of the command.
        checkpoint['hyper_parameters'] = {}
        # In torch 2.6 the schedule of weight averaging stores a function, which prevents
        # safe loading of the file. A new schedule sets this function itself.
        schedules = [*checkpoint.get('lr_schedulers', [])]
        for callback in checkpoint.get('callbacks', {}).values():
            schedules.append(callback.get('scheduler_state') or {})
        for state in schedules:
            state.pop('anneal_func', None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint belongs to this task and architecture.

        Raises:
            ValueError: naming the task, or each hyperparameter of the architecture,
                that differs.
        """
        stored = current_names(type(self), checkpoint.get(TASK_OPTIONS, {}))
        names = self.architecture_hparams
        expected = {'task': type(self).__name__, **{k: self.hparams[k] for k in names}}
        found = {'task': checkpoint.get('task'), **{k: stored.get(k) for k in names}}
        if 'modalities' in names:
            # The order of features and of parameters depends on it.
            order = 'order of modalities'
            expected[order] = list(expected['modalities'])
            found[order] = list(found['modalities'] or ())
        differ = [
            f'{k}: expected {_plain(v)}, found {_plain(found[k])}'
            for k, v in expected.items()
            if _plain(v) != _plain(found[k])
        ]
        if differ:
            raise ValueError(
                f'checkpoint is of another model; {"; ".join(differ)}; use the options '
                'of the run that wrote it, or start a new fit from its encoders (weights)'
            )

    def _should_log(self, batch_idx: int) -> bool:
        """Return whether to log this training step, which synchronizes with the device.

        These are the steps of the loggers, the first and last step of an epoch, and all
        steps on a CPU.
        """
        # 0 disables logging.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logged = every > 0 and (self.global_step + 1) % every == 0
        ends = batch_idx == 0 or self.trainer.is_last_batch
        return logged or ends or self.device.type == 'cpu'

    def _can_fuse_optimizer(self) -> bool:
        """Return whether the optimizer may be fused.

        In mixed precision, Lightning cannot clip gradients for a fused optimizer.
        """
        trainer = self._trainer
        if trainer is None or not trainer.gradient_clip_val:
            return True
        return 'mixed' not in str(trainer.precision)


def _plain(value: Any) -> Any:
    """Convert tuples to lists, as in a checkpoint."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, list | tuple) else value
