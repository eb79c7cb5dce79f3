"""Two-dimensional map of the embedding dimensions by their correlation."""

import warnings
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from torch import Tensor

from ..losses.functional import standardize
from .classifiers import Array
from .embeddings import Embeddings
from .matplotlib_style import COLOURS, COLUMN, MARKERS, figure_style
from .result import TITLES, AnalysisResult, NotApplicable

_KNOWN = {
    'pairs': 'clustered by dimension (1 if the modalities overlap)',
    'groups': 'clustered by part and modality (1 if the groups are separate)',
    'modalities': 'clustered by modality (0 if the modalities mix)',
}


@dataclass(frozen=True)
class Marks:
    """Modality, part and dimension of each point in the map.

    Args:
        name: index of the modality, shape (P,).
        part: 'common', 'unique' or 'all', shape (P,).
        dimension: index of the dimension, shape (P,).
    """

    name: Array
    part: Array
    dimension: Array


def correlation_distance(points: Array) -> Array:
    """Compute 1 minus the correlation of each pair of dimensions.

    Args:
        points: standardized values of P dimensions over n samples, shape (P, n).

    Returns:
        Distances in [0, 2], shape (P, P), float64, with 0 for identical and 1 for
        uncorrelated dimensions.
    """
    x = points.astype(np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    distance: Array = np.clip(1 - x @ x.T, 0, 2)
    np.fill_diagonal(distance, 0)
    return distance


def dimension_map(
    embeddings: Embeddings, max_points: int = 1024, seed: int = 0
) -> AnalysisResult:
    r"""Map embedding dimensions to points (DeCUR paper, Fig. 1) and score the clusters.

    A dimension is represented by its standardized values over the samples. t-SNE places
    correlated dimensions close together. Silhouettes measure how well clusters are
    separated:

    .. math:: s = \frac{b - a}{\max(a, b)}

    where a is the mean distance of a point to its own cluster, and b its mean distance
    to the nearest other cluster. The value is 1 for tight, distant clusters, and 0
    without clusters. There are three kinds of clusters:

    - ``pairs``: the same dimension in all modalities. Common dimensions should overlap.
    - ``groups``: the common dimensions, and the unique dimensions of each modality.
      These groups should be separate.
    - ``modalities``: the modalities, computed separately for common and unique
      dimensions.

    Silhouettes are computed twice: for the dimensions with the distance :math:`1 - r`,
    where r is their correlation, and for the map with the Euclidean distance.

    Args:
        embeddings: embeddings of two or more modalities.
        max_points: maximum number of points. All modalities show the same dimensions,
            evenly spaced over the common and the unique dimensions.
        seed: random seed of t-SNE.

    Returns:
        Tables ``silhouettes`` and ``points``, and figure ``tsne``.

    Raises:
        NotApplicable: if no two modalities have the same number of dimensions, or there
            are fewer than two dimensions or fewer than three samples.
    """
    names = [
        m for m in embeddings.modalities if embeddings.z[m].shape[1] == embeddings.dim
    ]
    embeddings = embeddings.having(*names)
    chosen = _choose(embeddings, max_points // max(len(names), 1))
    if len(names) < 2 or len(chosen) < 2 or len(embeddings.z[names[0]]) < 3:
        raise NotApplicable(
            'the map needs two modalities with the same number of dimensions, at least two '
            'dimensions and at least three samples, got '
            f'{[tuple(z.shape) for z in embeddings.z.values()]}'
        )
    points = np.concatenate([_points(embeddings.z[m], chosen) for m in names])
    place = np.tile(chosen.numpy(), len(names))
    parts = embeddings.parts()
    known = [next(p for p, s in parts.items() if s.start <= i < s.stop) for i in place]
    number = np.repeat(np.arange(len(names)), len(chosen))
    marks = Marks(number, np.array(known), place)
    # The Barnes-Hut method would separate coinciding points, such as aligned
    # dimensions.
    tsne = TSNE(
        perplexity=min(30, (len(points) - 1) / 4),
        init='pca',
        method='exact',
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Identical dimensions have no principal components.
        warnings.simplefilter('ignore', RuntimeWarning)
        picture = tsne.fit_transform(points)
    spaces = {
        'dimensions': correlation_distance(points),
        'picture': np.linalg.norm(picture[:, None] - picture[None], axis=2),
    }
    rows = [
        {'space': space, **row}
        for space, distance in spaces.items()
        for row in silhouettes(distance, marks)
    ]
    drawn = [
        {
            'modality': names[marks.name[i]],
            'dimension': int(place[i]),
            'part': known[i],
            'x': round(float(x), 3),
            'y': round(float(y), 3),
        }
        for i, (x, y) in enumerate(picture)
    ]
    return AnalysisResult(
        name='dimensions',
        title=TITLES['dimensions'],
        text=_text(rows, len(chosen), embeddings),
        tables={'silhouettes': rows, 'points': drawn},
        figures={'tsne': _plot(picture, marks, names)},
    )


def silhouettes(distance: Array, marks: Marks) -> list[dict[str, Any]]:
    """Compute the mean silhouette of each part, for each kind of cluster.

    Args:
        distance: pairwise distances of the points, shape (P, P).
        marks: modality, part and dimension of each point.

    Returns:
        One row per kind of cluster and part.
    """
    rows: list[dict[str, Any]] = []
    parts = list(dict.fromkeys(marks.part.tolist()))
    kinds = {'pairs': marks.dimension}
    if len(parts) > 1:
        # Use one cluster for common dimensions, and one per modality for unique
        # dimensions.
        kinds['groups'] = np.where(marks.part == 'common', -1, marks.name)
    for kind, clusters in kinds.items():
        each = silhouette_samples(distance, clusters, metric='precomputed')
        rows += [_row(kind, part, each[marks.part == part]) for part in parts]
    for part in parts:
        among = np.flatnonzero(marks.part == part)
        if len(among) > len(set(marks.name[among])):
            inside = distance[np.ix_(among, among)]
            each = silhouette_samples(inside, marks.name[among], metric='precomputed')
            rows.append(_row('modalities', part, each))
    return rows


def _row(kind: str, part: str, each: Array) -> dict[str, Any]:
    mean = round(float(each.mean()), 4)
    return {'clusters': kind, 'part': part, 'silhouette': mean, 'points': len(each)}


def _choose(embeddings: Embeddings, number: int) -> Tensor:
    """Choose evenly spaced dimensions of each part, in proportion to its size."""
    dim = embeddings.dim
    if number >= dim:
        return torch.arange(dim)
    parts = {p: s for p, s in embeddings.parts().items() if p != 'all'}
    spans = list(parts.values()) or [slice(0, dim)]
    taken = []
    for span in spans:
        size = span.stop - span.start
        share = min(size, max(1, round(number * size / dim)))
        steps = torch.linspace(span.start, span.stop - 1, share, dtype=torch.float64)
        taken.append(steps.round().long())
    return torch.cat(taken)


def _points(z: Tensor, chosen: Tensor) -> Array:
    points: Array = standardize(z[:, chosen].double()).T.float().numpy()
    return points


def _text(rows: list[dict[str, Any]], dimensions: int, embeddings: Embeddings) -> str:
    samples = len(next(iter(embeddings.z.values())))
    lines = []
    for kind, what in _KNOWN.items():
        for part in dict.fromkeys(r['part'] for r in rows):
            found = {
                r['space']: r['silhouette']
                for r in rows
                if (r['clusters'], r['part']) == (kind, part)
            }
            if found:
                lines.append(
                    f'- {part} dimensions, {what}: {found["dimensions"]:.2f}, and '
                    f'{found["picture"]:.2f} in the map'
                )
    return (
        f'Each point is one of {dimensions} dimensions of a modality, over {samples} '
        'samples. Correlated dimensions are close together. Silhouettes are 1 for tight, '
        'distant clusters, 0 without clusters, and negative for points nearer to another '
        'cluster. The first value uses the distance 1 - r, where r is the correlation, '
        'and the second the distance in the map:\n\n' + '\n'.join(lines)
    )


def _plot(picture: Array, marks: Marks, names: list[str]) -> Figure:
    with figure_style():
        figure, axis = plt.subplots(figsize=(1.4 * COLUMN, 1.15 * COLUMN))
        for number, name in enumerate(names):
            marker = MARKERS[number % len(MARKERS)]
            for part in dict.fromkeys(marks.part):
                among = (marks.name == number) & (marks.part == part)
                axis.scatter(
                    picture[among, 0],
                    picture[among, 1],
                    s=12,
                    marker=marker,
                    facecolors='none' if number == 0 else COLOURS[part],
                    edgecolors=COLOURS[part],
                    linewidths=0.7,
                    alpha=0.8,
                    label=f'{part}, {name}',
                )
        axis.legend(loc='upper left', bbox_to_anchor=(1, 1))
        axis.set(title='Embedding dimensions', xlabel='t-SNE 1', ylabel='t-SNE 2')
        axis.set_xticks([])
        axis.set_yticks([])
    return figure
