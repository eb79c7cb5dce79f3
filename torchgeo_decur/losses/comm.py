"""CoMM loss, which contrasts each modality with a joint embedding of all modalities."""

from collections.abc import Mapping

from torch import Tensor

from .base import EmbeddingLoss, mean
from .functional import Subset
from .info_nce import Directions, contrast


class CoMMLoss(EmbeddingLoss):
    r"""CoMM loss, which contrasts the joint embedding with each modality and with itself.

    Dufumier, Castillo-Navarro et al., *What to align in multimodal contrastive
    learning?*, ICLR 2025, https://arxiv.org/abs/2409.07402.

    Let :math:`z_n^{(v)}` be the embedding of view :math:`v`, where :math:`n` is a modality
    or ``joint``, the embedding of all modalities together. The loss is the mean over all
    :math:`n` of

    .. math:: \mathcal{L}_n = \tfrac12 \bigl(
              \mathrm{InfoNCE}(z_n^{(1)}, z_{joint}^{(2)}) +
              \mathrm{InfoNCE}(z_n^{(2)}, z_{joint}^{(1)}) \bigr).

    The terms of individual modalities learn redundant and unique information. Only the
    ``joint`` term also learns synergistic information.

    Args:
        temperature: temperature of InfoNCE.

    Raises:
        ValueError: if the temperature is not positive.

    Shape:
        - Input: one tensor (2, N, D) for ``joint`` and for each of one or more
          modalities, with N >= 2 samples across all devices.
        - Output: scalars ``loss`` and ``contrast_<name>`` for each input.

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
        """Compute the loss and its terms from checked embeddings."""
        joint = self.directions(z['joint'], self.subset(available, 'joint'))
        parts = self.contrasts(z, joint, available)
        return {'loss': mean([*parts.values()]), **parts}

    def contrasts(
        self,
        z: Mapping[str, Tensor],
        joint: list[Directions],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the contrastive term of each embedding.

        Args:
            z: embeddings by name, shape (2, N, D) each.
            joint: normalized views of ``joint``, from :meth:`directions`.
            available: boolean masks by name, shape (N,), True for each sample that has the
                embedding. None if all samples have all embeddings.

        Returns:
            Scalars ``contrast_<name>`` for each embedding.
        """
        parts: dict[str, Tensor] = {}
        for n in z:
            subset = self.subset(available, n)
            if n == 'joint':
                # Both terms are equal.
                parts['contrast_joint'] = contrast(*joint)
                continue
            a, b = self.directions(z[n], subset)
            # Each sample with a modality also has a joint embedding.
            joint_a, joint_b = (
                joint if subset is None else self.directions(z['joint'], subset)
            )
            parts[f'contrast_{n}'] = mean([contrast(a, joint_b), contrast(b, joint_a)])
        return parts

    def directions(self, z: Tensor, subset: Subset | None = None) -> list[Directions]:
        """Normalize both views of an embedding.

        Args:
            z: embeddings, shape (2, N, D).
            subset: samples to use; all by default.

        Returns:
            Normalized embeddings of each view.
        """
        return [Directions(x, self.temperature, subset) for x in z]
