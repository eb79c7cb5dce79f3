"""FactorCL loss, which optimizes bounds on shared and unique information."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax
from torch.utils.checkpoint import checkpoint

from .base import EmbeddingLoss

# Maximum number of activations in a hidden layer of a critic. Larger inputs run in chunks.
_LARGEST = 2**24


#: Parts of an embedding, in order. The first two are for shared information.
PARTS = ('nce_shared', 'club_shared', 'nce_unique', 'club_unique', 'nce_conditional')


class FactorCLLoss(EmbeddingLoss):
    r"""FactorCL loss, which keeps task-relevant shared and unique information.

    Liang, Deng et al., *Factorized Contrastive Learning: Going Beyond Multi-view
    Redundancy*, NeurIPS 2023, https://arxiv.org/abs/2306.05268.

    Without labels, the task-relevant information is unknown. The loss therefore treats
    information that augmentations preserve as relevant and uses the second view
    :math:`x'` of each image in place of a label. It maximizes the shared information

    .. math:: S = I_{NCE}(x_1; x_2) - I_{CLUB}(x_1; x_2 \mid x_1', x_2')

    and the unique information of both modalities

    .. math:: U = I_{NCE}(x_1; x_1') + I_{NCE}(x_2; x_2') - I_{CLUB}(x_1; x_2)
              + I_{NCE}(x_1; x_2 \mid x_1', x_2').

    Each bound has its own part of the embeddings and its own critic :math:`f`, which
    scores all pairs of samples. InfoNCE is a lower bound on mutual information. NCE-CLUB
    is an upper bound if the critic is optimal for InfoNCE:

    .. math:: I_{NCE}(a; b) = \mathrm{E}_i \Bigl[ \log \frac{e^{f(a_i, b_i)}}
              {\frac{1}{N} \sum_j e^{f(a_i, b_j)}} \Bigr], \qquad
              I_{CLUB}(a; b) = \mathrm{E}_i [f(a_i, b_i)] - \mathrm{E}_{i, j} [f(a_i, b_j)].

    Therefore, the critics of both upper bounds maximize InfoNCE on detached embeddings,
    while the embeddings minimize the bounds with fixed critics. In a conditional bound,
    the critic receives each embedding concatenated with its second view.

    Args:
        dim: number of dimensions of each part of an embedding.
        critic_dim: width of both hidden layers of each critic.

    Raises:
        ValueError: if ``dim`` or ``critic_dim`` is not positive.

    Shape:
        - Input: one tensor (2, N, 5 ``dim``) for each of two modalities, with N >= 2
          samples across all devices. The parts are ``nce_shared``, ``club_shared``,
          ``nce_unique``, ``club_unique`` and ``nce_conditional``.
        - Output: scalars. ``loss`` is the total, and ``critics`` is the loss of the critics
          of the upper bounds. The bounds, in nats, are ``nce_shared``, ``club_shared``,
          ``nce_unique_<m>`` for each modality, ``club_unique`` and ``nce_conditional``.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> z = {m: torch.randn(2, 8, 80) for m in ('s1', 's2')}
        >>> list(FactorCLLoss(16, critic_dim=8)(z))[1:4]
        ['nce_shared', 'nce_unique_s1', 'nce_unique_s2']
    """

    exactly = True

    def __init__(self, dim: int, critic_dim: int = 512) -> None:
        """Initialize a new FactorCLLoss instance."""
        super().__init__()
        for name, value in (('dim', dim), ('critic_dim', critic_dim)):
            if value < 1:
                raise ValueError(f'{name} must be positive, got {value}')
        self.dim = dim

        def critics(widths: Mapping[str, int]) -> nn.ModuleDict:
            return nn.ModuleDict(
                {n: Critic(k * dim, critic_dim) for n, k in widths.items()}
            )

        # Conditional critics receive two views.
        self.lower = critics({'shared': 1, 'first': 1, 'second': 1, 'conditional': 2})
        self.upper = critics({'shared': 2, 'unique': 1})

    def terms(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and its terms from checked embeddings."""
        m, n = z
        a, b = (
            dict(zip(PARTS, x.split(self.dim, dim=2), strict=True)) for x in z.values()
        )
        pairs = {
            'nce_shared': (a['nce_shared'][0], b['nce_shared'][0]),
            f'nce_unique_{m}': (a['nce_unique'][0], a['nce_unique'][1]),
            f'nce_unique_{n}': (b['nce_unique'][0], b['nce_unique'][1]),
            'nce_conditional': (
                beside(a['nce_conditional']),
                beside(b['nce_conditional']),
            ),
        }
        lower = {
            name: info_nce_bound(critic(*pair))
            for (name, pair), critic in zip(
                pairs.items(), self.lower.values(), strict=True
            )
        }
        pairs = {
            'club_shared': (beside(a['club_shared']), beside(b['club_shared'])),
            'club_unique': (a['club_unique'][0], b['club_unique'][0]),
        }
        upper, learned = {}, []
        for (name, (x, y)), critic in zip(
            pairs.items(), self.upper.values(), strict=True
        ):
            upper[name] = nce_club_bound(critic(x, y, frozen=True))
            learned.append(info_nce_bound(critic(x.detach(), y.detach())))
        critics = -torch.stack(learned).sum()
        loss = (
            torch.stack(list(upper.values())).sum()
            - torch.stack(list(lower.values())).sum()
            + critics
        )
        return {'loss': loss, **lower, **upper, 'critics': critics}

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Check that there are two modalities with two views and all parts.

        Raises:
            ValueError: if there are not two modalities and two views, there are too few
                samples, shapes differ, or D is not 5 ``dim``.
        """
        if len(z) != 2:
            raise ValueError(
                f'z must have two modalities for FactorCL, got {list(z)}; use CoMMLoss '
                'for more modalities'
            )
        super().check(z)
        dimensions = next(iter(z.values())).shape[2]
        if dimensions != len(PARTS) * self.dim:
            raise ValueError(
                f'z must have {len(PARTS)} parts of {self.dim} dimensions, '
                f'got {dimensions} dimensions; set dim to the size of a part'
            )


class Critic(nn.Module):
    """Network with two hidden layers that scores all pairs from two sets of samples.

    The first layer adds a linear projection of each sample, which avoids concatenating
    pairs. If there are many pairs, the hidden layers run in chunks and are recomputed in
    the backward pass. Their memory then does not grow with the number of pairs.

    Args:
        dim: embedding dimension of a sample.
        hidden: width of both hidden layers.

    Example:
        >>> Critic(4, 8)(torch.randn(3, 4), torch.randn(5, 4)).shape
        torch.Size([3, 5])
    """

    def __init__(self, dim: int, hidden: int) -> None:
        """Initialize a new Critic instance."""
        super().__init__()
        self.first = nn.Linear(dim, hidden)
        self.second = nn.Linear(dim, hidden, bias=False)
        self.hidden = nn.Linear(hidden, hidden)
        # A bias in the score would cancel in every bound.
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, a: Tensor, b: Tensor, frozen: bool = False) -> Tensor:
        """Compute the score of each pair.

        Args:
            a: embeddings, shape (N, D).
            b: embeddings, shape (M, D).
            frozen: whether to detach the weights so that they get no gradient.

        Returns:
            Scores, shape (N, M).
        """
        first, second, hidden, score = (
            w.detach() if frozen else w
            for w in (
                self.first.weight,
                self.second.weight,
                self.hidden.weight,
                self.score.weight,
            )
        )
        biases = [self.first.bias, self.hidden.bias]
        bias1, bias2 = (w.detach() if frozen else w for w in biases)
        columns = linear(b, second)

        def rows(x: Tensor) -> Tensor:
            h = (x[:, None] + columns).relu()
            return linear(linear(h, hidden, bias2).relu(), score).squeeze(2)

        x = linear(a, first, bias1)
        size = max(1, _LARGEST // columns.numel())
        if size >= len(x):
            return rows(x)
        parts = [checkpoint(rows, p, use_reentrant=False) for p in x.split(size)]
        return torch.cat(parts)


def beside(z: Tensor) -> Tensor:
    """Concatenate the embeddings of both views of each sample.

    Args:
        z: embeddings, shape (2, N, D).

    Returns:
        Embeddings, shape (N, 2 D).
    """
    return torch.cat([z[0], z[1]], dim=1)


def info_nce_bound(scores: Tensor) -> Tensor:
    """Compute InfoNCE, a lower bound on mutual information in nats.

    The bound is at most log N.

    Args:
        scores: scores of all pairs, shape (N, N), with positive pairs on the diagonal.

    Returns:
        A scalar.

    Example:
        >>> round(info_nce_bound(100 * torch.eye(4)).item(), 4)  # log(4)
        1.3863
    """
    return log_softmax(scores, dim=1).diagonal().mean() + math.log(len(scores))


def nce_club_bound(scores: Tensor) -> Tensor:
    """Compute NCE-CLUB, an upper bound on mutual information in nats.

    It is an upper bound only if the scores are optimal for InfoNCE.

    Args:
        scores: scores of all pairs, shape (N, N), with positive pairs on the diagonal.

    Returns:
        A scalar.

    Example:
        >>> nce_club_bound(torch.eye(4)).item()
        0.75
    """
    return scores.diagonal().mean() - scores.mean()
