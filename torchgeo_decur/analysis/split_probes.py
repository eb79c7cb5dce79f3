"""Probes fitted on one split of a dataset and scored on another."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .classifiers import Array, Classifier, is_number, resamples, run_probes
from .embeddings import Embeddings
from .probes import parts_by_name

#: Name of the combined features of all modalities, as used by transfer tasks.
TOGETHER = 'together'


def probe_splits(
    fit: Embeddings,
    score: Embeddings,
    fractions: Sequence[float] = (1.0,),
    classifiers: Sequence[Classifier] = ('linear',),
    labels: Sequence[str] | None = None,
    k: int = 5,
    times: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Probe the parts and features of each modality, and of all modalities together.

    ``together`` is the input of a multimodal classifier: the joint features if the task
    has them, otherwise the concatenated features of all modalities. Each input is
    probed on the samples that have this input.

    Args:
        fit: embeddings of the split to fit on.
        score: embeddings of the split to score, from the same task.
        fractions: fractions of the samples to fit on, the same for all classes.
        classifiers: names of the probes, 'knn', 'linear' or both.
        labels: keys of the labels to probe, by default all.
        k: number of nearest neighbors.
        times: number of bootstrap resamples of the scored samples.
        seed: random seed of the fractions.

    Returns:
        One row per label, name, part, fraction and classifier. A row contains the score
        in percent, its 95 % confidence interval over resamples, the chance score, the
        metric, and the numbers of dimensions and samples.

    Raises:
        NotApplicable: if there are no labels that can be probed.
        ValueError: if a fraction is not in (0, 1], or a label is unknown.

    Example:
        >>> z = torch.randn(64, 4)
        >>> data = Embeddings.of({'s1': z}, labels={'label': z[:, 0] > 0}, h={'s1': z})
        >>> rows = probe_splits(data, data, times=10)
        >>> [(row['name'], row['part']) for row in rows]
        [('s1', 'all'), ('s1', 'features'), ('together', 'features')]
    """
    if wrong := [f for f in fractions if not 0 < f <= 1]:
        raise ValueError(f'fractions must be in (0, 1], got {wrong[0]}')
    chosen = list(fit.labels) if labels is None else list(labels)
    if unknown := [key for key in chosen if key not in fit.labels]:
        raise ValueError(f'labels must be among {list(fit.labels)}, got {unknown[0]!r}')
    keys = list(_inputs(fit))
    own = {name: _own(fit, score, name) for name, _ in keys}
    rows = []
    for label, fraction in product(chosen, fractions):
        for name, part in keys:
            parts = [_inputs(e)[name, part] for e in own[name]]
            x = torch.cat(parts).numpy()
            y = np.concatenate([e.labels[label].numpy() for e in own[name]])
            fitted = len(parts[0])
            train, test = _share(y[:fitted], fraction, seed), np.arange(fitted, len(y))
            probes = run_probes(x, y, k, tuple(classifiers), (train, test))
            for classifier, outcome in probes:
                resampled = outcome.score(resamples(len(test), times))
                rows.append(
                    {
                        'label': label,
                        'name': name,
                        'part': part,
                        'fraction': fraction,
                        'classifier': classifier,
                        'dimensions': x.shape[1],
                        'fitted': len(train),
                        **outcome.summary(resampled, digits=None),
                    }
                )
    if not rows:
        raise fit.no_labels(k)
    return rows


def _own(fit: Embeddings, score: Embeddings, name: str) -> list[Embeddings]:
    """Return the samples that have the input of a probe, for both splits."""
    needs = 'joint' if name == TOGETHER and 'joint' in fit.h else name
    return [e.having(needs) for e in (fit, score)]


def _inputs(embeddings: Embeddings) -> dict[tuple[str, str], Tensor]:
    h = embeddings.h
    names = ['joint'] if 'joint' in h else list(h)
    found = {
        (name, part): x
        for name, parts in parts_by_name(embeddings).items()
        for part, x in parts.items()
    }
    if names:
        found[TOGETHER, 'features'] = torch.cat([h[name] for name in names], dim=1)
    return found


def _share(y: Array, fraction: float, seed: int) -> Array:
    """Draw random indices of a fraction of each class, with at least one sample."""
    order = np.random.default_rng(seed).permutation(len(y))
    if y.ndim == 2 or fraction == 1 or is_number(y):
        return order[: max(1, round(fraction * len(y)))]
    kept = []
    for c in np.unique(y):
        mine = order[y[order] == c]
        kept.append(mine[: max(1, round(fraction * len(mine)))])
    return np.concatenate(kept)
