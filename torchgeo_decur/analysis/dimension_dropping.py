"""Probes of embeddings without their most aligned dimensions."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .classifiers import Classifier, resamples, run_probes
from .embeddings import Embeddings
from .matplotlib_style import COLOURS, PAGE, figure_style, plot_scores
from .result import TITLES, AnalysisResult, Rows

#: Default fractions of the dimensions to drop.
SHARES = (0.0, 0.25, 0.5, 0.75, 0.875)


def alignment_of(embeddings: Embeddings, name: str) -> Tensor:
    """Compute the mean correlation of each dimension with the other modalities.

    Args:
        embeddings: embeddings with their correlations.
        name: name of the modality.

    Returns:
        Mean correlations, shape (D,).

    Raises:
        NotApplicable: if no other modality has the same number of dimensions.
    """
    found = [
        d
        for pair, d in embeddings.diagonals.items()
        if name in pair and set(pair) <= set(embeddings.modalities)
    ]
    if not found:
        raise embeddings.no_pair(f'dropping dimensions of {name}')
    return torch.stack(found).mean(dim=0)


def dropped_dimensions(
    embeddings: Embeddings,
    shares: Sequence[float] = SHARES,
    classifier: Classifier = 'linear',
    k: int = 5,
    times: int = 1000,
    seed: int = 0,
) -> AnalysisResult:
    """Probe the embeddings of each modality without its most aligned dimensions.

    The baseline drops random dimensions. If the score of a label falls faster than this
    baseline, aligned dimensions encode the label. If it falls more slowly, other
    dimensions encode it.

    Args:
        embeddings: embeddings with their correlations and labels.
        shares: fractions of the dimensions to drop, in [0, 1).
        classifier: 'knn' or 'linear'.
        k: number of nearest neighbors.
        times: number of bootstrap resamples for 95 % confidence intervals.
        seed: seed of the random order in the baseline.

    Returns:
        Table ``dropped`` with one row per score, and figure ``dropped``.

    Raises:
        NotApplicable: if there are no correlations, or no labels that can be probed.
        ValueError: if a fraction is out of range.
    """
    if not all(0 <= share < 1 for share in shares):
        raise ValueError(f'shares must be in [0, 1), got {list(shares)}')
    rows: list[dict[str, Any]] = []
    for name in embeddings.modalities:
        own = embeddings.having(name)
        z = own.z[name]
        random = torch.Generator().manual_seed(seed)
        orders = {
            'most aligned': alignment_of(embeddings, name).argsort(descending=True),
            'at random': torch.randperm(z.shape[1], generator=random),
        }
        for label, y in own.labels.items():
            for dropped, order in orders.items():
                for share in shares:
                    number = round(share * len(order))
                    x = z[:, order[number:]].numpy()
                    for _, outcome in run_probes(x, y.numpy(), k, (classifier,)):
                        again = outcome.score(resamples(len(outcome.y), times))
                        rows.append(
                            {
                                'label': label,
                                'modality': name,
                                'dropped': dropped,
                                'dimensions_dropped': number,
                                'left': x.shape[1],
                                **outcome.summary(again),
                            }
                        )
    if not rows:
        raise embeddings.no_labels(2 * k)
    return AnalysisResult(
        name='dropping',
        title=TITLES['dropping'],
        text=(
            f'Score of a {classifier} probe without the dimensions that are most aligned '
            'with the other modality, compared with dropping the same number at random. '
            'The 95 % intervals are over resamples of the scored samples. If the score of a '
            'label falls faster than at random, aligned dimensions encode this label. If '
            'it falls more slowly, other dimensions encode this label.'
        ),
        tables={'dropped': rows},
        figures={'dropped': _plot(rows, classifier)},
    )


def _plot(rows: Rows, classifier: str) -> Figure:
    labels = list(dict.fromkeys(r['label'] for r in rows))
    names = list(dict.fromkeys(r['modality'] for r in rows))
    # Ideally, the aligned dimensions are the common ones.
    colours = {'most aligned': COLOURS['common'], 'at random': COLOURS['features']}
    with figure_style():
        figure, axes = plt.subplots(
            len(labels),
            len(names),
            figsize=(PAGE, 1.9 * len(labels)),
            squeeze=False,
            sharex='col',
            sharey=True,
        )
        for i, label in enumerate(labels):
            for j, name in enumerate(names):
                axis = axes[i, j]
                mine = [r for r in rows if (r['label'], r['modality']) == (label, name)]
                for dropped, colour in colours.items():
                    curve = [r for r in mine if r['dropped'] == dropped]
                    plot_scores(
                        axis,
                        [r['dimensions_dropped'] for r in curve],
                        curve,
                        marker='o',
                        color=colour,
                        linestyle='-' if dropped == 'most aligned' else '--',
                        label=f'{dropped} dropped',
                    )
                if mine:
                    chance = mine[0]['chance']
                    axis.axhline(chance, color='black', ls=':', lw=1, label='chance')
                axis.set_title(f'{label} in {name}, {classifier} probe')
            axes[i, 0].set_ylabel('score (%)')
        for axis in axes[-1]:
            axis.set_xlabel('dimensions dropped')
        axes[0, 0].legend()
    return figure
