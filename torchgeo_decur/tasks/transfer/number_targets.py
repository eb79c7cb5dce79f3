"""Losses, metrics and units for numeric targets, such as biomass or height."""

from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchgeo.datasets.utils import Sample
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import ClasswiseWrapper

from ...models import NumberPredictions
from ...models.encoder import Weights
from .base import LateFusionTask
from .masked_regression import (
    MaskedMeanAbsoluteError,
    MaskedMeanSquaredError,
    MaskedR2Score,
    MaskedRegressionLoss,
    target_moments,
)
from .target_guard import NumberGuard
from .training_targets import training_targets


class NumberTargets(LateFusionTask):
    """Base class of the transfer tasks with numeric targets and TorchGeo's metrics.

    The metrics are ``RMSE``, ``MSE``, ``MAE`` and ``R2``, in the unit of the targets.
    With several outputs, metric names include the output, such as ``RMSE_height``, and
    ``R2`` is the mean over the outputs. Loss and metrics exclude unknown targets.

    Args:
        modalities: number of channels of each modality, by name.
        model: see the subclass.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        num_outputs: number of values to predict per sample or pixel.
        loss: 'mse', 'mae' or 'huber', which is quadratic below an error of 1 and linear
            above.
        standardize_targets: whether to standardize targets to mean 0 and standard
            deviation 1 over the training split. The loss then uses standardized
            values. Predictions, metrics and figures keep the unit of the targets.
            Checkpoints store the mean and standard deviation.
        nodata: value that marks unknown targets, such as -9999. NaN always marks them.
        options: other arguments of :class:`~torchgeo_decur.tasks.LateFusionTask`.

    Raises:
        ValueError: if an option is invalid or options contradict each other.
    """

    architecture_hparams = (*LateFusionTask.architecture_hparams, 'num_outputs')
    output_name = 'values'
    percent = False
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str],
        weights: Weights | dict[str, Weights] = None,
        *,
        num_outputs: int = 1,
        loss: Literal['mse', 'mae', 'huber'] = 'mse',
        standardize_targets: bool = False,
        nodata: float | None = None,
        **options: Any,
    ) -> None:
        """Initialize a new NumberTargets instance."""
        super().__init__(modalities, model, weights, **options)

    @property
    def num_outputs(self) -> int:
        """Number of model outputs per sample or pixel."""
        number: int = self.hparams['num_outputs']
        return number

    def configure_models(self) -> None:
        """Check the options before a subclass builds the model.

        Raises:
            ValueError: if an option is invalid or options contradict each other.
        """
        number, labels = self.num_outputs, self.hparams['labels']
        if number < 1:
            raise ValueError(f'num_outputs must be positive, got {number}')
        if labels is not None and len(labels) != number:
            raise ValueError(
                f'labels must have the length {number} of num_outputs, got {labels}; '
                'set num_outputs to the number of labels'
            )
        super().configure_models()

    def configure_losses(self) -> None:
        """Build the loss over known targets and buffers for the target statistics."""
        self.guard = NumberGuard()
        self.criterion = MaskedRegressionLoss(self.hparams['loss'])
        self.register_buffer('target_mean', torch.zeros(self.num_outputs))
        # The standard deviation is 0 until a fit computes it.
        known = torch.zeros if self.hparams['standardize_targets'] else torch.ones
        self.register_buffer('target_std', known(self.num_outputs))

    def on_fit_start(self) -> None:
        """Compute the target statistics if ``standardize_targets`` is set."""
        super().on_fit_start()
        # A resumed fit keeps the statistics of its checkpoint.
        if self.target_std.all():
            return
        key = self.hparams['label_key']
        batches = training_targets(self.trainer, key, 'standardize_targets')
        mean, std, number = target_moments(
            (self.guard.replace(self._target({key: y})) for y in batches),
            self.num_outputs,
        )
        self.guard.check(key)
        self.target_mean.copy_(mean)
        self.target_std.copy_(std)
        rank_zero_info(
            f'Targets of {number} training samples: mean '
            f'{_digits(mean)}, standard deviation {_digits(std)}'
        )

    def _metrics(self) -> tuple[dict[str, Metric], dict[str, Metric]]:
        number = self.num_outputs
        builders: dict[str, Any] = {
            'RMSE': partial(MaskedMeanSquaredError, squared=False),
            'MSE': MaskedMeanSquaredError,
            'MAE': MaskedMeanAbsoluteError,
            'R2': MaskedR2Score,
        }
        metrics: dict[str, Metric] = {k: build(number) for k, build in builders.items()}
        if number > 1:
            each = {**metrics, 'R2': MaskedR2Score(number, 'raw_values')}
            labels = self.hparams['labels']
            metrics = {
                f'Classwise{k}': ClasswiseWrapper(metric, labels, f'{k}_')
                for k, metric in each.items()
            } | {'R2': metrics['R2']}
        self.summary = ('RMSE', 'MAE', 'R2') if number == 1 else ('R2',)
        return metrics, {}

    def _target(self, batch: Sample) -> Tensor:
        target = self._stored_target(batch).float()
        number = self.num_outputs
        missing = 1 if target.ndim in (1, 3) else None
        y = target if missing is None else target.unsqueeze(missing)
        if y.shape[1] != number:
            key = self.hparams['label_key']
            raise ValueError(
                f'{key} must have shape (B, {number}) for scenes or (B, {number}, H, W) '
                f'for pixels, got {tuple(target.shape)}; set num_outputs to the number '
                'of targets'
            )
        nodata = self.hparams['nodata']
        return y if nodata is None else y.where(y != nodata, torch.nan)

    def _checked_target(self, batch: Sample) -> Tensor:
        y = super()._checked_target(batch)
        return (y - self._by_output(self.target_mean, y)) / self._scale(y)

    def _update(self, metrics: MetricCollection, y_hat: Tensor, y: Tensor) -> None:
        # Errors and R2 do not depend on the mean, and sums without it are more
        # accurate.
        scale = self._scale(y)
        super()._update(metrics, y_hat.float() * scale, y * scale)

    def _weight(self, y: Tensor) -> Tensor:
        return (~y.isnan()).sum().float()

    def _shown(self, y_hat: Tensor) -> Tensor:
        values: Tensor = self.predictions()(y_hat)['values']
        return values.squeeze(1)

    def predictions(self) -> NumberPredictions:
        """Return a module that converts outputs to numbers in the unit of the targets."""
        return NumberPredictions(self.target_mean, self._known_std())

    def _scale(self, y: Tensor) -> Tensor:
        """Return the standard deviation of the targets, or 1 before a fit."""
        return self._by_output(self._known_std(), y)

    def _known_std(self) -> Tensor:
        return self.target_std.where(self.target_std > 0, 1)

    @staticmethod
    def _by_output(values: Tensor, y: Tensor) -> Tensor:
        """Reshape one value per output to broadcast with shape (B, K, ...)."""
        return values.reshape(-1, *[1] * (y.ndim - 2))


def _digits(values: Tensor) -> list[float]:
    return [float(f'{v:.4g}') for v in values.tolist()]
