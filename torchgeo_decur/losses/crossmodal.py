"""Losses of two embeddings, such as lightly's, between modalities."""

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

from .base import EmbeddingLoss
from .naming import display_names


class CrossModalLoss(EmbeddingLoss):
    """Average a loss of two embeddings over all pairs of modalities.

    View v of one modality is compared with view v of the other, for every v, so that
    each image of a step counts. With a single modality its views are compared.

    This makes the baselines of DeCUR (Wang et al., ECCV 2024,
    https://arxiv.org/abs/2309.05300): Barlow Twins, VICReg and SimCLR that take the
    modalities for the views.

    Args:
        loss: a module from two tensors (N, D) to a scalar, of samples of all devices: it
            must not gather them itself.

    Shape:
        - Input: one tensor (V, N, D) per modality: V views (two or more of a single
          modality), N >= 2 samples of all devices, D dimensions.
        - Output: scalars: ``loss``, and ``cross_<m>_<n>`` of each pair, or ``intra_<m>``
          of a single modality.

    Example:
        >>> from lightly.loss import NTXentLoss
        >>> _ = torch.manual_seed(0)
        >>> z = {'s1': torch.randn(2, 8, 16), 's2': torch.randn(2, 8, 16)}
        >>> sorted(CrossModalLoss(NTXentLoss(0.1))(z))
        ['cross_s1_s2', 'loss']
    """

    minimum = 1
    views = 1

    def __init__(self, loss: nn.Module) -> None:
        """Initialize a new CrossModalLoss instance."""
        super().__init__()
        self.pair = loss

    def terms(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss and its parts of checked embeddings.

        Args:
            z: embeddings by modality, shape (V, N, D) each, float32 or float64.

        Returns:
            ``loss`` and its parts, scalars.
        """
        pairs = {
            f'cross_{pair}': list(zip(z[m], z[n], strict=True))
            for (m, n), pair in display_names(combinations(z, 2)).items()
        } or {f'intra_{m}': list(combinations(x, 2)) for m, x in z.items()}
        parts = {
            name: torch.stack([self.pair(a, b) for a, b in both]).mean()
            for name, both in pairs.items()
        }
        return {'loss': torch.stack(list(parts.values())).mean(), **parts}

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Refuse embeddings that the loss is not defined for.

        Args:
            z: embeddings by modality.

        Raises:
            ValueError: if there is no modality, samples or the views of a single
                modality are too few, or shapes differ.
        """
        super().check(z)
        if len(z) == 1 and len(next(iter(z.values()))) < 2:
            raise ValueError(
                f'z must have at least 2 views of a single modality, got 1 of {list(z)}'
            )
