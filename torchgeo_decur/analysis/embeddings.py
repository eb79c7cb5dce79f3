"""Collect embeddings, features and labels of a data set for the analyses."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ..modalities import select_date, split
from .correlation import CorrelationStream, Reservoir
from .pretrained import Pretrained, eval_mode, parts_of
from .result import NotApplicable

type Pair = tuple[str, str]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of random samples of a data set, and correlations of all samples.

    Args:
        z: embeddings by name, shape (n, D). Names are the modalities and, for some tasks,
            other embeddings such as ``joint``.
        h: features by name, shape (n, F).
        labels: labels by key, shape (n,) for classes or (n, K) for multi-label data.
        diagonals: correlation of each dimension, shape (D,), over all samples, for each
            pair of names of ``z`` with the same number of dimensions.
        modalities: names that are modalities.
        common_dim: number of common dimensions, which come first; None if the task has no
            common and unique dimensions.
        number: number of samples in the data set.
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
        """Build an instance from embeddings of a whole data set.

        Args:
            z: embeddings by modality, shape (N, D).
            common_dim: number of common dimensions.
            labels: labels by key.
            h: features by modality, shape (N, F).

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
        """Return the dimensions of each part.

        Args:
            name: name of the embeddings; by default the first.

        Returns:
            Dimensions of ``common``, ``unique`` and ``all``, or only of ``all`` if the
            embeddings do not have both parts.
        """
        dim = self.dim if name is None else self.z[name].shape[1]
        decoupled = name in (None, *self.modalities)
        parts = parts_of(self.common_dim if decoupled else None, dim)
        return (parts if len(parts) > 1 else {}) | {'all': slice(0, dim)}

    def pair_parts(self, first: str, second: str) -> dict[str, slice]:
        """Return the :meth:`parts` that two embeddings of equal dimensions have."""
        return min(self.parts(first), self.parts(second), key=len)

    def no_pair(self, analysis: str) -> NotApplicable:
        """Return the error of an analysis that needs two comparable modalities."""
        return NotApplicable(
            f'{analysis} needs two modalities with the same number of dimensions, got '
            f'{ {m: z.shape[1] for m, z in self.z.items()} }'
        )

    def no_labels(self, samples: int) -> NotApplicable:
        """Return the error of an analysis that needs labels of enough samples."""
        return NotApplicable(
            'probes need labels of two or more classes in the batches (keys label*), and '
            f'more than {samples} samples, got labels {list(self.labels)} for '
            f'{len(next(iter(self.z.values())))} samples'
        )


def collect(
    model: Pretrained,
    batches: Iterable[Mapping[str, Any]],
    max_samples: int = 4096,
    seed: int = 0,
) -> Embeddings:
    """Embed a data set, and return random samples and the correlations of all samples.

    The model is in evaluation mode. Only first dates are used, without augmentation.

    Args:
        model: a self-supervised task, such as ``DeCUR``.
        batches: ``image_<m>`` of every modality in [0, 1], shape (B, C, H, W) or
            (B, T, C, H, W), on any device, and any ``label*``.
        max_samples: largest number of random samples. Each modality needs
            ``4 * max_samples * (D + F)`` bytes: 160 MB for 4096 samples, 8192 dimensions
            and 2048 features. Correlations use all samples.
        seed: seed of the random samples.

    Raises:
        ValueError: if there is no batch, or a batch lacks a modality.
    """
    modalities: dict[str, int] = dict(model.hparams['modalities'])
    common_dim: int | None = getattr(model, 'common_dim', None)
    collector = _Collector(tuple(modalities), common_dim, max_samples, seed)
    device = next(model.encoders.parameters()).device
    with eval_mode(model), torch.no_grad():
        for batch in batches:
            images = split(batch, modalities)
            first = {m: select_date(x, date=0).to(device) for m, x in images.items()}
            labels = {
                str(k): v
                for k, v in batch.items()
                if str(k).startswith('label') and isinstance(v, Tensor)
            }
            collector.update(*model.encode_and_project(first), labels)
    return collector.finish()


class _Collector:
    """Collect batches in constant memory."""

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
