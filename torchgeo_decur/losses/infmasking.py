"""InfMasking loss, which adds a contrast over infinitely many masks to CoMM."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .base import mean
from .comm import CoMMLoss
from .functional import unit_vectors
from .info_nce import Directions


class InfMaskingLoss(CoMMLoss):
    r"""InfMasking loss, which adds a contrast with masked joint embeddings to CoMM.

    Wen, Dai et al., *InfMasking: Unleashing Synergistic Information by Contrastive
    Multimodal Interactions*, NeurIPS 2025, https://arxiv.org/abs/2509.25270.

    In addition to the terms :math:`\mathcal{L}_n` of :class:`CoMMLoss`, each view
    contrasts its joint embedding with embeddings of the same tokens under K random masks.
    Let :math:`q_i` and :math:`u_{ik}` be their unit vectors, and
    :math:`s_{ijk} = q_i \cdot u_{jk} / \tau` their similarities. Jensen's inequality bounds
    InfoNCE averaged over infinitely many masks. For normally distributed masked
    embeddings, the bound needs only the mean :math:`\mu_i` and the variance
    :math:`\sigma_i^2` of :math:`s_{iik}` over the masks:

    .. math:: \mathcal{L}_{mask} = \mathrm{E}_i \Bigl[ - \mu_i + \log \Bigl(
              e^{\mu_i + \lambda t \sigma_i^2 / 2}
              + \sum_{j \ne i} \sum_k e^{s_{ijk}}
              + \sum_{j \ne i} e^{q_i \cdot q_j / \tau} \Bigr) \Bigr],

    where :math:`t` grows from 0 to 1 during the fit. The loss is the mean over
    :math:`\mathcal{L}_{mask}` of both views and all :math:`\mathcal{L}_n`.

    Args:
        temperature: temperature :math:`\tau`.
        mask_lambda: weight :math:`\lambda` of the variance at the end of the fit.

    Attributes:
        progress: progress :math:`t` of the fit, a scalar in [0, 1]. It is 1 unless the
            task sets it.

    Raises:
        ValueError: if ``temperature`` is not positive or ``mask_lambda`` is negative.

    Shape:
        - Input: one tensor (2, N, D) for ``joint`` and one per modality, and a tensor
          (2, N, K, D) for ``masked``. N >= 2 counts the samples across all devices.
        - Output: scalars ``loss``, ``masked`` (the mean over both views) and
          ``contrast_<name>`` for ``joint`` and each modality.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> z = {m: torch.randn(2, 8, 16) for m in ('s1', 's2', 'joint')}
        >>> sorted(InfMaskingLoss()({**z, 'masked': torch.randn(2, 8, 6, 16)}))
        ['contrast_joint', 'contrast_s1', 'contrast_s2', 'loss', 'masked']
    """

    progress: Tensor
    takes_available = False

    def __init__(self, temperature: float = 0.1, mask_lambda: float = 1.0) -> None:
        """Initialize a new InfMaskingLoss instance."""
        super().__init__(temperature)
        if not mask_lambda >= 0:
            raise ValueError(f'mask_lambda must be >= 0, got {mask_lambda}')
        self.mask_lambda = mask_lambda
        # A tensor, because a changed Python number would recompile the loss.
        self.register_buffer('progress', torch.ones(()), persistent=False)

    def terms(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and its terms from checked embeddings."""
        named = {n: x for n, x in z.items() if n != 'masked'}
        joint = self.directions(z['joint'])
        parts = self.contrasts(named, joint)
        weight = self.mask_lambda * self.progress
        masked = [
            contrast_masked(of_view, x, weight)
            for of_view, x in zip(joint, z['masked'], strict=True)
        ]
        loss = mean([*masked, *parts.values()])
        return {'loss': loss, 'masked': mean(masked), **parts}

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Check the names and shapes of the embeddings, including ``joint`` and ``masked``.

        Raises:
            ValueError: if ``joint`` or ``masked`` is absent, if there are not exactly two
                views, if there are too few samples, or if shapes differ.
        """
        if 'masked' not in z:
            raise ValueError(
                f"z must have 'masked', got {list(z)}; add masked embeddings"
            )
        super().check({n: x for n, x in z.items() if n != 'masked'})
        views, samples, dimensions = z['joint'].shape
        found = tuple(z['masked'].shape)
        if (
            len(found) != 4
            or found[2] < 1
            or found[:2] + found[3:] != (views, samples, dimensions)
        ):
            raise ValueError(
                f"z['masked'] must have shape (V, N, K, D) = ({views}, {samples}, K, "
                f'{dimensions}) with K masks, got {found}'
            )


def contrast_masked(
    joint: Directions, masked: Tensor, weight: Tensor | float
) -> Tensor:
    """Compute the term of one view for masked embeddings; see :class:`InfMaskingLoss`.

    The term needs the covariance of the masked embeddings only along the joint embedding.
    This covariance is the variance of the similarities, so no D x D matrix is needed.

    Args:
        joint: directions of N joint embeddings.
        masked: embeddings of the same samples under K masks, shape (N, K, D).
        weight: weight of the variance.

    Returns:
        A scalar.
    """
    number, masks, _ = masked.shape
    each_mask = masked.flatten(0, 1).to(joint.u.dtype)
    u = unit_vectors(each_mask, 1 / math.sqrt(joint.temperature))
    similarity = (joint.u @ u.T).unflatten(1, (number, masks))
    own = similarity.diagonal()
    mu, variance = own.mean(dim=0), own.var(dim=0, correction=0)
    itself = torch.eye(number, dtype=torch.bool, device=masked.device)
    others = similarity.masked_fill(itself[..., None], -torch.inf).logsumexp(dim=(1, 2))
    negatives = torch.logaddexp(others, joint.among)
    each: Tensor = torch.logaddexp(mu + weight * variance / 2, negatives) - mu
    return each.mean().to(joint.dtype)
