"""Base class of all tasks, with checks of losses, inputs and checkpoints."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor
from torchgeo.datasets.utils import Sample
from torchgeo.tasks import BaseTask

from ..deprecation import (
    collect_arguments,
    current_names,
    outermost,
    renamed,
    tuples_to_lists,
)
from ..modalities import Modality, check_unit_interval
from ..models import MultimodalEncoder, MultimodalPyramid
from ..weights.encoder_files import TASK_OPTIONS
from .progress_bar import use_compact_bar


class FiniteGuard:
    """Guard that stops a fit when the loss is NaN or infinite.

    A step with such a loss is called bad. Bad steps are recorded on the device, because
    reading them would synchronize host and device.

    Args:
        patience: number of consecutive bad steps to tolerate. For example, the gradient
            scaler of ``16-mixed`` precision skips bad steps.

    Example:
        >>> guard = FiniteGuard()
        >>> guard.add({'loss': torch.tensor(1.0), 'intra_s1': torch.tensor(1.0)})
        >>> guard.check(step=0)
    """

    def __init__(self, patience: float = 0) -> None:
        """Initialize a new FiniteGuard instance."""
        self.patience = patience
        self.parts: list[str] = []
        #: Mask of the bad loss terms in the first of the current consecutive bad steps.
        self.first: Tensor | None = None
        self._row: Tensor | int = 0
        self._failed: Tensor | bool = False
        self._never_good: Tensor | bool = True

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Record the loss of a step, without device synchronization.

        Args:
            terms: scalar loss and scalar loss terms, by name.
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
        """Raise an error if there were too many consecutive bad steps.

        Reading the recorded steps synchronizes with the device.

        Args:
            step: number of optimizer steps so far, for the error message.
            ended: whether the fit has ended. If True, an error is also raised if all
                steps were bad.

        Raises:
            FloatingPointError: if too many steps were bad. The message names the
                loss terms that were bad first.
        """
        if self.first is None or not (self._failed | (self._never_good & ended)):
            return
        flags = zip(self.parts, self.first.tolist(), strict=True)
        raise FloatingPointError(
            f'loss must be finite, got NaN or infinity in {[p for p, b in flags if b]} '
            f'by step {step}; lower lr or add warmup_epochs, and check the data for NaN'
        )


class CheckedTask(BaseTask):
    """Base class of all tasks, which checks input images and checkpoints.

    Image values must be in [0, 1]. To avoid device synchronization, only the first
    batch of each stage is checked. A checkpoint must belong to the same task and
    architecture.
    """

    CHECKPOINT_HYPER_PARAMS_KEY = TASK_OPTIONS
    #: Hyperparameters that define the architecture. A checkpoint must have the same
    #: values.
    architecture_hparams: tuple[str, ...] = ()
    _checked: frozenset[tuple[str | None, int]] = frozenset()
    _buffers_before: Sequence[Tensor] = ()

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: Sequence[str] | str | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Save the constructor arguments under their current names.

        Args:
            args: names of the arguments to save, or one mapping to save instead. By
                default, all arguments are saved.
            ignore: names of the arguments to omit.
            frame: stack frame of the innermost constructor; by default, the frame of
                the caller.
            logger: whether to log the hyperparameters.
        """
        caller = frame or sys._getframe(1)
        # Given the outermost frame, Lightning adds only the options that its CLI has
        # parsed.
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
        """Replace Lightning's default progress bar with one that fits in 80 columns.

        Returns:
            An empty list, because the task adds no callbacks.
        """
        # If this list contained the bar, Lightning would report an override in each
        # run.
        use_compact_bar(self.trainer)
        return []

    def setup(self, stage: str) -> None:
        """Reset the input checks, because data may differ between stages."""
        self._checked = frozenset()

    def on_train_batch_start(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the images of the first batch of each stage and data loader.

        Raises:
            ValueError: if image values are outside [0, 1].
        """
        stage = self.trainer.state.stage
        # The sanity check uses validation batches.
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

    def set_grad_checkpointing(self) -> None:
        """Let the backward pass recompute the activations of all encoders.

        Raises:
            ValueError: if a model does not support it.
        """
        # COrAL has a second encoder for each modality.
        for module in self.modules():
            if isinstance(module, MultimodalEncoder | MultimodalPyramid):
                module.set_grad_checkpointing()

    def on_before_backward(self, loss: Tensor) -> None:
        """Store running statistics, because recomputed BatchNorm layers update them again."""
        if self.hparams.get('grad_checkpointing', False):
            self._buffers_before = [x.clone() for x in self.buffers()]

    def on_after_backward(self) -> None:
        """Restore the running statistics that were stored before the backward pass."""
        if self._buffers_before:
            for buffer, before in zip(
                self.buffers(), self._buffers_before, strict=True
            ):
                buffer.copy_(before)
            self._buffers_before = ()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the task name, its datamodule and the modalities in the checkpoint."""
        checkpoint['task'] = type(self).__name__
        training, modalities = training_data(self)
        checkpoint['encoder_training'] = training
        checkpoint['encoder_modalities'] = {
            m: asdict(modality) for m, modality in modalities.items()
        }
        # TorchGeo needs this key. It is empty, because Lightning's CLI would prefer its
        # content to the command-line options.
        checkpoint['hyper_parameters'] = {}
        # In torch 2.6, the weight-averaging schedule stores a function, which prevents
        # loading with `weights_only`. A new schedule sets this function itself.
        schedules = [*checkpoint.get('lr_schedulers', [])]
        for callback in checkpoint.get('callbacks', {}).values():
            schedules.append(callback.get('scheduler_state') or {})
        for state in schedules:
            state.pop('anneal_func', None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint belongs to this task and architecture.

        Raises:
            ValueError: if the task or a hyperparameter of the architecture differs. The
                message names each difference.
        """
        stored = current_names(type(self), checkpoint.get(TASK_OPTIONS, {}))
        names = self.architecture_hparams
        expected = {'task': type(self).__name__, **{k: self.hparams[k] for k in names}}
        found = {'task': checkpoint.get('task'), **{k: stored.get(k) for k in names}}
        if 'modalities' in names:
            # The order of modalities determines the order of features and parameters.
            order = 'order of modalities'
            expected[order] = list(expected['modalities'])
            found[order] = list(found['modalities'] or ())
        differ = [
            f'{k}: expected {tuples_to_lists(v)}, found {tuples_to_lists(found[k])}'
            for k, v in expected.items()
            if tuples_to_lists(v) != tuples_to_lists(found[k])
        ]
        if differ:
            raise ValueError(
                f'checkpoint belongs to another model; {"; ".join(differ)}; use the '
                'options of the run that wrote it, or start a new fit with its encoders '
                'as weights'
            )

    def _should_log(self, batch_idx: int) -> bool:
        """Check whether to log this training step.

        Logging synchronizes with the device. Therefore, only every
        ``log_every_n_steps``-th step and the first and last step of an epoch are logged.
        On a CPU, every step is logged.
        """
        # 0 disables logging.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logged = every > 0 and (self.global_step + 1) % every == 0
        ends = batch_idx == 0 or self.trainer.is_last_batch
        return logged or ends or self.device.type == 'cpu'

    def _can_fuse_optimizer(self) -> bool:
        """Check whether the optimizer can use a fused kernel.

        In mixed precision, Lightning cannot clip gradients for a fused optimizer.
        """
        trainer = self._trainer
        if trainer is None or not trainer.gradient_clip_val:
            return True
        return 'mixed' not in str(trainer.precision)


def training_data(task: LightningModule) -> tuple[dict[str, str], dict[str, Modality]]:
    """Return the names of a task and of its datamodule, and the modalities of the data.

    Args:
        task: a task, with or without a trainer.

    Returns:
        Names for the metadata of exported files, and the modalities by name, if known.
    """
    datamodule = getattr(task._trainer, 'datamodule', None)
    data = {'data': type(datamodule).__name__} if datamodule is not None else {}
    found = getattr(datamodule, 'modalities', {})
    known = {m: r for m, r in found.items() if isinstance(r, Modality)}
    return {'task': type(task).__name__, **data}, known
