"""Tasks that learn the number of common dimensions in one run, for tables/adaptive.yaml.

Each dimension has a weight w in the common part of DeCUR's cross-modal loss, and 1 - w in the
unique part,

    sum_i w_i (1 - C_ii)^2 + lambda sum_{i != j} w_i w_j C_ij^2
    + sum_i u_i C_ii^2 + lambda sum_{i != j} u_i u_j C_ij^2,    u = 1 - w.

With w in {0, 1}, this is DeCUR with a different order of dimensions. In the first half of the fit, all
dimensions are common. Afterwards, both variants use the running mean of each dimension's
correlation C_ii. It is relative to the mean over the 10 % of dimensions with the highest
correlation. Absolute correlations would not work: early in training they are well below one half,
and only above one half is (1 - C)^2 less than C^2.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn

from torchgeo_decur.losses import DeCURLoss
from torchgeo_decur.losses.functional import cross_correlation_terms, standardize
from torchgeo_decur.tasks import DeCUR

# Fractions of the fit after which dimensions can become unique, and after which weights are 0 or 1.
_BEGIN, _END = 0.5, 0.75


class WeightedLoss(DeCURLoss):
    """DeCUR's loss with one weight per dimension and pair of modalities.

    Args:
        dim: number of dimensions D.
        pairs: number of pairs of modalities.
        lambda_param: weight of the off-diagonal elements.
    """

    takes_available = False
    mean: Tensor

    def __init__(self, dim: int, pairs: int, lambda_param: float) -> None:
        """Initialize a new WeightedLoss instance."""
        super().__init__(dim, lambda_param)
        self.register_buffer('mean', torch.zeros(pairs, dim))
        self.progress = 0.0

    def weights(self) -> Tensor:
        """Return the weight of each dimension in the common part, shape (pairs, D)."""
        raise NotImplementedError

    def learn(self, pair: int, relative: Tensor) -> Tensor | float:
        """Learn the weights of a pair from its relative correlations, shape (D,).

        Args:
            pair: index of the pair.
            relative: correlation of each dimension, relative to the mean of the highest 10 %.

        Returns:
            A loss that depends only on the weights.
        """
        raise NotImplementedError

    def terms(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and its terms.

        Args:
            z: embeddings by modality, shape (V, N, D).
            available: ignored.

        Returns:
            The scalar ``loss`` and its scalar terms, by name.
        """
        parts = {k: v for k, v in super().terms(z).items() if k.startswith('intra')}
        first = {m: standardize(v[0]) for m, v in z.items()}
        cross: dict[str, Tensor] = {}
        learned: Tensor | float = 0.0
        for pair, (m, n) in enumerate(combinations(z, 2)):
            x, y = first[m], first[n]
            diagonal = (x * y).mean(dim=0)
            self.mean[pair].lerp_(diagonal.detach(), 0.05)
            if _BEGIN <= self.progress < _END:
                highest = self.mean[pair].topk(max(1, len(diagonal) // 10)).values
                relative = self.mean[pair] / highest.mean().clamp(min=1e-6)
                learned = learned + self.learn(pair, relative)
            w = self.weights()[pair].detach()
            for name, weight, target in (('common', w, 1), ('unique', 1 - w, 0)):
                scale = weight.clamp(min=1e-6).sqrt()
                _, off = cross_correlation_terms(x * scale, y * scale)
                on = (weight * (target - diagonal).square()).sum()
                cross[f'{name}_{m}_{n}'] = on + self.lambda_param * off
        terms = len(parts) + len(cross) // 2
        loss = torch.as_tensor((sum(parts.values()) + sum(cross.values()) / 2) / terms)
        return {'loss': loss + learned, **parts, **cross}


class SwitchLoss(WeightedLoss):
    """Loss that makes dimensions unique once their relative correlation is below one half."""

    common: Tensor

    def __init__(self, dim: int, pairs: int, lambda_param: float) -> None:
        """Initialize a new SwitchLoss instance."""
        super().__init__(dim, pairs, lambda_param)
        self.register_buffer('common', torch.ones(pairs, dim))

    def weights(self) -> Tensor:
        """Return the weight of each dimension in the common part, shape (pairs, D)."""
        return self.common

    def learn(self, pair: int, relative: Tensor) -> float:
        """Make dimensions with a relative correlation below one half unique."""
        self.common[pair] *= relative >= 0.5
        return 0.0


class GateLoss(WeightedLoss):
    """Loss with one gate per dimension, which is learned by gradient and ends at 0 or 1.

    The loss of a gate w is w (1 - r)^2 + (1 - w) r^2, where r is the relative correlation.
    """

    def __init__(self, dim: int, pairs: int, lambda_param: float) -> None:
        """Initialize a new GateLoss instance."""
        super().__init__(dim, pairs, lambda_param)
        # An AdamW step changes a parameter by about the learning rate, which is too little for a
        # gate.
        self.speed = 50.0
        self.gate = nn.Parameter(torch.full((pairs, dim), 2.0 / self.speed))

    def weights(self) -> Tensor:
        """Return the weight of each dimension in the common part, shape (pairs, D)."""
        if self.progress < _BEGIN:
            return torch.ones_like(self.gate)
        if self.progress >= _END:
            return (self.gate > 0).to(self.gate)
        return torch.sigmoid(self.speed * self.gate)

    def learn(self, pair: int, relative: Tensor) -> Tensor:
        """Compute the loss of the gates."""
        w = self.weights()[pair]
        return (w * (1 - relative).square() + (1 - w) * relative.square()).sum()


class AdaptiveDeCUR(DeCUR):
    """DeCUR with a weighted loss; it has the same arguments as DeCUR.

    Probe only the features, because common dimensions do not come first in an embedding.
    """

    loss: type[WeightedLoss]

    def configure_losses(self) -> None:
        """Build the loss."""
        pairs = len([*combinations(self.hparams['modalities'], 2)])
        dim = self.hparams['projector'][-1]
        self.criterion = self.loss(dim, pairs, self.hparams['lambda_param'])

    def on_train_batch_start(self, *args: Any) -> None:
        """Pass the fit progress to the loss and log the fraction of common dimensions."""
        criterion = cast(WeightedLoss, self.criterion)
        steps = self.trainer.estimated_stepping_batches
        criterion.progress = self.global_step / steps
        share = criterion.weights().detach().mean()
        self.log('common_share', share, prog_bar=True)


class Switch(AdaptiveDeCUR):
    """DeCUR with :class:`SwitchLoss`."""

    loss = SwitchLoss


class Gates(AdaptiveDeCUR):
    """DeCUR with :class:`GateLoss`."""

    loss = GateLoss
