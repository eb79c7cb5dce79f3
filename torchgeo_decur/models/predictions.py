"""Convert the logits of a model to named predictions."""

from typing import Literal

from torch import Tensor, nn


class ClassPredictions(nn.Module):
    """Module that converts logits to probabilities and classes.

    Args:
        task: 'multiclass' for one class per sample or pixel, or 'binary' or 'multilabel'
            for independent labels.

    Raises:
        ValueError: if the task is unknown.

    Example:
        >>> import torch
        >>> found = ClassPredictions('multiclass')(torch.tensor([[0.0, 2.0]]))
        >>> list(found), found['classes']
        (['logits', 'probabilities', 'classes'], tensor([1]))
    """

    def __init__(self, task: Literal['binary', 'multiclass', 'multilabel']) -> None:
        """Initialize a new ClassPredictions instance."""
        super().__init__()
        if task not in ('binary', 'multiclass', 'multilabel'):
            raise ValueError(
                f"task must be 'binary', 'multiclass' or 'multilabel', got {task!r}"
            )
        self.task = task

    def forward(self, logits: Tensor) -> dict[str, Tensor]:
        """Convert logits.

        Args:
            logits: shape (B, K) or (B, K, H, W).

        Returns:
            ``logits``, ``probabilities`` of the same shape, and the integers ``classes``.
            For 'multiclass', these are class numbers, shape (B,) or (B, H, W). Otherwise,
            they are 0 or 1 for each label and have the shape of the logits.
        """
        if self.task == 'multiclass':
            probabilities, classes = logits.softmax(dim=1), logits.argmax(dim=1)
        else:
            probabilities, classes = logits.sigmoid(), (logits >= 0).long()
        return {'logits': logits, 'probabilities': probabilities, 'classes': classes}


class NumberPredictions(nn.Module):
    """Module that converts standardized outputs to numbers in the unit of the targets.

    Args:
        mean: mean of the targets, shape (K,).
        std: standard deviation of the targets, shape (K,).

    Example:
        >>> import torch
        >>> convert = NumberPredictions(torch.tensor([10.0]), torch.tensor([2.0]))
        >>> convert(torch.tensor([[0.5]]))['values']
        tensor([[11.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        """Initialize a new NumberPredictions instance."""
        super().__init__()
        self.register_buffer('mean', mean)
        self.register_buffer('std', std)

    def forward(self, outputs: Tensor) -> dict[str, Tensor]:
        """Convert outputs.

        Args:
            outputs: shape (B, K) or (B, K, H, W).

        Returns:
            ``values``, of the same shape.
        """
        shape = (-1, *[1] * (outputs.ndim - 2))
        return {
            'values': outputs.float() * self.std.reshape(shape)
            + self.mean.reshape(shape)
        }
