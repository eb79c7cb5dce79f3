"""VICReg loss between modalities or between views of a single modality."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import mse_loss, relu

from .base import PairwiseLoss
from .functional import Subset, covariance_terms

_EPS = 1e-4


class View:
    """Embeddings of one view, with a cached variance and covariance penalty.

    Args:
        z: embeddings, shape (N, D).
        variance: weight of the variance term.
        covariance: weight of the covariance term.
        subset: samples to use; all by default.

    Example:
        >>> import torch
        >>> View(torch.zeros(4, 2), variance=25.0, covariance=1.0).penalty.item()
        12.375
    """

    def __init__(
        self,
        z: Tensor,
        variance: float,
        covariance: float,
        subset: Subset | None = None,
    ) -> None:
        """Initialize a new View instance."""
        self.z = z if subset is None else subset.rows(z)
        self.subset = subset
        self.variance = variance
        self.covariance = covariance
        self._penalty: Tensor | None = None

    @property
    def penalty(self) -> Tensor:
        """Weighted sum of the variance and covariance terms, a scalar."""
        if self._penalty is None:
            variance, off_diagonal = covariance_terms(self.z, self.subset)
            spread = relu(1 - (variance + _EPS).sqrt()).mean()
            redundancy = off_diagonal / self.z.shape[1]
            self._penalty = self.variance / 2 * spread + self.covariance * redundancy
        return self._penalty


class VICRegLoss(PairwiseLoss[View]):
    r"""VICReg loss, which matches embeddings, keeps variance and removes covariance.

    Bardes et al., *VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning*, ICLR 2022, https://arxiv.org/abs/2105.04906.

    Let :math:`a_k` and :math:`b_k` be the embeddings of sample :math:`k` in two modalities,
    and :math:`\Sigma` the covariance matrix of one modality over the batch. The loss is

    .. math::
        \ell(a, b) = \frac{\alpha}{N D} \sum_k \lVert a_k - b_k \rVert^2
          + \frac{\beta}{2} \bigl( v(a) + v(b) \bigr) + \gamma \bigl( c(a) + c(b) \bigr),

        v = \frac1D \sum_i \max \bigl( 0, 1 - \sqrt{\Sigma_{ii} + \epsilon} \bigr),
        \qquad
        c = \frac1D \sum_{i \ne j} \Sigma_{ij}^2.

    The loss is averaged over all pairs of modalities and all views; see
    :class:`CrossModalLoss`. lightly's ``VICRegLoss`` gives the same value, but computes
    the D x D matrix and synchronizes with the device.

    Args:
        invariance: weight :math:`\alpha` of the distance between embeddings.
        variance: weight :math:`\beta` of the variance term :math:`v`.
        covariance: weight :math:`\gamma` of the covariance term :math:`c`.

    Raises:
        ValueError: if a weight is negative.

    Shape:
        - Input: one tensor (V, N, D) per modality, with V views, N >= 2 samples across all
          devices and D dimensions. A single modality needs V >= 2.
        - Output: scalars ``loss`` and ``cross_<m>_<n>`` for each pair of modalities, or
          ``intra_<m>`` for a single modality.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 1.0], [3.0, 3.0]])[None]
        >>> round(VICRegLoss()({'s1': z, 's2': z + 1})['loss'].item(), 3)
        25.0
    """

    def __init__(
        self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
    ) -> None:
        """Initialize a new VICRegLoss instance."""
        super().__init__()
        weights = dict(invariance=invariance, variance=variance, covariance=covariance)
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f'{name} must be >= 0, got {weight}')
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance

    def prepare(
        self, z: Mapping[str, Tensor], pairs: int, subset: Subset | None = None
    ) -> Mapping[str, list[View]]:
        """Wrap each view so that its variance and covariance are computed only once.

        Returns:
            Wrapped views by modality.
        """
        options = (self.variance, self.covariance, subset)
        return {m: [View(x, *options) for x in v] for m, v in z.items()}

    def compare(self, a: View, b: View) -> Tensor:
        """Compute the loss between two views."""
        if a.subset is None:
            distance = mse_loss(a.z, b.z)
        else:
            distance = a.subset.mean((a.z - b.z).square().mean(dim=1))
        return self.invariance * distance + a.penalty + b.penalty
