"""Barlow Twins loss between modalities or between views of a single modality."""

from collections.abc import Mapping

from torch import Tensor

from .base import PairwiseLoss
from .functional import Embedding, Subset, embed, redundancy_reduction


class BarlowTwinsLoss(PairwiseLoss[Embedding]):
    r"""Barlow Twins loss, which aligns views and decorrelates their dimensions.

    Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy Reduction*,
    ICML 2021, https://arxiv.org/abs/2103.03230.

    For the cross-correlation matrix :math:`C` of two standardized embeddings, the loss is
    (Eq. 1)

    .. math:: \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2.

    The loss is averaged over all pairs of modalities and all views; see
    :class:`CrossModalLoss`. lightly's ``BarlowTwinsLoss`` gives the same value, but always
    computes the D x D matrix.

    Args:
        lambda_param: weight :math:`\lambda` of the off-diagonal elements.

    Raises:
        ValueError: if ``lambda_param`` is negative.

    Shape:
        - Input: one tensor (V, N, D) per modality, with V views, N >= 2 samples across all
          devices and D dimensions. A single modality needs V >= 2.
        - Output: scalars ``loss`` and ``cross_<m>_<n>`` for each pair of modalities, or
          ``intra_<m>`` for a single modality.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 1.0], [3.0, 3.0]])[None]
        >>> round(BarlowTwinsLoss()({'s1': z, 's2': z})['loss'].item(), 3)
        0.0
    """

    def __init__(self, lambda_param: float = 0.0051) -> None:
        """Initialize a new BarlowTwinsLoss instance."""
        super().__init__()
        if not lambda_param >= 0:
            raise ValueError(f'lambda_param must be >= 0, got {lambda_param}')
        self.lambda_param = lambda_param

    def prepare(
        self, z: Mapping[str, Tensor], pairs: int, subset: Subset | None = None
    ) -> Mapping[str, list[Embedding]]:
        """Wrap each view and choose the cheaper way to compute correlations.

        Returns:
            Wrapped views by modality.
        """
        dim = next(iter(z.values())).shape[2]
        return embed(z, pairs * dim**2, dict.fromkeys(z, subset))

    def compare(self, a: Embedding, b: Embedding) -> Tensor:
        """Compute the loss between two views."""
        return redundancy_reduction(a, b, self.lambda_param)
