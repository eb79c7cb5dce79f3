"""DeCUR's loss with D x D matrices as in the published code, for comparison."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import batch_norm


def matrix_loss(
    z: Mapping[str, Tensor], common_dim: int, lambda_param: float = 0.0051
) -> Tensor:
    """Compute DeCUR's loss of two modalities with D x D matrices.

    Args:
        z: embeddings of two modalities, shape (2, N, D).
        common_dim: number of common dimensions.
        lambda_param: weight of the off-diagonal elements.

    Returns:
        The scalar loss.
    """
    (a1, a2), (b1, b2) = z.values()
    intra = sum(_term(_correlation(*v), lambda_param, 1) for v in ((a1, a2), (b1, b2)))
    cross = _correlation(a1, b1)
    common = _term(cross[:common_dim, :common_dim], lambda_param, 1)
    unique = _term(cross[common_dim:, common_dim:], lambda_param, 0)
    return (intra + (common + unique) / 2) / 3


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = (batch_norm(x, None, None, training=True) for x in (a, b))
    return a.T @ b / len(a)


def _term(c: Tensor, lambda_param: float, target: int) -> Tensor:
    off = ~torch.eye(len(c), dtype=torch.bool, device=c.device)
    diagonal = (c.diagonal() - target).square().sum()
    return diagonal + lambda_param * c.masked_fill(~off, 0).square().sum()
