"""InfoNCE and the SimCLR and CLIP losses between modalities."""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from .base import PairwiseLoss
from .functional import Subset, unit_vectors

_SMALLEST = 0.01
# Similarity to a sample outside the subset of a term. Unlike -inf, it gives a gradient of 0
# instead of NaN if the subset is empty.
_NONE = -1e30
# Logarithm of the largest exponential. Others may be e^-140 times as large in float32.
_LARGEST = 40.0
# Lower temperatures need the range of float64.
_COLD = 0.015


class Directions:
    r"""Normalized embeddings of one view, with cached similarities between samples.

    Args:
        z: embeddings, shape (N, D).
        temperature: temperature :math:`\tau` of the similarities.
        subset: samples to use; all by default.

    Example:
        >>> Directions(torch.eye(2), temperature=1.0).among.round(decimals=3)
        tensor([0., 0.])
    """

    def __init__(
        self, z: Tensor, temperature: float, subset: Subset | None = None
    ) -> None:
        """Initialize a new Directions instance."""
        z = z if subset is None else subset.rows(z)
        self.dtype = z.dtype
        if temperature < _COLD and z.device.type != 'mps':
            z = z.double()
        # A similarity is the product of two vectors, so each is scaled by sqrt(1 / tau).
        self.u = unit_vectors(z, 1 / math.sqrt(temperature))
        self.temperature = temperature
        self.subset = subset
        self._among: Tensor | None = None

    @property
    def among(self) -> Tensor:
        r"""Log-sum-exp :math:`\log \sum_{j \ne i} e^{s_{ij}}` of similarities, shape (N,)."""
        if self._among is None:
            self._among = log_sums_among(self.u, self.subset)
        return self._among

    def cosines(self, other: 'Directions') -> Tensor:
        """Compute the cosine similarity between two views of each sample.

        Args:
            other: normalized embeddings of another view of the same samples.

        Returns:
            Cosines, shape (N,). They are 0 for samples outside a subset.
        """
        found = self.temperature * (self.u * other.u).sum(dim=1)
        return found.to(self.dtype)


def contrast(a: Directions, b: Directions) -> Tensor:
    """Compute InfoNCE of two views, with negatives from both; see :func:`info_nce`.

    Args:
        a: normalized embeddings of one view.
        b: normalized embeddings of another view of the same samples.

    Returns:
        A scalar.
    """
    of_a, of_b, own = log_sums_between(a.u, b.u, a.subset)
    of_a, of_b = torch.logaddexp(of_a, a.among), torch.logaddexp(of_b, b.among)
    each = ((of_a + of_b) / 2 - own).to(a.dtype)
    return each.mean() if a.subset is None else a.subset.term(a.subset.mean(each))


def log_sums_among(u: Tensor, subset: Subset | None = None) -> Tensor:
    r"""Compute :math:`\log \sum_{j \ne i} e^{u_i \cdot u_j}` for each sample.

    Args:
        u: embeddings, shape (N, D).
        subset: samples to use; all by default.

    Returns:
        Logarithms, shape (N,). For a sample without other samples, the logarithm is a
        large negative number.

    Example:
        >>> log_sums_among(torch.eye(3)).round(decimals=3)  # log 2
        tensor([0.6930, 0.6930, 0.6930])
    """
    mask = None if subset is None else subset.mask
    result, *_ = _SumsAmong.apply(u, mask)
    return cast(Tensor, result)


def log_sums_between(
    a: Tensor, b: Tensor, subset: Subset | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Compute the log-sum-exp of :math:`s_{ij} = a_i \cdot b_j` in both directions.

    Both directions and the backward pass use the same exponentials.

    Args:
        a: embeddings, shape (N, D).
        b: other embeddings of the same samples, shape (N, D).
        subset: samples to use; all by default.

    Returns:
        :math:`\log \sum_j e^{s_{ij}}`, :math:`\log \sum_j e^{s_{ji}}` and
        :math:`s_{ii}`, shape (N,) each.

    Example:
        >>> rows, columns, own = log_sums_between(torch.eye(2), torch.zeros(2, 2))
        >>> rows.round(decimals=3), own  # log 2
        (tensor([0.6930, 0.6930]), tensor([0., 0.]))
    """
    mask = None if subset is None else subset.mask
    rows, columns, own, *_ = _SumsBetween.apply(a, b, mask)
    return rows, columns, own


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
        scaled = self.log_scale.exp() * unit_vectors(a)
        of_a, of_b, own = log_sums_between(scaled, unit_vectors(b), subset)
        each = (of_a + of_b) / 2 - own
        return each.mean() if subset is None else subset.mean(each)


class _SumsAmong(torch.autograd.Function):
    """Log-sum-exp within a view, which saves its exponentials for the backward pass.

    The exponentials and their sums are also outputs, as torch.func requires.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        similarity = u @ u.T
        shift = similarity.amax() - _LARGEST
        exponentials = (
            similarity.sub_(shift).exp_().masked_fill_(_unused(u, mask, True), 0)
        )
        sums = exponentials.sum(dim=1).clamp(min=torch.finfo(u.dtype).tiny)
        return sums.log() + shift, exponentials, sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        u, mask, exponentials, sums = ctx.saved_tensors
        g = gradients[0]
        if torch.is_grad_enabled():
            similarity = (u @ u.T).masked_fill(_unused(u, mask, True), _NONE)
            weights = similarity.softmax(dim=1) * g[:, None]
            return (weights + weights.T) @ u, None
        g = g / sums
        # The exponentials are symmetric.
        return exponentials.mul(g[:, None] + g) @ u, None


class _SumsBetween(torch.autograd.Function):
    """Log-sum-exp over rows and over columns, which share their exponentials."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        similarity = a @ b.T
        own = similarity.diagonal().clone()
        shift = similarity.amax() - _LARGEST
        exponentials = similarity.sub_(shift).exp_()
        if mask is not None:
            exponentials = exponentials.masked_fill_(_unused(a, mask, False), 0)
        tiny = torch.finfo(a.dtype).tiny
        rows, columns = (exponentials.sum(dim=d).clamp(min=tiny) for d in (1, 0))
        return (
            rows.log() + shift,
            columns.log() + shift,
            own,
            exponentials,
            rows,
            columns,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs, *output[3:])
        ctx.mark_non_differentiable(*output[3:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b, mask, exponentials, rows, columns = ctx.saved_tensors
        of_a, of_b, of_own = gradients[:3]
        if torch.is_grad_enabled():
            similarity = a @ b.T
            if mask is not None:
                similarity = similarity.masked_fill(_unused(a, mask, False), _NONE)
            weights = similarity.softmax(dim=1) * of_a[:, None]
            weights = weights + similarity.softmax(dim=0) * of_b + of_own.diag()
        else:
            weights = (of_a / rows)[:, None] + of_b / columns
            weights = weights.mul_(exponentials)
            weights.diagonal().add_(of_own)
        return weights @ b, weights.T @ a, None


def _unused(u: Tensor, mask: Tensor | None, itself: bool) -> Tensor:
    """Return a mask of the pairs of samples that the log-sum-exp excludes."""
    unused = (
        torch.eye(len(u), dtype=torch.bool, device=u.device)
        if itself
        else torch.zeros((), dtype=torch.bool, device=u.device)
    )
    return unused if mask is None else unused | ~(mask[:, None] & mask)
