"""The loss of CoMM: each modality is contrasted with all modalities together."""

from collections.abc import Mapping

from torch import Tensor

from .base import EmbeddingLoss, mean
from .functional import Subset
from .info_nce import Directions, contrast


class CoMMLoss(EmbeddingLoss):
    r"""Contrast the joint embedding with the embedding of each modality, and with itself.

    Dufumier, Castillo-Navarro et al., *What to align in multimodal contrastive
    learning?*, ICLR 2025, https://arxiv.org/abs/2409.07402.

    The names :math:`n` are the modalities and ``joint``, the embedding of all modalities.
    With the embedding :math:`z_n^{(v)}` of each name and view :math:`v`,

    .. math:: \mathcal{L}_n = \tfrac12 \bigl(
              \mathrm{InfoNCE}(z_n^{(1)}, z_{joint}^{(2)}) +
              \mathrm{InfoNCE}(z_n^{(2)}, z_{joint}^{(1)}) \bigr),

    and the loss is the mean over all names. The terms of a single modality learn
    redundant and unique information. Only the term of ``joint`` also learns synergy.

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
    takes_available = True
    min_samples = 2
    joint = 'joint'

    def __init__(self, temperature: float = 0.1) -> None:
        """Initialize a new CoMMLoss instance."""
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'temperature must be positive, got {temperature}')
        self.temperature = temperature

    def terms(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and its parts from checked embeddings."""
        joint = self._views(z, 'joint', self.subset(available, 'joint'))
        parts: dict[str, Tensor] = {}
        for n in z:
            subset = self.subset(available, n)
            a, b = joint if n == 'joint' else self._views(z, n, subset)
            # A sample with any modality has a joint embedding.
            whole = subset is None or n == 'joint'
            joint_a, joint_b = joint if whole else self._views(z, 'joint', subset)
            parts[f'contrast_{n}'] = mean([contrast(a, joint_b), contrast(b, joint_a)])
        return {'loss': mean([*parts.values()]), **parts}

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Check that the embeddings include ``joint`` and have two views.

        Raises:
            ValueError: if ``joint`` or all others are missing, views are not two,
                samples are too few, or shapes differ.
        """
        if 'joint' not in z:
            raise ValueError(f"z must have 'joint', got {list(z)}")
        super().check(z)

    def _views(
        self, z: Mapping[str, Tensor], name: str, subset: Subset | None
    ) -> list[Directions]:
        return [Directions(x, self.temperature, subset) for x in z[name]]
