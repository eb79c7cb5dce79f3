"""DeCUR loss, which decouples common and unique representations."""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from .base import EmbeddingLoss, display_names, mean
from .functional import Embedding, embed, redundancy_reduction


class DeCURLoss(EmbeddingLoss):
    r"""DeCUR loss, which aligns common and decorrelates unique dimensions of modalities.

    Wang et al., *Decoupling Common and Unique Representations for Multimodal
    Self-supervised Learning*, ECCV 2024, https://arxiv.org/abs/2309.05300.

    Let :math:`C` be the cross-correlation matrix of two standardized embeddings, and

    .. math::
        \mathcal{L}_{id}(C) = \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2,
        \qquad
        \mathcal{L}_{0}(C) = \sum_i C_{ii}^2 + \lambda \sum_{i \ne j} C_{ij}^2.

    For modalities :math:`m` and :math:`n`, the terms are

    * ``intra_<m>``: :math:`\mathcal{L}_{id}` between two views of :math:`m`, over all
      dimensions (paper Eq. 4, 5);
    * ``common_<m>_<n>``: :math:`\mathcal{L}_{id}` between the first views of :math:`m` and
      :math:`n`, over the first ``common_dim`` dimensions (Eq. 2);
    * ``unique_<m>_<n>``: :math:`\mathcal{L}_{0}` between the first views of :math:`m` and
      :math:`n`, over the other dimensions (Eq. 3).

    The total is the mean over all intra-modal terms and all pairs of modalities. A pair
    contributes (common + unique) / 2. For two modalities, the total is

    .. math:: \mathcal{L} = \tfrac13 \bigl( \mathcal{L}_{M1} + \mathcal{L}_{M2} +
              \tfrac12 (\mathcal{L}_{com} + \mathcal{L}_{uni}) \bigr).

    The code that trained the published weights uses the same weighting. Eq. 6 of the paper
    is the plain sum of the four terms, which doubles the relative weight of the
    cross-modal terms.

    If samples lack modalities, ``intra_<m>`` uses the samples that have :math:`m`. The
    terms ``common_<m>_<n>`` and ``unique_<m>_<n>`` use the samples that have both.

    Two settings reproduce the ablations of the paper. With ``common_dim`` = D, all
    dimensions are common. With ``intra=False``, the loss has no intra-modal terms and uses
    only the first views.

    Args:
        common_dim: number of common dimensions, which come first.
        lambda_param: weight :math:`\lambda` of the off-diagonal elements.
        intra: whether to include the intra-modal terms.

    Raises:
        ValueError: if ``common_dim`` or ``lambda_param`` is negative.

    Shape:
        - Input: one tensor (V, N, D) per modality, with V >= 2 views, N >= 2 samples
          across all devices and D >= ``common_dim`` dimensions.
        - Output: scalars ``loss`` and its terms.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> criterion = DeCURLoss(common_dim=12)
        >>> sorted(criterion({'s1': torch.randn(2, 8, 16), 's2': torch.randn(2, 8, 16)}))
        ['common_s1_s2', 'intra_s1', 'intra_s2', 'loss', 'unique_s1_s2']
    """

    takes_available = True

    def __init__(
        self, common_dim: int, lambda_param: float = 0.0051, intra: bool = True
    ) -> None:
        """Initialize a new DeCURLoss instance."""
        super().__init__()
        if common_dim < 0:
            raise ValueError(f'common_dim must be >= 0, got {common_dim}')
        if lambda_param < 0:
            raise ValueError(f'lambda_param must be >= 0, got {lambda_param}')
        self.common_dim = common_dim
        self.lambda_param = lambda_param
        self.intra = intra

    def terms(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and its terms from checked embeddings."""
        used = z if self.intra else {m: v[:1] for m, v in z.items()}
        having = {m: self.subset(available, m) for m in z}
        intra: dict[str, Tensor] = {}
        cross: dict[str, Tensor] = {}
        first = {}
        for m, views in embed(used, self._entries(used), having).items():
            first[m] = views[0]
            if self.intra:
                views[0].split(self.common_dim)
                pairs = [self._term(a, b, target=1) for a, b in combinations(views, 2)]
                intra[f'intra_{m}'] = mean(pairs)
        names = display_names(combinations(z, 2))
        for (m, n), pair in names.items():
            both = self.subset(available, m, n)
            a, b = first[m].among(both), first[n].among(both)
            common_m, unique_m = a.split(self.common_dim)
            common_n, unique_n = b.split(self.common_dim)
            cross[f'common_{pair}'] = self._term(common_m, common_n, target=1)
            cross[f'unique_{pair}'] = self._term(unique_m, unique_n, target=0)
        total = sum(intra.values()) + sum(cross.values()) / 2
        loss = torch.as_tensor(total / (len(intra) + len(names)))
        return {'loss': loss, **intra, **cross}

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Check the embeddings and the number of common dimensions.

        Raises:
            ValueError: if there are fewer than two modalities, views or samples, if
                shapes differ, or if ``common_dim`` exceeds D.
        """
        super().check(z)
        dim = next(iter(z.values())).shape[2]
        if self.common_dim > dim:
            raise ValueError(f'common_dim must be in [0, {dim}], got {self.common_dim}')

    def _term(self, a: Embedding, b: Embedding, target: int) -> Tensor:
        return redundancy_reduction(a, b, self.lambda_param, target)

    def _entries(self, z: Mapping[str, Tensor]) -> int:
        """Count the entries of the correlation matrices in all terms."""
        m, (v, _, d) = len(z), next(iter(z.values())).shape
        c = self.common_dim
        intra, cross = m * (v * (v - 1) // 2), m * (m - 1) // 2
        return intra * d**2 + cross * (c**2 + (d - c) ** 2)
