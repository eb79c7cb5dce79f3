"""What all losses share: the form of the embeddings, and the precision."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EmbeddingLoss(nn.Module, ABC):
    """A loss of embeddings by name; a subclass computes its parts in ``terms``.

    Embeddings are checked, and computed with in float32 (or float64, if they are) under
    any autocast.

    Attributes:
        minimum: smallest number of embeddings.
        views: smallest number of views V.
        exactly: whether more views are refused.
    """

    minimum = 2
    views = 2
    exactly = False

    def forward(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss and its parts.

        Args:
            z: embeddings by name, shape (V, N, D) each.

        Returns:
            ``loss`` and its parts, scalars.

        Raises:
            ValueError: if embeddings, views or samples are too few, or shapes differ.
        """
        self.check(z)
        device = next(iter(z.values())).device.type
        with torch.autocast(device, enabled=False):
            return self.terms(
                {m: x if x.dtype == torch.float64 else x.float() for m, x in z.items()}
            )

    @abstractmethod
    def terms(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss and its parts of checked embeddings.

        Args:
            z: embeddings by name, shape (V, N, D) each, float32 or float64.

        Returns:
            ``loss`` and its parts, scalars.
        """

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Refuse embeddings that the loss is not defined for.

        Args:
            z: embeddings by name.

        Raises:
            ValueError: if embeddings, views or samples are too few, or shapes differ.
        """
        if len(z) < self.minimum:
            number = {1: 'one modality', 2: 'two modalities'}[self.minimum]
            raise ValueError(f'z must have at least {number}, got {list(z)}')
        shapes = {m: tuple(x.shape) for m, x in z.items()}
        if len(set(shapes.values())) > 1 or any(len(s) != 3 for s in shapes.values()):
            raise ValueError(
                f'z must have one shape (V, N, D) for all modalities, got {shapes}'
            )
        shape = views, samples, _ = next(iter(shapes.values()))
        if views < self.views or samples < 2 or (self.exactly and views > self.views):
            least = (
                f'{self.views} views and ' + 'at least ' * self.exactly + '2 samples'
            )
            raise ValueError(
                f'z must have {"" if self.exactly else "at least "}{least}, '
                f'got shape {shape}'
            )
