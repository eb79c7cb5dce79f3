"""Bases of all losses: checks, precision, and pairs of modalities."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn


class EmbeddingLoss(nn.Module, ABC):
    """Base of all losses; a subclass computes the loss and its parts in ``terms``.

    Embeddings are checked first. The loss is computed in float32 even under autocast, or
    in float64 if the embeddings are float64.

    Attributes:
        minimum: smallest number of embeddings.
        views: smallest number of views V.
        exactly: whether more views are an error.
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
        """Compute the loss and its parts from checked embeddings.

        Args:
            z: embeddings by name, shape (V, N, D) each, float32 or float64.

        Returns:
            ``loss`` and its parts, scalars.
        """

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Check the number and the shape of the embeddings.

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


class PairwiseLoss[View](EmbeddingLoss):
    """Average a loss of two views over all pairs of modalities.

    View v of one modality is compared with view v of another modality, for every v. With
    a single modality, its views are compared with each other.

    A subclass prepares each view once for all pairs (``prepare``), and computes the loss
    of two prepared views (``compare``).
    """

    minimum = 1
    views = 1

    @abstractmethod
    def prepare(self, z: Mapping[str, Tensor], pairs: int) -> Mapping[str, list[View]]:
        """Prepare each view once for all its pairs.

        Args:
            z: embeddings by modality, shape (V, N, D) each, float32 or float64.
            pairs: number of pairs of views that will be compared.

        Returns:
            The prepared views of each modality.
        """

    @abstractmethod
    def compare(self, a: View, b: View) -> Tensor:
        """Compute the loss of two views.

        Args:
            a: a prepared view.
            b: another view of the same samples.

        Returns:
            A scalar.
        """

    def terms(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss and its parts from checked embeddings.

        Returns:
            ``loss``, and ``cross_<m>_<n>`` of each pair of modalities, or ``intra_<m>``
            of a single modality: scalars.
        """
        m, v = len(z), len(next(iter(z.values())))
        number = m * (m - 1) // 2 * v if m > 1 else v * (v - 1) // 2
        views = self.prepare(z, number)
        pairs: dict[str, Iterable[tuple[View, View]]] = {
            f'cross_{pair}': zip(views[m], views[n], strict=True)
            for (m, n), pair in display_names(combinations(z, 2)).items()
        }
        pairs = pairs or {f'intra_{m}': combinations(views[m], 2) for m in z}
        parts = {
            name: mean([self.compare(a, b) for a, b in both])
            for name, both in pairs.items()
        }
        return {'loss': mean([*parts.values()]), **parts}

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Check embeddings, and the views of a single modality.

        Raises:
            ValueError: if modalities, samples or the views of a single modality are too
                few, or shapes differ.
        """
        super().check(z)
        if len(z) == 1 and len(next(iter(z.values()))) < 2:
            raise ValueError(
                f'z must have at least 2 views of a single modality, got 1 of {list(z)}'
            )


class CrossModalLoss(PairwiseLoss[Tensor]):
    """Average any loss of two embeddings over views and pairs of modalities.

    View v of one modality is compared with view v of another modality, for every v. With
    a single modality, its views are compared with each other.

    Args:
        loss: a module from two tensors (N, D) to a scalar. It gets the samples of all
            devices, and must not gather them itself.

    Shape:
        - Input: one tensor (V, N, D) per modality: V views (two or more of a single
          modality), N >= 2 samples of all devices, D dimensions.
        - Output: scalars: ``loss``, and ``cross_<m>_<n>`` of each pair, or ``intra_<m>``
          of a single modality.

    Example:
        >>> from lightly.loss import DCLLoss
        >>> _ = torch.manual_seed(0)
        >>> z = {'s1': torch.randn(2, 8, 16), 's2': torch.randn(2, 8, 16)}
        >>> sorted(CrossModalLoss(DCLLoss())(z))
        ['cross_s1_s2', 'loss']
    """

    def __init__(self, loss: nn.Module) -> None:
        """Initialize a new CrossModalLoss instance."""
        super().__init__()
        self.pair = loss

    def prepare(
        self, z: Mapping[str, Tensor], pairs: int
    ) -> Mapping[str, list[Tensor]]:
        """Return the embeddings of each view.

        Returns:
            The views of each modality, shape (N, D) each.
        """
        return {m: list(x.unbind()) for m, x in z.items()}

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute the loss of two views."""
        loss: Tensor = self.pair(a, b)
        return loss


def mean(terms: Sequence[Tensor]) -> Tensor:
    """Return the mean of scalars.

    Args:
        terms: the scalars.

    Returns:
        A scalar.
    """
    return torch.stack(list(terms)).mean()


def display_names(
    keys: Iterable[tuple[str, ...]], separator: str = '_'
) -> dict[tuple[str, ...], str]:
    """Join the names of each key, with different results for different keys.

    Names are quoted if two keys would otherwise give the same result, as
    ``('a', 'b_c')`` and ``('a_b', 'c')`` do.

    Args:
        keys: tuples of modality names, such as pairs.
        separator: text between two names.

    Returns:
        The joined names of each key, in order.

    Example:
        >>> display_names([('s1', 's2'), ('s1', 'dem')])
        {('s1', 's2'): 's1_s2', ('s1', 'dem'): 's1_dem'}
        >>> list(display_names([('a', 'b_c'), ('a_b', 'c')]).values())
        ["'a'_'b_c'", "'a_b'_'c'"]
    """
    joined = {key: separator.join(key) for key in keys}
    texts = list(joined.values())
    # torch.compile cannot follow texts.count in torch 2.6.
    return {
        key: text
        if sum(t == text for t in texts) == 1
        else separator.join(map(repr, key))
        for key, text in joined.items()
    }
