"""The loss of CoMM: agreement of each modality with all of them together."""

from collections.abc import Mapping

from torch import Tensor

from .base import EmbeddingLoss, mean
from .info_nce import Directions, contrast


class CoMMLoss(EmbeddingLoss):
    r"""Bring the embedding of each modality, and of all, close to that of all.

    Dufumier, Castillo-Navarro et al., *What to align in multimodal contrastive
    learning?*, ICLR 2025, https://arxiv.org/abs/2409.07402.

    With the embeddings :math:`z_n^{(v)}` of view :math:`v` for each name :math:`n` among
    the modalities and ``joint``, which is made of all modalities,

    .. math:: \mathcal{L}_n = \tfrac12 \bigl(
              \mathrm{InfoNCE}(z_n^{(1)}, z_{joint}^{(2)}) +
              \mathrm{InfoNCE}(z_n^{(2)}, z_{joint}^{(1)}) \bigr),

    and the loss is the mean over all names. What agrees with a single modality is
    redundant or unique; what only the two joint views share is synergy.

    Args:
        temperature: temperature of InfoNCE.

    Raises:
        ValueError: if the temperature is not positive.

    Shape:
        - Input: tensors (2, N, D) of one or more modalities and of ``joint``, N >= 2
          samples of all devices.
        - Output: scalars: ``loss``, and ``contrast_<name>`` of each.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> z = {m: torch.randn(2, 8, 16) for m in ('s1', 's2', 'joint')}
        >>> sorted(CoMMLoss()(z))
        ['contrast_joint', 'contrast_s1', 'contrast_s2', 'loss']
    """

    exactly = True

    def __init__(self, temperature: float = 0.1) -> None:
        """Initialize a new CoMMLoss instance."""
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'temperature must be positive, got {temperature}')
        self.temperature = temperature

    def terms(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss and its parts of checked embeddings.

        Args:
            z: embeddings by name, shape (2, N, D) each, float32 or float64.

        Returns:
            ``loss`` and its parts, scalars.
        """
        views = {n: [Directions(x, self.temperature) for x in v] for n, v in z.items()}
        joint_a, joint_b = views['joint']
        parts = {
            f'contrast_{n}': mean([contrast(a, joint_b), contrast(b, joint_a)])
            for n, (a, b) in views.items()
        }
        return {'loss': mean([*parts.values()]), **parts}

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Refuse embeddings that the loss is not defined for.

        Args:
            z: embeddings by name.

        Raises:
            ValueError: if there is no ``joint`` or nothing else, views are not two,
                samples are too few, or shapes differ.
        """
        if 'joint' not in z:
            raise ValueError(f"z must have 'joint', got {list(z)}")
        super().check(z)
