"""Base classes for losses: input checks, precision and pairs of modalities."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import isabstract
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from .functional import Subset


class EmbeddingLoss(nn.Module, ABC):
    """Base class for all losses.

    Subclasses compute the loss and its terms in ``terms``. Embeddings are checked first.
    The loss is computed in float32, even under autocast, or in float64 if the embeddings
    are float64.

    Pass ``available`` if some samples lack modalities. Each term then uses only the
    samples that have all of its modalities. A term with fewer than ``min_samples`` samples
    is 0, and so is its gradient. In a smaller batch, a term needs every sample. Each term
    keeps its weight in the total, which makes the loss comparable across batches.

    Attributes:
        minimum: minimum number of embeddings.
        views: minimum number of views V.
        exactly: whether V must be exactly ``views``.
        takes_available: whether the loss supports samples that lack modalities.
        min_samples: minimum number of samples in a term. For n samples of two independent
            dimensions, the density of the correlation r is proportional to
            (1 - r²)^((n - 4) / 2). The correlation is ±1 for n = 2, mostly near ±1 for
            n = 3 and uniform for n = 4. It is most likely near 0 only if n >= 5.
        joint: name of the joint embedding of all modalities, or None if the loss has none.
            A sample has a joint embedding if it has any modality.
    """

    minimum = 2
    views = 2
    exactly = False
    takes_available = False
    min_samples = 5
    joint: str | None = None

    def forward(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and its terms.

        Args:
            z: embeddings by name, each of shape (V, N, D).
            available: boolean masks by modality, shape (N,), True for each sample that has
                the modality. A modality without a mask is present in all samples. By
                default, all samples have all modalities.

        Returns:
            The scalar ``loss`` and its terms. With ``available``, also ``pairs_<m>_<n>``,
            the number of samples that have both modalities.

        Raises:
            ValueError: if there are too few embeddings, views or samples, if shapes
                differ, or if the loss does not support samples that lack a modality.
        """
        self.check(z)
        masks = None if available is None else self._masks(z, available)
        device = next(iter(z.values())).device.type
        with torch.autocast(device, enabled=False):
            z = {m: x if x.dtype == torch.float64 else x.float() for m, x in z.items()}
            if masks is None:
                return self.terms(z)
            counts = {
                f'pairs_{pair}': (masks[m] & masks[n]).sum().float()
                for (m, n), pair in display_names(
                    combinations((m for m in z if m != self.joint), 2)
                ).items()
            }
            return {**self.terms(z, masks), **counts}

    @abstractmethod
    def terms(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and its terms from checked embeddings.

        Args:
            z: embeddings by name, each of shape (V, N, D), float32 or float64.
            available: boolean masks by name, shape (N,), True for each sample that has the
                embedding. None if all samples have all embeddings.

        Returns:
            The scalar ``loss`` and its terms.
        """

    def subset(
        self, available: Mapping[str, Tensor] | None, *names: str
    ) -> Subset | None:
        """Select the samples that have all named embeddings.

        Args:
            available: boolean masks by name, shape (N,).
            names: names of the required embeddings.

        Returns:
            The subset, or None if all samples have all embeddings.
        """
        if available is None:
            return None
        mask = available[names[0]]
        for name in names[1:]:
            mask = mask & available[name]
        return Subset(mask, self.min_samples)

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Check the names, number and shape of the embeddings.

        Args:
            z: embeddings by name.

        Raises:
            ValueError: if the joint embeddings are absent, there are too few embeddings,
                views or samples, or shapes differ.
        """
        if self.joint is not None and self.joint not in z:
            raise ValueError(
                f'z must have {self.joint!r}, got {list(z)}; add the joint embeddings'
            )
        if len(z) < self.minimum:
            number = {1: 'one modality', 2: 'two modalities'}[self.minimum]
            raise ValueError(
                f'z must have at least {number}, got {list(z)}; add a modality'
            )
        shapes = {m: tuple(x.shape) for m, x in z.items()}
        if len(set(shapes.values())) > 1 or any(len(s) != 3 for s in shapes.values()):
            raise ValueError(
                f'all embeddings in z must have the same shape (V, N, D), got {shapes}; '
                'use the same views, samples and dimensions'
            )
        shape = views, samples, _ = next(iter(shapes.values()))
        if views < self.views or samples < 2 or (self.exactly and views > self.views):
            least = (
                f'{self.views} view{"s" * (self.views > 1)} and '
                + 'at least ' * self.exactly
                + '2 samples'
            )
            raise ValueError(
                f'z must have {"" if self.exactly else "at least "}{least}, '
                f'got shape {shape}'
            )

    def check_takes_available(self) -> None:
        """Check that the loss supports samples that lack a modality.

        Raises:
            ValueError: if the loss does not support them. The message names losses that
                do.
        """
        if not self.takes_available:
            known = sorted(
                loss.__name__
                for loss in _subclasses(EmbeddingLoss)
                if loss.takes_available and not isabstract(loss)
            )
            raise ValueError(
                f'{type(self).__name__} does not support samples that lack a modality; '
                f'use one of {known}, or leave out incomplete samples'
            )

    def _masks(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Check the masks and add the missing ones."""
        self.check_takes_available()
        first = next(iter(z.values()))
        names = [m for m in z if m != self.joint]
        found = {m: (tuple(x.shape), x.dtype) for m, x in available.items()}
        expected = (first.shape[1:2], torch.bool)
        if set(found) - set(names) or any(x != expected for x in found.values()):
            raise ValueError(
                f'available must map modalities among {names} to boolean masks of shape '
                f'({first.shape[1]},), got {found}'
            )
        everything = torch.ones(expected[0], dtype=torch.bool, device=first.device)
        masks = {m: available.get(m, everything) for m in names}
        if self.joint is not None:
            masks[self.joint] = torch.stack(list(masks.values())).any(dim=0)
        return masks


class PairwiseLoss[View](EmbeddingLoss):
    """Base class for losses between two views, averaged over all pairs of modalities.

    View v of one modality is compared with view v of another modality, for every v. The
    views of a single modality are compared with each other.

    A subclass prepares views in ``prepare``, once for all pairs, and computes the loss
    between two prepared views in ``compare``.
    """

    minimum = 1
    views = 1
    takes_available = True

    @abstractmethod
    def prepare(
        self, z: Mapping[str, Tensor], pairs: int, subset: Subset | None = None
    ) -> Mapping[str, list[View]]:
        """Prepare each view once for all of its pairs.

        Args:
            z: embeddings by modality, each of shape (V, N, D), float32 or float64.
            pairs: number of pairs of views to compare.
            subset: samples to use; all by default.

        Returns:
            Prepared views by modality.
        """

    @abstractmethod
    def compare(self, a: View, b: View) -> Tensor:
        """Compute the loss between two views.

        Args:
            a: a prepared view.
            b: another prepared view of the same samples.

        Returns:
            A scalar.
        """

    def terms(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and its terms from checked embeddings.

        Returns:
            The scalar ``loss`` and ``cross_<m>_<n>`` for each pair of modalities, or
            ``intra_<m>`` for a single modality.
        """
        v = len(next(iter(z.values())))
        keys: list[tuple[str, ...]] = [*combinations(z, 2)] or [(m,) for m in z]
        each = v if len(z) > 1 else v * (v - 1) // 2
        # If no sample lacks a modality, all pairs share the statistics of a view.
        views = self.prepare(z, len(keys) * each) if available is None else {}
        parts: dict[str, Tensor] = {}
        for names, text in display_names(keys).items():
            subset = self.subset(available, *names)
            if subset is not None:
                views = self.prepare({m: z[m] for m in names}, each, subset)
            chosen = [views[m] for m in names]
            both: Iterable[tuple[View, View]] = (
                zip(*chosen, strict=True) if len(z) > 1 else combinations(chosen[0], 2)
            )
            part = mean([self.compare(a, b) for a, b in both])
            name = f'cross_{text}' if len(z) > 1 else f'intra_{text}'
            parts[name] = part if subset is None else subset.term(part)
        return {'loss': mean([*parts.values()]), **parts}

    def check(self, z: Mapping[str, Tensor]) -> None:
        """Check the embeddings and, for a single modality, its number of views.

        Raises:
            ValueError: if there are too few modalities or samples, if a single modality
                has fewer than two views, or if shapes differ.
        """
        super().check(z)
        if len(z) == 1 and len(next(iter(z.values()))) < 2:
            raise ValueError(
                'z must have at least 2 views if it has a single modality, '
                f'got 1 view of {list(z)}'
            )


class CrossModalLoss(PairwiseLoss[Tensor]):
    """Average of a loss between two embeddings, over views and pairs of modalities.

    View v of one modality is compared with view v of another modality, for every v. The
    views of a single modality are compared with each other. All samples must have all
    modalities.

    Args:
        loss: module that maps two tensors (N, D) to a scalar. N already includes the
            samples of all devices, so the module must not gather them again.

    Shape:
        - Input: one tensor (V, N, D) per modality, with V views, N >= 2 samples across all
          devices and D dimensions. A single modality needs V >= 2.
        - Output: scalars ``loss`` and ``cross_<m>_<n>`` for each pair of modalities, or
          ``intra_<m>`` for a single modality.

    Example:
        >>> from lightly.loss import DCLLoss
        >>> _ = torch.manual_seed(0)
        >>> z = {'s1': torch.randn(2, 8, 16), 's2': torch.randn(2, 8, 16)}
        >>> sorted(CrossModalLoss(DCLLoss())(z))
        ['cross_s1_s2', 'loss']
    """

    takes_available = False

    def __init__(self, loss: nn.Module) -> None:
        """Initialize a new CrossModalLoss instance."""
        super().__init__()
        self.pair = loss

    def prepare(
        self, z: Mapping[str, Tensor], pairs: int, subset: Subset | None = None
    ) -> Mapping[str, list[Tensor]]:
        """Split the embeddings of each modality into views.

        Returns:
            Views by modality, each of shape (N, D).
        """
        return {m: list(x.unbind()) for m, x in z.items()}

    def compare(self, a: Tensor, b: Tensor) -> Tensor:
        """Compute the loss between two views."""
        loss: Tensor = self.pair(a, b)
        return loss


def mean(terms: Sequence[Tensor]) -> Tensor:
    """Compute the mean of scalar tensors.

    Args:
        terms: one or more scalar tensors.

    Returns:
        A scalar.
    """
    return torch.stack(list(terms)).mean()


def display_names(
    keys: Iterable[tuple[str, ...]], separator: str = '_'
) -> dict[tuple[str, ...], str]:
    """Join the names in each key so that different keys give different strings.

    Names are quoted if two keys would otherwise give the same string, such as
    ``('a', 'b_c')`` and ``('a_b', 'c')``.

    Args:
        keys: tuples of modality names, such as pairs.
        separator: text between two names.

    Returns:
        The joined string for each key, in order.

    Example:
        >>> display_names([('s1', 's2'), ('s1', 'dem')])
        {('s1', 's2'): 's1_s2', ('s1', 'dem'): 's1_dem'}
        >>> list(display_names([('a', 'b_c'), ('a_b', 'c')]).values())
        ["'a'_'b_c'", "'a_b'_'c'"]
    """
    joined = {key: separator.join(key) for key in keys}
    texts = list(joined.values())
    # torch.compile in torch 2.6 cannot trace texts.count.
    return {
        key: text
        if sum(t == text for t in texts) == 1
        else separator.join(map(repr, key))
        for key, text in joined.items()
    }


def _subclasses(base: Any) -> Iterator[Any]:
    """Yield all direct and indirect subclasses of a class."""
    for subclass in base.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
