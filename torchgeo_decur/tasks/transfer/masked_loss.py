"""Losses for partly unknown targets."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy


class MaskedLoss(nn.Module):
    r"""Mean cross-entropy or focal loss over the known targets.

    The loss of a target is :math:`-(1 - p)^\gamma \log p`, where :math:`p` is the
    predicted probability of the true class. With :math:`\gamma = 0`, this is the
    cross-entropy. With :math:`\gamma = 2`, it is the focal loss of Lin et al., ICCV
    2017, https://arxiv.org/abs/1708.02002.

    Args:
        multiclass: whether the logits, shape (B, C, ...), are scores of mutually
            exclusive classes. Otherwise, each logit has its own binary target.
        ignore_index: value that marks unknown targets.
        class_weights: weight of each class, for ``multiclass``.
        gamma: focusing exponent :math:`\gamma`.
        pos_weight: weight of the positive targets of each label, for binary targets.
        persistent: whether checkpoints include ``pos_weight``.

    Example:
        >>> loss = MaskedLoss(multiclass=False, ignore_index=255)
        >>> round(loss(torch.zeros(2), torch.tensor([1, 255])).item(), 4)  # log(2)
        0.6931
    """

    class_weights: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        multiclass: bool,
        ignore_index: int | None = None,
        class_weights: list[float] | None = None,
        gamma: float = 0.0,
        pos_weight: Tensor | None = None,
        persistent: bool = False,
    ) -> None:
        """Initialize a new MaskedLoss instance."""
        super().__init__()
        self.multiclass = multiclass
        self.ignore_index = ignore_index
        self.gamma = gamma
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.register_buffer('class_weights', weights, persistent=False)
        self.register_buffer('pos_weight', pos_weight, persistent=persistent)

    def forward(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            y_hat: logits, shape (B, C, ...), or of the same shape as the targets.
            y: class indices, or binary targets 0 and 1. Unknown targets have the value
                ``ignore_index``.

        Returns:
            Scalar loss, which is 0 if no target is known.
        """
        weights = target_weights(y, self.ignore_index, self.class_weights)
        known = y.where(weights > 0, 0)
        if self.multiclass:
            losses = cross_entropy(y_hat, known, reduction='none')
        else:
            losses = binary_cross_entropy_with_logits(
                y_hat,
                known.to(y_hat.dtype),
                pos_weight=_by_label(self.pos_weight, y_hat),
                reduction='none',
            )
        if self.gamma:
            losses = (1 - torch.exp(-losses)).pow(self.gamma) * losses
        total = weights.sum()
        return (losses * weights).sum() / total.where(total > 0, 1)


def target_weights(
    y: Tensor, ignore_index: int | None = None, class_weights: Tensor | None = None
) -> Tensor:
    """Return the weight of each target in a mean loss.

    Args:
        y: targets, of any shape.
        ignore_index: value that marks unknown targets, which have weight 0.
        class_weights: weight of each class, by default 1.

    Returns:
        The weights, of the same shape as ``y``, float32.

    Example:
        >>> target_weights(torch.tensor([0, 1, 255]), 255)
        tensor([1., 1., 0.])
    """
    known = torch.ones_like(y, dtype=torch.bool)
    if ignore_index is not None:
        known = y != ignore_index
    if class_weights is None:
        return known.float()
    return class_weights[y.where(known, 0)] * known


def _by_label(weight: Tensor | None, y_hat: Tensor) -> Tensor | None:
    """Reshape the weights of labels to broadcast with logits, shape (B, L, ...)."""
    if weight is None or y_hat.ndim < 3:
        return weight
    return weight.reshape(-1, *[1] * (y_hat.ndim - 2)) if len(weight) > 1 else weight
