"""InfoNCE, and the SimCLR and CLIP losses between modalities."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from .base import PairwiseLoss
from .functional import Subset, gram

_SMALLEST = 0.01
# Similarity to a sample outside the subset of a term. Unlike -inf, it gives a gradient of 0
# instead of NaN if the subset is empty.
_NONE = -1e30


class Directions:
    r"""Normalized embeddings of one view, with cached mutual similarities.

    Args:
        z: embeddings, shape (N, D).
        temperature: temperature :math:`\tau` of the similarities.
        subset: samples to use; all by default.

    Example:
        >>> Directions(torch.eye(2), temperature=1.0).among
        tensor([0., 0.])
    """

    def __init__(
        self, z: Tensor, temperature: float, subset: Subset | None = None
    ) -> None:
        """Initialize a new Directions instance."""
        z = z if subset is None else subset.rows(z)
        # A similarity is the product of two vectors, so each is scaled by sqrt(1 / tau).
        self.u = normalize(z, dim=1) / math.sqrt(temperature)
        self.subset = subset
        self._among: Tensor | None = None

    @property
    def among(self) -> Tensor:
        r"""Log-sum-exp :math:`\log \sum_{j \ne i} e^{s_{ij}}` of similarities, shape (N,)."""
        if self._among is None:
            itself = torch.eye(len(self.u), dtype=torch.bool, device=self.u.device)
            similarity = used(gram(self.u), self.subset)
            similarity = similarity.masked_fill(itself, -torch.inf)
            self._among = similarity.logsumexp(dim=1)
        return self._among


def contrast(a: Directions, b: Directions) -> Tensor:
    """Compute InfoNCE of two views, with negatives from both; see :func:`info_nce`.

    Args:
        a: normalized embeddings of one view.
        b: normalized embeddings of another view of the same samples.

    Returns:
        A scalar.
    """
    similarity = used(a.u @ b.u.T, a.subset)
    of_a = torch.logaddexp(similarity.logsumexp(dim=1), a.among)
    of_b = torch.logaddexp(similarity.logsumexp(dim=0), b.among)
    each = (of_a + of_b) / 2 - similarity.diagonal()
    return each.mean() if a.subset is None else a.subset.term(a.subset.mean(each))


def used(similarity: Tensor, subset: Subset | None) -> Tensor:
    """Mask the similarities of samples outside a subset.

    Args:
        similarity: similarities of all pairs of samples, shape (N, N).
        subset: samples to use; None for all.

    Returns:
        Similarities, with a large negative number for pairs outside the subset.
    """
    if subset is None:
        return similarity
    both = subset.mask[:, None] & subset.mask[None]
    return similarity.masked_fill(~both, _NONE)


def info_nce(a: Tensor, b: Tensor, temperature: float = 0.1) -> Tensor:
    r"""Compute InfoNCE of two embeddings of the same samples, with negatives from both.

    Let :math:`u_1 \dots u_{2N}` be the normalized rows of :math:`A`, followed by the
    normalized rows of :math:`B`. Row :math:`p(i)` is the other embedding of the same sample
    as row :math:`i`. The loss is

    .. math:: \frac{1}{2N} \sum_i - \log
              \frac{\exp(u_i \cdot u_{p(i)} / \tau)}{\sum_{j \ne i} \exp(u_i \cdot u_j / \tau)}.

    This is the SimCLR loss: Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709.
    lightly's ``NTXentLoss`` gives the same value, but synchronizes with the device.

    Args:
        a: embeddings, shape (N, D).
        b: other embeddings of the same samples, shape (N, D).
        temperature: temperature :math:`\tau` of the similarities.

    Returns:
        A scalar.

    Example:
        >>> z = torch.eye(2)
        >>> round(info_nce(z, z, temperature=1.0).item(), 4)  # log(1 + 2 / e)
        0.5514
    """
    return contrast(Directions(a, temperature), Directions(b, temperature))


class SimCLRLoss(PairwiseLoss[Directions]):
    r"""SimCLR loss between two modalities, with negatives from both modalities.

    Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*,
    ICML 2020, https://arxiv.org/abs/2002.05709.

    The loss between two modalities is NT-Xent; see :func:`info_nce`. It is averaged over
    all pairs of modalities and all views; see :class:`CrossModalLoss`.

    Args:
        temperature: temperature of InfoNCE.

    Raises:
        ValueError: if the temperature is not positive.

    Shape:
        - Input: one tensor (V, N, D) per modality, with V views, N >= 2 samples across all
          devices and D dimensions. A single modality needs V >= 2.
        - Output: scalars ``loss`` and ``cross_<m>_<n>`` for each pair of modalities, or
          ``intra_<m>`` for a single modality.

    Example:
        >>> z = {'s1': torch.eye(2)[None], 's2': torch.eye(2)[None]}
        >>> round(SimCLRLoss(temperature=1.0)(z)['loss'].item(), 4)  # log(1 + 2 / e)
        0.5514
    """

    min_samples = 2

    def __init__(self, temperature: float = 0.1) -> None:
        """Initialize a new SimCLRLoss instance."""
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'temperature must be positive, got {temperature}')
        self.temperature = temperature

    def prepare(
        self, z: Mapping[str, Tensor], pairs: int, subset: Subset | None = None
    ) -> Mapping[str, list[Directions]]:
        """Normalize the embeddings of each view."""
        options = (self.temperature, subset)
        return {m: [Directions(x, *options) for x in v] for m, v in z.items()}

    def compare(self, a: Directions, b: Directions) -> Tensor:
        """Compute the loss between two views."""
        return contrast(a, b)


type _Part = tuple[Tensor, Subset | None]


class CLIPLoss(PairwiseLoss[_Part]):
    r"""CLIP loss between two modalities, with negatives only from the other modality.

    Radford et al., *Learning Transferable Visual Models From Natural Language
    Supervision*, ICML 2021, https://arxiv.org/abs/2103.00020.

    Let :math:`a_i` and :math:`b_j` be the normalized embeddings of two modalities, and
    :math:`s_{ij} = a_i \cdot b_j / \tau` their similarities. The loss is the mean of the
    cross-entropies in both directions:

    .. math:: \frac{1}{2N} \sum_i \Bigl( - \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
              - \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}} \Bigr).

    The temperature :math:`\tau` is learned, with a minimum of 0.01. The loss is averaged
    over all pairs of modalities and all views; see :class:`CrossModalLoss`.

    Args:
        temperature: initial temperature.

    Raises:
        ValueError: if the temperature is below 0.01.

    Example:
        >>> z = {'s1': torch.eye(2)[None], 's2': torch.eye(2)[None]}
        >>> round(CLIPLoss(temperature=1.0)(z)['loss'].item(), 4)  # log(1 + 1 / e)
        0.3133
    """

    minimum = 2
    min_samples = 2

    def __init__(self, temperature: float = 0.07) -> None:
        """Initialize a new CLIPLoss instance."""
        if not temperature >= _SMALLEST:
            raise ValueError(
                f'temperature must be at least {_SMALLEST}, got {temperature}'
            )
        super().__init__()
        self.pair = _Contrast(temperature)

    @property
    def temperature(self) -> Tensor:
        """Current temperature, a scalar."""
        return (-self.pair.log_scale).exp().clamp(min=_SMALLEST)

    def prepare(
        self, z: Mapping[str, Tensor], pairs: int, subset: Subset | None = None
    ) -> Mapping[str, list[_Part]]:
        """Pair the embeddings of each view, shape (N, D), with the samples to use."""
        return {m: [(x, subset) for x in v] for m, v in z.items()}

    def compare(self, a: _Part, b: _Part) -> Tensor:
        """Compute the loss between two views."""
        loss: Tensor = self.pair(a[0], b[0], a[1])
        return loss


class _Contrast(nn.Module):
    """CLIP loss of two embeddings, with a learned temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, a: Tensor, b: Tensor, subset: Subset | None) -> Tensor:
        # Clamp the parameter itself, because a clamped result has no gradient.
        with torch.no_grad():
            self.log_scale.clamp_(max=-math.log(_SMALLEST))
        if subset is not None:
            a, b = subset.rows(a), subset.rows(b)
        logits = self.log_scale.exp() * normalize(a, dim=1) @ normalize(b, dim=1).T
        logits = used(logits, subset)
        own = torch.arange(len(a), device=a.device)
        if subset is None:
            return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
        of_a, of_b = (
            cross_entropy(x, own, reduction='none') for x in (logits, logits.T)
        )
        return subset.mean((of_a + of_b) / 2)
