"""Losses and metrics for numeric targets, where NaN marks unknown targets."""

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss, l1_loss, mse_loss
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric, R2Score

RegressionLoss = Literal['mse', 'mae', 'huber']
_LOSSES: dict[RegressionLoss, Callable[..., Tensor]] = {
    'mse': mse_loss,
    'mae': l1_loss,
    'huber': huber_loss,
}


class MaskedRegressionLoss(nn.Module):
    """Mean regression loss over the known targets.

    Args:
        loss: 'mse', 'mae' or 'huber', which is quadratic below an error of 1 and linear
            above.

    Raises:
        ValueError: if the loss is unknown.

    Example:
        >>> loss = MaskedRegressionLoss('mae')
        >>> loss(torch.tensor([[1.0], [9.0]]), torch.tensor([[3.0], [torch.nan]]))
        tensor(2.)
    """

    def __init__(self, loss: RegressionLoss = 'mse') -> None:
        """Initialize a new MaskedRegressionLoss instance."""
        super().__init__()
        if loss not in _LOSSES:
            raise ValueError(f'loss must be one of {list(_LOSSES)}, got {loss!r}')
        self.loss: RegressionLoss = loss

    def forward(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            y_hat: predictions, shape (B, K, ...).
            y: targets, of the same shape. NaN marks unknown targets.

        Returns:
            Scalar loss, which is 0 if no target is known.
        """
        known = ~y.isnan()
        losses = _LOSSES[self.loss](y_hat.float(), y.where(known, 0), reduction='none')
        # The clamp avoids a division by zero without device synchronization.
        return (losses * known).sum() / known.sum().clamp(min=1)


class MaskedMeanSquaredError(MeanSquaredError):
    """Mean squared error of each output over the known targets.

    Args:
        num_outputs: number of outputs K.
        squared: whether to return the mean squared error instead of its square root.

    Example:
        >>> metric = MaskedMeanSquaredError(num_outputs=1, squared=False)
        >>> metric(torch.tensor([[1.0], [9.0]]), torch.tensor([[3.0], [torch.nan]]))
        tensor(2.)
    """

    def __init__(self, num_outputs: int = 1, squared: bool = True) -> None:
        """Initialize a new MaskedMeanSquaredError instance."""
        super().__init__(squared=squared, num_outputs=num_outputs)
        _count(self, num_outputs)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Update the metric with predictions and targets, both of shape (B, K, ...)."""
        error, known = _errors(preds, target)
        self.sum_squared_error = self.sum_squared_error + error.square().sum(0)
        self.total = self.total + known


class MaskedMeanAbsoluteError(MeanAbsoluteError):
    """Mean absolute error of each output over the known targets.

    Args:
        num_outputs: number of outputs K.
    """

    def __init__(self, num_outputs: int = 1) -> None:
        """Initialize a new MaskedMeanAbsoluteError instance."""
        super().__init__(num_outputs=num_outputs)
        _count(self, num_outputs)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Update the metric with predictions and targets, both of shape (B, K, ...)."""
        error, known = _errors(preds, target)
        self.sum_abs_error = self.sum_abs_error + error.abs().sum(0)
        self.total = self.total + known


class MaskedR2Score(R2Score):
    """Coefficient of determination over the known targets.

    The score of an output is NaN if fewer than two of its targets are known or if all
    its known targets are equal.

    Args:
        num_outputs: number of outputs K.
        multioutput: 'raw_values' for one score per output, or 'uniform_average' for
            the mean of all scores that are not NaN.

    Example:
        >>> metric = MaskedR2Score(1)
        >>> y = torch.tensor([[1.0], [2.0], [3.0], [torch.nan]])
        >>> metric(torch.tensor([[1.0], [2.0], [2.0], [9.0]]), y)
        tensor(0.5000)
    """

    def __init__(
        self,
        num_outputs: int = 1,
        multioutput: Literal['raw_values', 'uniform_average'] = 'uniform_average',
    ) -> None:
        """Initialize a new MaskedR2Score instance."""
        super().__init__(multioutput=multioutput)
        for name in ('sum_squared_error', 'sum_error', 'residual'):
            self.add_state(name, torch.zeros(num_outputs), dist_reduce_fx='sum')
        _count(self, num_outputs)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Update the metric with predictions and targets, both of shape (B, K, ...)."""
        error, known = _errors(preds, target)
        y = _rows(target.nan_to_num(0.0))
        self.sum_squared_error = self.sum_squared_error + y.square().sum(0)
        self.sum_error = self.sum_error + y.sum(0)
        self.residual = self.residual + error.square().sum(0)
        self.total = self.total + known

    def compute(self) -> Tensor:
        """Compute the score from the accumulated sums."""
        n = self.total.clamp(min=1)
        spread = self.sum_squared_error - self.sum_error.square() / n
        # Because of rounding, equal targets may have a small positive variance.
        varies = spread > 1e-6 * self.sum_squared_error
        scores = torch.where(varies, 1 - self.residual / spread, torch.nan)
        return scores.nanmean() if self.multioutput == 'uniform_average' else scores


def _count(metric: Metric, num_outputs: int) -> None:
    """Add a counter of the known targets of each output to a metric."""
    zeros = torch.zeros(num_outputs, dtype=torch.long)
    metric.add_state('total', zeros, dist_reduce_fx='sum')


def _errors(preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the errors, 0 for unknown targets, and the number of known targets."""
    known = ~target.isnan()
    error = torch.where(known, preds.float() - target, 0.0)
    return _rows(error), _rows(known).sum(0)


def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def target_moments(
    batches: Iterable[Tensor], num_outputs: int
) -> tuple[Tensor, Tensor, int]:
    """Compute the mean and standard deviation of the known targets.

    Args:
        batches: batches of targets, shape (B, K, ...). NaN marks unknown targets.
        num_outputs: number of outputs K.

    Returns:
        Mean and standard deviation, shape (K,), and the number of samples.

    Raises:
        ValueError: if an output has fewer than two different known targets.

    Example:
        >>> target_moments([torch.tensor([[1.0], [3.0], [torch.nan]])], 1)
        (tensor([2.]), tensor([1.]), 3)
    """
    count, mean, squares = torch.zeros(3, num_outputs, dtype=torch.double)
    samples = 0
    for batch in batches:
        samples += len(batch)
        y = _rows(batch).double()
        known = ~y.isnan()
        n = known.sum(0)
        here = y.nan_to_num(0.0).sum(0) / n.clamp(min=1)
        spread = torch.where(known, y - here, 0.0).square().sum(0)
        total = (count + n).clamp(min=1)
        squares = squares + spread + (here - mean).square() * count * n / total
        mean = mean + (here - mean) * n / total
        count = count + n
    std = (squares / count.clamp(min=1)).sqrt()
    if not (std > 0).all():
        raise ValueError(
            'standardize_targets needs two different known targets per output, found '
            f'{count.long().tolist()} known targets with standard deviations '
            f'{std.tolist()} in {samples} training samples; check nodata and the labels, '
            'or set standardize_targets to False'
        )
    return mean.float(), std.float(), samples
