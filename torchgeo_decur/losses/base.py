"""Bases of all losses: checks, precision, and pairs of modalities."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import isabstract
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from .functional import Subset


class EmbeddingLoss(nn.Module, ABC):
    """Base of all losses; a subclass computes the loss and its parts in ``terms``.

    Embeddings are checked first. The loss is computed in float32 even under autocast, or
    in float64 if the embeddings are float64.

    With ``available``, samples may lack modalities. A term then uses the samples that
    have all its modalities. A term with fewer than ``min_samples`` is 0, without
    gradient; if the whole batch is smaller, all its samples are enough. Each term keeps
    its weight in the total, so that losses of batches can be compared.

    Attributes:
        minimum: smallest number of embeddings.
        views: smallest number of views V.
        exactly: whether more views are an error.
        takes_available: whether ``terms`` has an argument ``available``.
        min_samples: smallest number of samples of a term. The correlation r of n samples
            of independent dimensions has a density proportional to
            (1 - r²)^((n - 4) / 2): it is ±1 for two, mostly near ±1 for three, uniform
            for four. Only from five samples on is a correlation near 0 the most probable.
        joint: name of the embeddings of all modalities together, if the loss has any. A
            sample has them if it has any modality.
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
        """Compute the loss and its parts.

        Args:
            z: embeddings by name, shape (V, N, D) each.
            available: whether each sample has a modality, shape (N,), boolean, by name. A
                modality without a mask is present in all samples. By default all are.

        Returns:
            ``loss`` and its parts, scalars. With ``available`` also ``pairs_<m>_<n>``,
            the number of samples that have both modalities.

        Raises:
            ValueError: if embeddings, views or samples are too few, shapes differ, or the
                loss is not defined for samples without a modality.
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
        """Compute the loss and its parts from checked embeddings.

        Args:
            z: embeddings by name, shape (V, N, D) each, float32 or float64.
            available: whether each sample has each embedding, shape (N,), boolean; None
                if all have all.

        Returns:
            ``loss`` and its parts, scalars.
        """

    def subset(
        self, available: Mapping[str, Tensor] | None, *names: str
    ) -> Subset | None:
        """Return the samples that have all these embeddings.

        Args:
            available: masks by name, shape (N,).
            names: names of embeddings.

        Returns:
            The samples; None if all samples have all embeddings.
        """
        if available is None:
            return None
        mask = available[names[0]]
        for name in names[1:]:
            mask = mask & available[name]
        return Subset(mask, self.min_samples)

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

    def check_takes_available(self) -> None:
        """Check that the loss is defined for samples that lack a modality.

        Raises:
            ValueError: if it is not, with the losses that are.
        """
        if not self.takes_available:
            known = sorted(
                loss.__name__
                for loss in _subclasses(EmbeddingLoss)
                if loss.takes_available and not isabstract(loss)
            )
            raise ValueError(
                f'{type(self).__name__} is not defined for samples that lack a modality; '
                f'use one of {known}, or leave incomplete samples out'
            )

    def _masks(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Check the masks, and complete them."""
        self.check_takes_available()
        first = next(iter(z.values()))
        names = [m for m in z if m != self.joint]
        found = {m: (tuple(x.shape), x.dtype) for m, x in available.items()}
        expected = (first.shape[1:2], torch.bool)
        if set(found) - set(names) or any(x != expected for x in found.values()):
            raise ValueError(
                f'available must have boolean masks of shape ({first.shape[1]},) for some '
                f'of {names}, got {found}'
            )
        everything = torch.ones(expected[0], dtype=torch.bool, device=first.device)
        masks = {m: available.get(m, everything) for m in names}
        if self.joint is not None:
            masks[self.joint] = torch.stack(list(masks.values())).any(dim=0)
        return masks


class PairwiseLoss[View](EmbeddingLoss):
    """Average a loss of two views over all pairs of modalities.

    View v of one modality is compared with view v of another modality, for every v. With
    a single modality, its views are compared with each other.

    A subclass prepares each view once for all pairs (``prepare``), and computes the loss
    of two prepared views (``compare``).
    """

    minimum = 1
    views = 1
    takes_available = True

    @abstractmethod
    def prepare(
        self, z: Mapping[str, Tensor], pairs: int, subset: Subset | None = None
    ) -> Mapping[str, list[View]]:
        """Prepare each view once for all its pairs.

        Args:
            z: embeddings by modality, shape (V, N, D) each, float32 or float64.
            pairs: number of pairs of views that will be compared.
            subset: samples to use; by default all.

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

    def terms(
        self, z: Mapping[str, Tensor], available: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss and its parts from checked embeddings.

        Returns:
            ``loss``, and ``cross_<m>_<n>`` of each pair of modalities, or ``intra_<m>``
            of a single modality: scalars.
        """
        v = len(next(iter(z.values())))
        keys: list[tuple[str, ...]] = [*combinations(z, 2)] or [(m,) for m in z]
        each = v if len(z) > 1 else v * (v - 1) // 2
        # Pairs with the same samples share the statistics of a view.
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
    a single modality, its views are compared with each other. All samples must have all
    modalities.

    Args:
        loss: a module that maps two tensors (N, D) to a scalar. N counts the samples of
            all devices; the module must not gather them again.

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

    takes_available = False

    def __init__(self, loss: nn.Module) -> None:
        """Initialize a new CrossModalLoss instance."""
        super().__init__()
        self.pair = loss

    def prepare(
        self, z: Mapping[str, Tensor], pairs: int, subset: Subset | None = None
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


def _subclasses(base: Any) -> Iterator[Any]:
    """Yield all subclasses of a class."""
    for subclass in base.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
