"""Binary cross-entropy of targets some of which are not known."""

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class MaskedBinaryCrossEntropy(nn.Module):
    """Mean binary cross-entropy over the targets that are known.

    Args:
        ignore_index: value of targets that are not known.

    Example:
        >>> import torch
        >>> loss = MaskedBinaryCrossEntropy(ignore_index=255)
        >>> round(loss(torch.zeros(2), torch.tensor([1, 255])).item(), 4)  # log(2)
        0.6931
    """

    def __init__(self, ignore_index: int | None = None) -> None:
        """Initialize a new MaskedBinaryCrossEntropy instance."""
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, y_hat: Tensor, y: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            y_hat: logits, any shape.
            y: targets, 0, 1 or ``ignore_index``, same shape.

        Returns:
            The loss, a scalar; 0 where no target is known.
        """
        if self.ignore_index is None:
            return binary_cross_entropy_with_logits(y_hat, y.to(y_hat.dtype))
        known = y != self.ignore_index
        losses = binary_cross_entropy_with_logits(
            y_hat, (y * known).to(y_hat.dtype), reduction='none'
        )
        return (losses * known).sum() / known.sum().clamp(min=1)
