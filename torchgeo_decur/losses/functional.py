"""Functions of embeddings, shared by losses and analyses.

Notation: N samples across all devices, D dimensions.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

# As in torch.nn.functional.normalize.
_SMALLEST_NORM = 1e-12


class Subset:
    r"""Samples that have all modalities of a term, and statistics over these samples.

    The standardized rows of all other samples are 0, so they do not contribute to sums
    over samples. Shapes do not depend on the mask, which avoids device synchronization.

    A term with too few samples is 0, and so is its gradient.

    Args:
        mask: boolean mask of the samples in the subset, shape (N,).
        minimum: number of samples that a term needs, at most N.

    Example:
        >>> some = Subset(torch.tensor([True, False, True]), minimum=2)
        >>> some.rows(torch.ones(3, 1)).flatten(), some.mean(torch.tensor([1.0, 9.0, 2.0]))
        (tensor([1., 0., 1.]), tensor(1.5000))
    """

    def __init__(self, mask: Tensor, minimum: int) -> None:
        """Initialize a new Subset instance."""
        self.mask = mask
        size = mask.sum()
        self.enough = size >= min(minimum, len(mask))
        #: Number of samples, clamped to at least 1 to avoid division by zero.
        self.count = size.clamp(min=1)

    def rows(self, x: Tensor) -> Tensor:
        """Set the rows of samples outside the subset to 0.

        Args:
            x: one row per sample, shape (N, D).

        Returns:
            The masked rows, same shape.
        """
        return x.masked_fill(~self.mask[:, None], 0)

    def mean(self, x: Tensor) -> Tensor:
        """Compute the mean over the samples in the subset.

        Args:
            x: one value per sample, shape (N,).

        Returns:
            A scalar.
        """
        return x.masked_fill(~self.mask, 0).sum() / self.count

    def term(self, value: Tensor) -> Tensor:
        """Replace a term with 0 if the subset has too few samples.

        Args:
            value: the term, a scalar.

        Returns:
            The term, or 0.
        """
        return value.where(self.enough, 0)


def standardize(z: Tensor, eps: float = 1e-5, subset: Subset | None = None) -> Tensor:
    r"""Standardize every embedding dimension to mean 0 and variance 1 over the batch.

    .. math:: \hat z_{bi} = \frac{z_{bi} - \mathrm{E}_b[z_{bi}]}
                                 {\sqrt{\mathrm{Var}_b[z_{bi}] + \epsilon}}

    The variance is the population variance, as in a BatchNorm without affine parameters.

    Args:
        z: embeddings, shape (..., N, D).
        eps: constant added to the variance.
        subset: samples to standardize. The rows of all other samples become 0. By default,
            all samples are standardized.

    Returns:
        Standardized embeddings, same shape.

    Example:
        >>> standardize(torch.tensor([[1.0], [3.0]])).flatten()
        tensor([-1.0000,  1.0000])
    """
    if subset is None:
        result, _ = _Standardize.apply(z, eps)
    else:
        result, _ = _StandardizeSubset.apply(z, subset.mask, subset.count, eps)
    return cast(Tensor, result)


def unit_vectors(z: Tensor, length: float = 1.0) -> Tensor:
    r"""Scale all embeddings to the same length.

    Args:
        z: embeddings, shape (N, D).
        length: length of the scaled embeddings. Embeddings of length 0 stay 0.

    Returns:
        Embeddings, same shape.

    Example:
        >>> unit_vectors(torch.tensor([[3.0, 4.0]])).round(decimals=3)
        tensor([[0.6000, 0.8000]])
    """
    result, _ = _UnitVectors.apply(z, length)
    return cast(Tensor, result)


def gram(a: Tensor) -> Tensor:
    r"""Compute the Gram matrix :math:`A A^\top`, the inner products of all sample pairs.

    The backward pass needs one matrix product, while autograd would use two.

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
    a: Tensor,
    b: Tensor,
    grams: tuple[Tensor, Tensor] | None = None,
    count: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Compute the diagonal and off-diagonal energy of a cross-correlation matrix.

    For standardized :math:`A, B` and :math:`C = A^\top B / N`, these are
    :math:`C_{ii}` and :math:`\sum_{i \ne j} C_{ij}^2`. Gram matrices avoid computing the
    :math:`D \times D` matrix:

    .. math:: \sum_{ij} C_{ij}^2 = \frac{1}{N^2} \sum_{kl} (A A^\top)_{kl} (B B^\top)_{kl}.

    Args:
        a: standardized embeddings, shape (N, D).
        b: standardized embeddings, shape (N, D).
        grams: Gram matrices of ``a`` and ``b``, shape (N, N). By default, they are
            computed if they need fewer multiplications than :math:`C`.
        count: number of samples in the subset, a scalar, if all other rows are 0. By
            default, all N samples are used.

    Returns:
        The diagonal, shape (D,), and the sum of the squared off-diagonal elements, a
        scalar.

    Example:
        >>> z = standardize(torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 1.0], [3.0, 3.0]]))
        >>> diagonal, off = cross_correlation_terms(z, z)
        >>> [round(c, 3) for c in diagonal.tolist()], round(off.item(), 3)
        ([1.0, 1.0], 0.0)
    """
    n, d = a.shape
    if grams is None and cheaper_by_gram(2 * n * n * d, n * d * d):
        grams = gram(a), gram(b)
    samples = n if count is None else count
    if grams is None:
        matrix = a.T @ b
        diagonal, total = matrix.diagonal() / samples, matrix.square().sum()
    else:
        diagonal, total = (a * b).sum(dim=0) / samples, (grams[0] * grams[1]).sum()
    return diagonal, total / samples**2 - diagonal.square().sum()


def cheaper_by_gram(grams: int, correlations: int) -> bool:
    """Check whether Gram matrices need fewer multiplications than correlation matrices.

    With its backward pass, a Gram matrix costs twice its forward pass. A correlation
    matrix costs three times its forward pass, because both factors need a gradient.

    Args:
        grams: number of multiplications for all Gram matrices in the forward pass,
            :math:`N^2 D` each.
        correlations: number of multiplications for all correlation matrices in the forward
            pass, :math:`N D^2` each.

    Returns:
        True if Gram matrices are cheaper.

    Example:
        >>> n, d = 256, 8192
        >>> cheaper_by_gram(2 * n * n * d, n * d * d)
        True
    """
    return 2 * grams < 3 * correlations


class Embedding:
    """Embeddings of one view, with a cached standardized form and Gram matrix.

    Both are computed at first use. The backward pass therefore finishes one view before it
    starts the next, which saves memory.

    Args:
        x: embeddings, shape (N, D).
        by_gram: whether to compute correlations from Gram matrices.
        subset: samples to use; all by default.

    Example:
        >>> a = Embedding(torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 2.0]]))
        >>> a.z.shape, a.gram.shape
        (torch.Size([3, 2]), torch.Size([3, 3]))
    """

    def __init__(
        self, x: Tensor, by_gram: bool = True, subset: Subset | None = None
    ) -> None:
        """Initialize a new Embedding instance."""
        self.x = x
        self.by_gram = by_gram
        self.subset = subset
        # torch.compile in torch 2.6 cannot trace functools.cached_property.
        self._z: Tensor | None = None
        self._gram: Tensor | None = None
        self._blocks: tuple[Embedding, Embedding] | None = None

    @property
    def z(self) -> Tensor:
        """Standardized embeddings, shape (N, D)."""
        if self._z is None:
            self._z = standardize(self.x, subset=self.subset)
        return self._z

    @property
    def gram(self) -> Tensor:
        """Gram matrix, shape (N, N), summed over both blocks after ``split``."""
        if self._gram is None:
            if self._blocks is None:
                self._gram = gram(self.z)
            else:
                first, second = self._blocks
                self._gram = first.gram + second.gram
        return self._gram

    def among(self, subset: Subset | None) -> 'Embedding':
        """Restrict the statistics of the embeddings to a subset of samples.

        Args:
            subset: samples to use, or None to keep the current samples.

        Returns:
            A new :class:`Embedding`, or this one if ``subset`` is None.
        """
        return self if subset is None else Embedding(self.x, self.by_gram, subset)

    def split(self, size: int) -> tuple['Embedding', 'Embedding']:
        """Split the dimensions into two blocks.

        Later calls return the same blocks.

        Args:
            size: number of dimensions in the first block.

        Returns:
            Both blocks.
        """
        if self._blocks is None:
            sizes = (size, self.x.shape[1] - size)
            first, second = (
                Embedding(x, self.by_gram, self.subset)
                for x in self.x.split(sizes, dim=1)
            )
            first._z, second._z = self.z.split(sizes, dim=1)
            self._blocks = first, second
        return self._blocks

    def correlate(self, other: 'Embedding') -> tuple[Tensor, Tensor]:
        """Compute the diagonal and off-diagonal energy of a cross-correlation matrix.

        Args:
            other: another view of the same samples.

        Returns:
            The diagonal, shape (D,), and the sum of the squared off-diagonal elements, a
            scalar.
        """
        grams = (self.gram, other.gram) if self.by_gram else None
        count = None if self.subset is None else self.subset.count
        return cross_correlation_terms(self.z, other.z, grams, count)


def embed(
    z: Mapping[str, Tensor],
    entries: int,
    subsets: Mapping[str, Subset | None] | None = None,
) -> dict[str, list[Embedding]]:
    """Wrap the views of all modalities and choose the cheaper way to correlate them.

    Args:
        z: embeddings by modality, each of shape (V, N, D).
        entries: total number of entries of all correlation matrices in the loss.
        subsets: samples to use for each modality; all by default.

    Returns:
        Wrapped views by modality.
    """
    v, n, d = next(iter(z.values())).shape
    by_gram = cheaper_by_gram(len(z) * v * n * n * d, n * entries)
    some = subsets or {}
    return {m: [Embedding(x, by_gram, some.get(m)) for x in v] for m, v in z.items()}


def redundancy_reduction(
    a: Embedding, b: Embedding, lambda_param: float, target: int = 1
) -> Tensor:
    r"""Compute the Barlow Twins loss between two views, for a target correlation.

    .. math:: \sum_i (t - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2

    Args:
        a: embeddings of one view.
        b: embeddings of another view of the same samples.
        lambda_param: weight :math:`\lambda` of the off-diagonal elements.
        target: target :math:`t` of the diagonal.

    Returns:
        A scalar, which is 0 if the views have too few samples.

    Example:
        >>> a = Embedding(torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 1.0], [3.0, 3.0]]))
        >>> [round(redundancy_reduction(a, a, 0.0051, t).item(), 3) for t in (0, 1)]
        [2.0, 0.0]
    """
    diagonal, off_diagonal = a.correlate(b)
    loss = (target - diagonal).square().sum() + lambda_param * off_diagonal
    return loss if a.subset is None else a.subset.term(loss)


def covariance_terms(z: Tensor, subset: Subset | None = None) -> tuple[Tensor, Tensor]:
    r"""Compute the variances and the off-diagonal energy of a covariance matrix.

    For centered :math:`A` and :math:`\Sigma = A^\top A / (N - 1)`, these are
    :math:`\Sigma_{ii}` and :math:`\sum_{i \ne j} \Sigma_{ij}^2`. :math:`A^\top A` and
    :math:`A A^\top` have the same sum of squares, so only the smaller one is computed.

    Args:
        z: embeddings, shape (N, D).
        subset: samples to use; all by default.

    Returns:
        The variances, shape (D,), and the sum of the squared off-diagonal elements, a
        scalar.

    Example:
        >>> z = torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 1.0], [3.0, 3.0]])
        >>> variance, off_diagonal = covariance_terms(z)
        >>> [round(v, 3) for v in variance.tolist()], bool(off_diagonal.abs() < 1e-6)
        ([1.333, 1.333], True)
    """
    n, d = z.shape
    freedom: int | Tensor = n - 1
    if subset is None:
        centred = z - z.mean(dim=0)
    else:
        freedom = (subset.count - 1).clamp(min=1)
        z = subset.rows(z)
        centred = subset.rows(z - z.sum(dim=0) / subset.count)
    variance = centred.square().sum(dim=0) / freedom
    total = gram(centred if n <= d else centred.T).square().sum() / freedom**2
    return variance, total - variance.square().sum()


def feature_std(h: Tensor) -> Tensor:
    r"""Measure the spread of feature directions, from 0 (all equal) to 1 (uniform).

    The result is the standard deviation over the batch of each coordinate of the unit
    vectors :math:`h / \|h\|`, averaged over coordinates and multiplied by :math:`\sqrt D`.

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
    r"""Compute RankMe, a smooth estimate of the number of dimensions in use.

    Garrido et al., *RankMe*, ICML 2023, https://arxiv.org/abs/2210.02885.

    RankMe is the exponential of the entropy of the normalized singular values
    :math:`p_k = \sigma_k / \sum_j \sigma_j + \epsilon`.

    Args:
        z: embeddings, shape (N, D).
        eps: constant added to each normalized singular value.

    Returns:
        A scalar in [1, min(N, D)]. It is 1 if all embeddings are 0 and NaN if any value
        is not finite. It is float64, or float32 on Apple GPUs, which lack float64.

    Example:
        >>> round(effective_rank(torch.eye(6)).item(), 2)
        6.0
    """
    n, d = z.shape
    device = z.device
    lacks_float64 = device.type == 'mps'
    z = (z.cpu() if lacks_float64 else z).double()
    # The nonzero eigenvalues of both Gram matrices are the squared singular values.
    gram = z @ z.T if n < d else z.T @ z
    finite = gram.isfinite().all()
    # On some devices, eigvalsh raises an error for NaN.
    gram = gram.where(finite, 0)
    sigma = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    p = sigma / sigma.sum().clamp(min=torch.finfo(sigma.dtype).tiny) + eps
    entropy: Tensor = -(p * p.log()).sum()
    rank = entropy.exp().where(finite, torch.nan)
    return rank.float().to(device) if lacks_float64 else rank


class _Standardize(torch.autograd.Function):
    """Standardization that saves only its results for the backward pass.

    Autograd would save every intermediate result.

    torch.batch_norm loses precision if the mean is large. The scale is also an output
    because second derivatives need it. Forward-mode differentiation is not implemented: a
    jvp would cause a graph break in torch.compile.
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


class _StandardizeSubset(torch.autograd.Function):
    """Standardization of a subset of the rows, which sets all other rows to 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        z: Tensor, mask: Tensor, count: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        others = ~mask[:, None]
        z = z.masked_fill(others, 0)
        mean = z.sum(dim=-2, keepdim=True) / count
        centred = z.sub_(mean).masked_fill_(others, 0)
        variance = centred.square().sum(dim=-2, keepdim=True) / count
        scale = (variance + eps).rsqrt()
        return centred.mul_(scale), scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*output, *inputs[1:3])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, None, None, None]:
        (result, scale, mask, count), (to_result, to_scale) = (
            ctx.saved_tensors,
            gradients,
        )
        found = None
        if to_result is not None:
            others = ~mask[:, None]
            x = to_result.masked_fill(others, 0)
            along = (x * result).sum(dim=-2, keepdim=True) / count
            mean = x.sum(dim=-2, keepdim=True) / count
            if torch.is_grad_enabled():
                centred = x - mean - result * along
                found = (centred * scale).masked_fill(others, 0)
            else:
                centred = x.sub_(mean).addcmul_(result, along, value=-1)
                found = centred.mul_(scale).masked_fill_(others, 0)
        if to_scale is not None:
            by_scale = -to_scale * scale.square() * result / count
            found = by_scale if found is None else found + by_scale
        return found, None, None, None


def _project(x: Tensor, result: Tensor, scale: Tensor) -> Tensor:
    """Backpropagate a gradient through the standardization."""
    along = (x * result).mean(dim=-2, keepdim=True)
    centred = x - x.mean(dim=-2, keepdim=True)
    if torch.is_grad_enabled():
        return (centred - result * along) * scale
    return centred.addcmul_(result, along, value=-1).mul_(scale)


class _UnitVectors(torch.autograd.Function):
    """Normalization that saves only its results for the backward pass.

    Autograd would save every intermediate result.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, length: float) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(z, dim=1, keepdim=True)
        scale = length / norm.clamp(min=_SMALLEST_NORM)
        return z * scale, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*output)
        ctx.length = inputs[1]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        (result, scale), (to_result, to_scale) = ctx.saved_tensors, gradients
        square = ctx.length**2
        found = None
        if to_result is not None:
            along = (to_result * result).sum(dim=1, keepdim=True) / square
            found = (to_result - result * along) * scale
        if to_scale is not None:
            by_scale = -to_scale * scale.square() * result / square
            found = by_scale if found is None else found + by_scale
        return found, None


class _Gram(torch.autograd.Function):
    """Product of a matrix and its transpose, with a cheaper backward pass."""

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
        both: Tensor = gradient + gradient.T
        # Keep the memory layout of `a`, because adding equal layouts is faster.
        product: Tensor = both @ a if a.is_contiguous() else (a.T @ both).T
        return product
