"""COrAL loss, which keeps shared and unique embeddings orthogonal."""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from .base import EmbeddingLoss, display_names
from .info_nce import Directions, contrast


class COrALLoss(EmbeddingLoss):
    r"""COrAL loss, which contrasts shared and unique embeddings and keeps them orthogonal.

    Cissee et al., 2026, https://arxiv.org/abs/2602.14983.

    Let :math:`s` be ``shared``, the embedding of all modalities together, and :math:`u_m`
    the unique embedding of modality :math:`m`. For their two views :math:`v`, the loss is

    .. math:: \mathcal{L} = w_s \, \mathrm{InfoNCE}(s^{(1)}, s^{(2)})
              + w_u \sum_m \mathrm{InfoNCE}(u_m^{(1)}, u_m^{(2)})
              + w_o \sum_{p < q} \sum_v \mathrm{E}_b [\cos^2(p_b^{(v)}, q_b^{(v)})],

    where :math:`p` and :math:`q` run over the shared and all unique embeddings.

    Args:
        temperature: temperature of InfoNCE.
        orthogonal_weight: weight :math:`w_o` of the orthogonality terms.
        unique_weight: weight :math:`w_u` of the unique terms.
        shared_weight: weight :math:`w_s` of the shared term.

    Raises:
        ValueError: if the temperature is not positive or a weight is negative.

    Shape:
        - Input: one tensor (2, N, D) for ``shared`` and for each of one or more
          modalities, with N >= 2 samples across all devices.
        - Output: scalars ``loss`` and its terms before weighting: ``shared``,
          ``unique_<m>`` for each modality and ``orthogonal_<p>_<q>`` for each pair.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> z = {m: torch.randn(2, 8, 16) for m in ('shared', 's1', 's2')}
        >>> [part for part in COrALLoss()(z) if part.startswith('orthogonal')]
        ['orthogonal_shared_s1', 'orthogonal_shared_s2', 'orthogonal_s1_s2']
    """

    exactly = True
    takes_available = True
    min_samples = 2
    joint = 'shared'

    def __init__(
        self,
        temperature: float = 0.1,
        orthogonal_weight: float = 1.0,
        unique_weight: float = 1.0,
        shared_weight: float = 1.0,
    ) -> None:
        """Initialize a new COrALLoss instance."""
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'temperature must be positive, got {temperature}')
        weights = {
            'orthogonal_weight': orthogonal_weight,
            'unique_weight': unique_weight,
            'shared_weight': shared_weight,
        }
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f'{name} must be >= 0, got {weight}')
        self.temperature = temperature
        self.orthogonal_weight = orthogonal_weight
        self.unique_weight = unique_weight
        self.shared_weight = shared_weight

    def terms(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and its terms from checked embeddings."""
        names = ['shared', *(m for m in z if m != 'shared')]
        views: dict[str, list[Directions]] = {}
        for n in names:
            subset = self.subset(available, n)
            views[n] = [Directions(x, self.temperature, subset) for x in z[n]]
        contrasts = {n: contrast(*of_n) for n, of_n in views.items()}
        orthogonal: dict[str, Tensor] = {}
        for (p, q), pair in display_names(combinations(names, 2)).items():
            squares = [
                a.cosines(b).square() for a, b in zip(views[p], views[q], strict=True)
            ]
            subset = self.subset(available, p, q)
            orthogonal[f'orthogonal_{pair}'] = (
                torch.stack(squares).mean(dim=1).sum()
                if subset is None
                else subset.term(torch.stack([*map(subset.mean, squares)]).sum())
            )
        shared = contrasts.pop('shared')
        unique = {f'unique_{m}': x for m, x in contrasts.items()}
        loss = (
            self.shared_weight * shared
            + self.unique_weight * torch.stack(list(unique.values())).sum()
            + self.orthogonal_weight * torch.stack(list(orthogonal.values())).sum()
        )
        return {'loss': loss, 'shared': shared, **unique, **orthogonal}
