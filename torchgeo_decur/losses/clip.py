"""The loss of CLIP, between any number of modalities."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from .crossmodal import CrossModalLoss

_SMALLEST = 0.01


class CLIPLoss(CrossModalLoss):
    r"""Tell which image of one modality belongs to which image of the other.

    Radford et al., *Learning Transferable Visual Models From Natural Language
    Supervision*, ICML 2021, https://arxiv.org/abs/2103.00020.

    With unit vectors :math:`a_i, b_j` of two modalities and :math:`s_{ij} = a_i \cdot b_j
    / \tau`, the mean of both cross-entropies:

    .. math:: \frac{1}{2N} \sum_i \Bigl( - \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
              - \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}} \Bigr).

    Negatives are of the other modality alone. The temperature :math:`\tau` is learned,
    and never below 0.01. All pairs of modalities and all views are averaged, see
    :class:`CrossModalLoss`.

    Args:
        temperature: start of the temperature.

    Raises:
        ValueError: if the temperature is below 0.01.

    Example:
        >>> z = {'s1': torch.eye(2)[None], 's2': torch.eye(2)[None]}
        >>> round(CLIPLoss(temperature=1.0)(z)['loss'].item(), 4)  # log(1 + 1 / e)
        0.3133
    """

    minimum = 2

    def __init__(self, temperature: float = 0.07) -> None:
        """Initialize a new CLIPLoss instance."""
        if not temperature >= _SMALLEST:
            raise ValueError(
                f'temperature must be at least {_SMALLEST}, got {temperature}'
            )
        super().__init__(_Contrast(temperature))

    @property
    def temperature(self) -> Tensor:
        """The temperature now, a scalar."""
        return (-cast(_Contrast, self.pair).log_scale).exp().clamp(min=_SMALLEST)


class _Contrast(nn.Module):
    """CLIP's loss of two embeddings, and its temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        # The parameter itself is bounded: beyond a bound of its value it would get no
        # gradient, and never come back.
        with torch.no_grad():
            self.log_scale.clamp_(max=-math.log(_SMALLEST))
        logits = self.log_scale.exp() * normalize(a, dim=1) @ normalize(b, dim=1).T
        own = torch.arange(len(a), device=a.device)
        return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
