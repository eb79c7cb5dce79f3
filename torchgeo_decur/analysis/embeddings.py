"""What the analyses look at: embeddings, features and labels of a data set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ..modalities import select_date, split
from .correlation import CorrelationStream, Reservoir
from .pretrained import Pretrained

type Pair = tuple[str, str]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a random subset of a data set, and the correlations over all of it.

    Args:
        z: embeddings by name, shape (n, D): of the modalities, and of what a task makes
            of them, such as ``joint``.
        h: features by name, shape (n, F).
        labels: by key, shape (n,) for classes or (n, K) for several labels at once.
        diagonals: correlation of each dimension with itself, shape (D,), for each pair
            of names of ``z`` with as many dimensions, over all samples.
        modalities: which of the names are modalities.
        common_dim: number of common dimensions, the first ones; None where a task does
            not tell common from unique.
        number: number of samples that were seen.
    """

    z: Mapping[str, Tensor]
    h: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    diagonals: Mapping[Pair, Tensor] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    common_dim: int | None = None
    number: int = 0

    @classmethod
    def of(
        cls,
        z: Mapping[str, Tensor],
        common_dim: int | None = None,
        labels: Mapping[str, Tensor] | None = None,
        h: Mapping[str, Tensor] | None = None,
    ) -> 'Embeddings':
        """Make a record of embeddings that are at hand as a whole.

        Args:
            z: embeddings by modality, shape (N, D).
            common_dim: number of common dimensions.
            labels: labels by key.
            h: features by modality, shape (N, F).

        Returns:
            The record.

        Example:
            >>> z = torch.rand(8, 4)
            >>> Embeddings.of({'s1': z, 's2': z}, common_dim=3).parts()
            {'common': slice(0, 3, None), 'unique': slice(3, 4, None), 'all': slice(0, 4, None)}
        """
        collector = _Collector(tuple(z), common_dim, len(next(iter(z.values()))), 0)
        collector.update(h or {}, z, labels or {})
        return collector.finish()

    @property
    def dim(self) -> int:
        """Number of dimensions D of the embeddings of the first name."""
        return next(iter(self.z.values())).shape[1]

    def parts(self, name: str | None = None) -> dict[str, slice]:
        """Say which dimensions are which.

        Args:
            name: name of the embeddings; by default the first.

        Returns:
            Dimensions of ``common``, ``unique`` and ``all``; of ``all`` alone where
            there is nothing to tell apart, as in what is no modality.
        """
        dim = self.dim if name is None else self.z[name].shape[1]
        k = self.common_dim
        whole = {'all': slice(0, dim)}
        if k is None or not 0 < k < dim or name not in (None, *self.modalities):
            return whole
        return {'common': slice(0, k), 'unique': slice(k, dim), **whole}


def collect(
    model: Pretrained,
    batches: Iterable[Mapping[str, Any]],
    max_samples: int = 4096,
    seed: int = 0,
) -> Embeddings:
    """Embed a data set, of which only a subset and what was counted stays in memory.

    The model is in evaluation mode meanwhile; images are of the first date, and are not
    augmented.

    Args:
        model: a self-supervised task, such as ``DeCUR``.
        batches: ``image_<m>`` of every modality in [0, 1], shape (B, C, H, W) or
            (B, T, C, H, W), on any device, and any ``label*``.
        max_samples: size of the subset, for all but the correlations. It takes
            ``4 * max_samples * (D + F)`` bytes for each modality: 160 MB for 4096
            samples, 8192 dimensions and 2048 features.
        seed: seed of the subset.

    Returns:
        The record.

    Raises:
        ValueError: if there is no batch, or a batch lacks a modality.
    """
    modalities: dict[str, int] = dict(model.hparams['modalities'])
    common_dim: int | None = getattr(model, 'common_dim', None)
    collector = _Collector(tuple(modalities), common_dim, max_samples, seed)
    device = next(model.encoders.parameters()).device
    training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            for batch in batches:
                images = split(batch, modalities)
                first = {
                    m: select_date(x, date=0).to(device) for m, x in images.items()
                }
                found = {
                    str(k): v
                    for k, v in batch.items()
                    if str(k).startswith('label') and isinstance(v, Tensor)
                }
                collector.update(*model.encode_and_project(first), found)
    finally:
        model.train(training)
    return collector.finish()


class _Collector:
    """Takes in batches; what it holds does not grow with their number."""

    def __init__(
        self,
        modalities: tuple[str, ...],
        common_dim: int | None,
        max_samples: int,
        seed: int,
    ) -> None:
        self.modalities, self.common_dim = modalities, common_dim
        self.streams: dict[Pair, CorrelationStream] = {}
        self.reservoir = Reservoir(max_samples, seed)

    def update(
        self,
        h: Mapping[str, Tensor],
        z: Mapping[str, Tensor],
        labels: Mapping[str, Any],
    ) -> None:
        for m, n in combinations(z, 2):
            if z[m].shape != z[n].shape:
                continue
            if (m, n) not in self.streams:
                self.streams[m, n] = CorrelationStream(z[m].shape[1])
            self.streams[m, n].update(z[m], z[n])
        rows = {('z', name): x.float() for name, x in z.items()}
        rows |= {('h', name): x.float() for name, x in h.items()}
        rows |= {('label', key): y for key, y in labels.items()}
        self.reservoir.update({f'{kind} {name}': x for (kind, name), x in rows.items()})

    def finish(self) -> Embeddings:
        rows: dict[str, dict[str, Tensor]] = {'z': {}, 'h': {}, 'label': {}}
        for key, x in self.reservoir.rows().items():
            kind, _, name = key.partition(' ')
            rows[kind][name] = x
        if not rows['z']:
            raise ValueError('batches must have one sample or more, got none')
        return Embeddings(
            z=rows['z'],
            h=rows['h'],
            labels=rows['label'],
            diagonals={pair: s.diagonal() for pair, s in self.streams.items()},
            modalities=self.modalities,
            common_dim=self.common_dim,
            number=self.reservoir.count,
        )
