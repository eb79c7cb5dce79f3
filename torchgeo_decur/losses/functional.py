"""The mathematics that losses and analyses share: pure functions of embeddings.

Notation: N samples (the batch of all devices), D dimensions.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def standardize(z: Tensor, eps: float = 1e-5) -> Tensor:
    r"""Give every embedding dimension mean 0 and variance 1 over the batch.

    .. math:: \hat z_{bi} = \frac{z_{bi} - \mathrm{E}_b[z_{bi}]}
                                 {\sqrt{\mathrm{Var}_b[z_{bi}] + \epsilon}}

    with the population variance: a BatchNorm without affine parameters.

    Args:
        z: embeddings, shape (..., N, D).
        eps: added to the variance.

    Returns:
        Standardised embeddings, same shape.

    Example:
        >>> standardize(torch.tensor([[1.0], [3.0]])).flatten()
        tensor([-1.0000,  1.0000])
    """
    result, _ = _Standardize.apply(z, eps)
    return cast(Tensor, result)


def gram(a: Tensor) -> Tensor:
    r"""Inner products of all pairs of samples, :math:`A A^\top`.

    Its gradient takes one product of matrices; autograd's own, which does not know that
    both factors are one, takes two.

    Args:
        a: embeddings, shape (N, D).

    Returns:
        The Gram matrix, shape (N, N).

    Example:
        >>> gram(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        tensor([[5., 2.],
                [2., 1.]])
    """
    return cast(Tensor, _Gram.apply(a))


def cross_correlation_terms(
    a: Tensor, b: Tensor, grams: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    r"""Diagonal and off-diagonal energy of a cross-correlation matrix.

    For standardised :math:`A, B` and :math:`C = A^\top B / N` these are
    :math:`C_{ii}` and :math:`\sum_{i \ne j} C_{ij}^2`. With Gram matrices no
    :math:`D \times D` matrix is made:

    .. math:: \sum_{ij} C_{ij}^2 = \frac{1}{N^2} \sum_{kl} (A A^\top)_{kl} (B B^\top)_{kl}.

    Args:
        a: standardised embeddings, shape (N, D).
        b: standardised embeddings, shape (N, D).
        grams: Gram matrices of both, shape (N, N), where the caller has them. By default
            they are computed where that takes fewer multiplications.

    Returns:
        The diagonal, shape (D,), and the sum of the squares off it, a scalar.

    Example:
        >>> z = standardize(torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 1.0], [3.0, 3.0]]))
        >>> diagonal, off = cross_correlation_terms(z, z)
        >>> [round(c, 3) for c in diagonal.tolist()], round(off.item(), 3)
        ([1.0, 1.0], 0.0)
    """
    n, d = a.shape
    if grams is None and cheaper_by_gram(2 * n * n * d, n * d * d):
        grams = gram(a), gram(b)
    if grams is None:
        matrix = a.T @ b
        diagonal, total = matrix.diagonal() / n, matrix.square().sum()
    else:
        diagonal, total = (a * b).sum(dim=0) / n, (grams[0] * grams[1]).sum()
    return diagonal, total / n**2 - diagonal.square().sum()


def cheaper_by_gram(grams: int, correlations: int) -> bool:
    """Whether Gram matrices take fewer multiplications than correlation matrices.

    A step takes each number twice for Gram matrices, forward and backward, and three
    times for correlation matrices, which have two factors with a gradient.

    Args:
        grams: multiplications that Gram matrices take forward: :math:`N^2 D` each.
        correlations: those of correlation matrices: :math:`N D^2` each.

    Returns:
        Whether they do.

    Example:
        >>> n, d = 256, 8192
        >>> cheaper_by_gram(2 * n * n * d, n * d * d)
        True
    """
    return 2 * grams < 3 * correlations


def info_nce(a: Tensor, b: Tensor, temperature: float = 0.1) -> Tensor:
    r"""InfoNCE of two embeddings of the same samples, with negatives in both.

    For the unit vectors :math:`u_1 \dots u_{2N}` of the rows of :math:`A` and then
    :math:`B`, and :math:`p(i)` the other embedding of the sample of :math:`u_i`,

    .. math:: \frac{1}{2N} \sum_i - \log
              \frac{\exp(u_i \cdot u_{p(i)} / \tau)}{\sum_{j \ne i} \exp(u_i \cdot u_j / \tau)}.

    It is the loss of SimCLR: Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709.

    Args:
        a: embeddings, shape (N, D).
        b: other embeddings of the same samples, shape (N, D).
        temperature: :math:`\tau`.

    Returns:
        A scalar.

    Example:
        >>> z = torch.eye(2)
        >>> round(info_nce(z, z, temperature=1.0).item(), 4)  # log(1 + 2 / e)
        0.5514
    """
    u = normalize(torch.cat([a, b]), dim=1)
    logits = u @ u.T / temperature
    itself = torch.eye(len(u), dtype=torch.bool, device=u.device)
    other = torch.arange(len(u), device=u.device).roll(len(a))
    return cross_entropy(logits.masked_fill(itself, -torch.inf), other)


def feature_std(h: Tensor) -> Tensor:
    r"""Spread of the directions of features: 1 when even, 0 when all are one.

    The standard deviation over the batch of each coordinate of the unit vectors
    :math:`h / \|h\|`, averaged and multiplied by :math:`\sqrt D`.

    Args:
        h: features, shape (N, D).

    Returns:
        A scalar.

    Example:
        >>> feature_std(torch.ones(8, 4)).item()
        0.0
    """
    spread: Tensor = normalize(h.float(), dim=1).std(dim=0, correction=0).mean()
    return spread * math.sqrt(h.shape[1])


def effective_rank(z: Tensor, eps: float = 1e-7) -> Tensor:
    r"""RankMe: a smooth count of the dimensions that embeddings use.

    Garrido et al., *RankMe*, ICML 2023, https://arxiv.org/abs/2210.02885: the
    exponential of the entropy of the normalised singular values
    :math:`p_k = \sigma_k / \sum_j \sigma_j + \epsilon`.

    Args:
        z: embeddings, shape (N, D).
        eps: added to each share.

    Returns:
        A scalar in [1, min(N, D)] on the device of the embeddings, float64, or float32
        on a device of Apple, which lacks it; 1 where all embeddings are 0, and NaN
        where one is not finite.

    Example:
        >>> round(effective_rank(torch.eye(6)).item(), 2)
        6.0
    """
    n, d = z.shape
    device = z.device
    lacks_float64 = device.type == 'mps'
    z = (z.cpu() if lacks_float64 else z).double()
    # The smaller Gram matrix has the squares of the singular values as eigenvalues.
    gram = z @ z.T if n < d else z.T @ z
    finite = gram.isfinite().all()
    # Of other matrices there are no eigenvalues, and some devices raise.
    gram = gram.where(finite, 0)
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = sigma / sigma.sum().clamp(min=torch.finfo(sigma.dtype).tiny) + eps
    entropy: Tensor = -(p * p.log()).sum()
    rank = entropy.exp().where(finite, torch.nan)
    return rank.float().to(device) if lacks_float64 else rank


class _Standardize(torch.autograd.Function):
    """Keeps the result alone, where autograd keeps each step of the formula.

    Not torch.batch_norm, which loses digits where the mean is large. The scale is a
    result too, so that the gradient has a gradient. Without jvp, which would break the
    graph of torch.compile: forward mode is not available.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        centred = z - z.mean(dim=-2, keepdim=True)
        scale = (centred.square().mean(dim=-2, keepdim=True) + eps).rsqrt()
        return centred.mul_(scale), scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        (result, scale), (to_result, to_scale) = ctx.saved_tensors, gradients
        found = None if to_result is None else _project(to_result, result, scale)
        if to_scale is not None:
            n = result.shape[-2]
            by_scale = -to_scale * scale.square() * result / n
            found = by_scale if found is None else found + by_scale
        return found, None


def _project(x: Tensor, result: Tensor, scale: Tensor) -> Tensor:
    """Take the part of a change of embeddings that standardising lets through."""
    along = (x * result).mean(dim=-2, keepdim=True)
    centred = x - x.mean(dim=-2, keepdim=True)
    if torch.is_grad_enabled():
        return (centred - result * along) * scale
    return centred.addcmul_(result, along, value=-1).mul_(scale)


class _Gram(torch.autograd.Function):
    """Knows that both factors are one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor) -> Tensor:
        return a @ a.T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (a,), (gradient,) = ctx.saved_tensors, gradients
        product: Tensor = (gradient + gradient.T) @ a
        return product
