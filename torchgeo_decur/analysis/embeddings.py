"""Embeddings, features and labels of a dataset, as the input of analyses."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from ..modalities import get_available, split
from ..modalities.present_samples import encode_present
from .correlation import CorrelationStream, Reservoir
from .model_interface import Pretrained, eval_with_gradients, parts_of
from .result import NotApplicable

type Pair = tuple[str, str]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of random samples from a dataset, and correlations over all samples.

    Args:
        z: embeddings by name, shape (n, D). Names are the modalities and, for some tasks,
            other embeddings such as ``joint``.
        h: features by name, shape (n, F).
        labels: labels by key, shape (n,) for classes or (n, K) for multi-label data.
        diagonals: correlation of each dimension over all samples, shape (D,), for each
            pair of embeddings with the same number of dimensions.
        modalities: names of the modalities.
        common_dim: number of common dimensions, which come first, or None if the task
            does not distinguish common and unique dimensions.
        number: number of samples in the dataset.
        available: boolean mask of the samples that have a modality, shape (n,), for
            each modality that some samples lack. Rows of samples without the modality
            are NaN.
        pair_numbers: number of samples that each correlation uses, if some samples lack
            a modality.
    """

    z: Mapping[str, Tensor]
    h: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    diagonals: Mapping[Pair, Tensor] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    common_dim: int | None = None
    number: int = 0
    available: Mapping[str, Tensor] = field(default_factory=dict)
    pair_numbers: Mapping[Pair, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        z: Mapping[str, Tensor],
        common_dim: int | None = None,
        labels: Mapping[str, Tensor] | None = None,
        h: Mapping[str, Tensor] | None = None,
        available: Mapping[str, Tensor] | None = None,
    ) -> 'Embeddings':
        """Build an instance from the embeddings of a whole dataset.

        Args:
            z: embeddings by modality, shape (N, D).
            common_dim: number of common dimensions.
            labels: labels by key.
            h: features by modality, shape (N, F).
            available: mask of the samples that have a modality, shape (N,), for each
                modality that some samples lack. Rows of samples without the modality
                are ignored.

        Example:
            >>> z = torch.rand(8, 4)
            >>> Embeddings.of({'s1': z, 's2': z}, common_dim=3).parts()
            {'common': slice(0, 3, None), 'unique': slice(3, 4, None), 'all': slice(0, 4, None)}
        """
        collector = _Collector(tuple(z), common_dim, len(next(iter(z.values()))), 0)
        collector.update(h or {}, z, labels or {}, available or {})
        return collector.finish()

    def having(self, *names: str) -> 'Embeddings':
        """Select the samples that have all modalities of the given embeddings.

        Args:
            names: names of embeddings. Embeddings such as ``joint`` exist for all
                samples; combinations such as ``s1+s2`` need all modalities.

        Returns:
            The selected samples, with unchanged correlations. If no sample is removed,
            the result is this instance.

        Example:
            >>> z = torch.rand(3, 4)
            >>> there = {'s1': torch.tensor([True, False, True])}
            >>> data = Embeddings.of({'s1': z, 's2': z}, available=there)
            >>> [len(data.having(m).z['s2']) for m in ('s1', 's2', 's1+s2')]
            [2, 3, 2]
        """
        known = {*self.z, *self.h}
        wanted = {m for n in names for m in ([n] if n in known else self.modalities)}
        masks = [there for m, there in self.available.items() if m in wanted]
        if not masks:
            return self
        kept = torch.stack(masks).all(0)

        def rows(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: x[kept] for name, x in part.items()}

        return replace(
            self,
            z=rows(self.z),
            h=rows(self.h),
            labels=rows(self.labels),
            available=rows(self.available),
        )

    @property
    def dim(self) -> int:
        """Number of dimensions D of the first embeddings."""
        return next(iter(self.z.values())).shape[1]

    def parts(self, name: str | None = None) -> dict[str, slice]:
        """Return the dimensions that belong to each part.

        Args:
            name: name of the embeddings, by default the first ones.

        Returns:
            Dimensions of the parts ``common``, ``unique`` and ``all``, or only of
            ``all`` if the embeddings are not divided.
        """
        dim = self.dim if name is None else self.z[name].shape[1]
        decoupled = name in (None, *self.modalities)
        parts = parts_of(self.common_dim if decoupled else None, dim)
        return (parts if len(parts) > 1 else {}) | {'all': slice(0, dim)}

    def pair_parts(self, first: str, second: str) -> dict[str, slice]:
        """Return the parts of dimensions that two embeddings of equal size share."""
        return min(self.parts(first), self.parts(second), key=len)

    def no_pair(self, analysis: str) -> NotApplicable:
        """Build the error for an analysis that needs two comparable modalities."""
        return NotApplicable(
            f'{analysis} needs two modalities with the same number of dimensions, got '
            f'{ {m: z.shape[1] for m, z in self.z.items()} }'
        )

    def no_labels(self, samples: int) -> NotApplicable:
        """Build the error for an analysis that needs labels of enough samples."""
        return NotApplicable(
            'probes need labels of at least two classes in the batches (keys label*), and '
            f'more than {samples} samples, got labels {list(self.labels)} for '
            f'{len(next(iter(self.z.values())))} samples'
        )


def collect(
    model: Pretrained,
    batches: Iterable[Mapping[str, Any]],
    max_samples: int = 4096,
    seed: int = 0,
) -> Embeddings:
    """Embed a dataset and return random samples with correlations over all samples.

    The model runs in evaluation mode. Only the first date of each sample is used,
    without augmentation.

    Args:
        model: a self-supervised task, such as ``DeCUR``.
        batches: batches with ``image_<m>`` of every modality in [0, 1], shape
            (B, C, H, W) or (B, T, C, H, W), on any device. They may contain ``label*``
            and, for modalities that some samples lack, ``available_<m>``, shape (B,).
        max_samples: maximum number of random samples. Each modality needs
            ``4 * max_samples * (D + F)`` bytes: 160 MiB for 4096 samples, 8192
            dimensions and 2048 features. Correlations use all samples.
        seed: seed of the random samples.

    Returns:
        The embeddings, features, labels and correlations.

    Raises:
        ValueError: if there are no batches, or a batch lacks a modality.
    """
    modalities: dict[str, int] = dict(model.hparams['modalities'])
    common_dim: int | None = getattr(model, 'common_dim', None)
    collector = _Collector(tuple(modalities), common_dim, max_samples, seed)
    # An encoder of embeddings has no parameters.
    some = next(model.encoders.parameters(), None)
    device = (next(model.projectors.parameters()) if some is None else some).device
    with eval_with_gradients(model), torch.no_grad():
        for batch in batches:
            found = split(batch, modalities, date=0)
            images = {m: x.to(device) for m, x in found.items()}
            labels = {
                str(k): v
                for k, v in batch.items()
                if str(k).startswith('label') and isinstance(v, Tensor)
            }
            available = get_available(batch, modalities)
            h, z = encode_present(model.encode_and_project, images, available)
            collector.update(h, z, labels, available)
    return collector.finish()


class _Collector:
    """Accumulator that collects batches in constant memory."""

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
        available: Mapping[str, Tensor],
    ) -> None:
        has = {m: there.cpu() for m, there in available.items()}
        for m, n in combinations(z, 2):
            if z[m].shape != z[n].shape:
                continue
            if (m, n) not in self.streams:
                self.streams[m, n] = CorrelationStream(z[m].shape[1])
            masks = [has[name] for name in (m, n) if name in has]
            both = torch.stack(masks).all(0) if masks else slice(None)
            self.streams[m, n].update(z[m].cpu()[both], z[n].cpu()[both])
        rows = {
            ('z', name): _only(x.float().cpu(), has.get(name)) for name, x in z.items()
        }
        rows |= {
            ('h', name): _only(x.float().cpu(), has.get(name)) for name, x in h.items()
        }
        rows |= {('label', key): y for key, y in labels.items()}
        rows |= {('has', m): there for m, there in has.items()}
        self.reservoir.update({f'{kind} {name}': x for (kind, name), x in rows.items()})

    def finish(self) -> Embeddings:
        rows: dict[str, dict[str, Tensor]] = {'z': {}, 'h': {}, 'label': {}, 'has': {}}
        for key, x in self.reservoir.rows().items():
            kind, _, name = key.partition(' ')
            rows[kind][name] = x
        if not rows['z']:
            raise ValueError('batches must have at least one sample, got none')
        return Embeddings(
            z=rows['z'],
            h=rows['h'],
            labels=rows['label'],
            # A correlation needs at least two samples.
            diagonals={p: s.diagonal() for p, s in self.streams.items() if s.count > 1},
            modalities=self.modalities,
            common_dim=self.common_dim,
            number=self.reservoir.count,
            available=rows['has'],
            pair_numbers={p: s.count for p, s in self.streams.items()}
            if rows['has']
            else {},
        )


def _only(x: Tensor, there: Tensor | None) -> Tensor:
    """Replace the rows of samples that lack a modality with NaN."""
    return x if there is None else x.masked_fill(~there[:, None], torch.nan)
