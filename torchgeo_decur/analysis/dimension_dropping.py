"""What is lost with the dimensions that are aligned best."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .classifiers import Classifier, interval, resamples, run_probes
from .embeddings import Embeddings
from .matplotlib_style import COLOURS, PAGE, figure_style
from .result import AnalysisResult, NotApplicable, Rows

#: Shares of the dimensions that are dropped.
SHARES = (0.0, 0.25, 0.5, 0.75, 0.875)


def alignment_of(embeddings: Embeddings, name: str) -> Tensor:
    """Mean correlation of each dimension of a modality with itself in the others.

    Args:
        embeddings: embeddings, with their correlations.
        name: name of the modality.

    Returns:
        The means, shape (D,).

    Raises:
        NotApplicable: if no other modality has as many dimensions.
    """
    found = [
        d
        for pair, d in embeddings.diagonals.items()
        if name in pair and set(pair) <= set(embeddings.modalities)
    ]
    if not found:
        raise NotApplicable(
            f'{name}: alignment needs another modality with as many dimensions, got '
            f'{ {m: z.shape[1] for m, z in embeddings.z.items()} }'
        )
    return torch.stack(found).mean(dim=0)


def dropped_dimensions(
    embeddings: Embeddings,
    shares: Sequence[float] = SHARES,
    classifier: Classifier = 'linear',
    k: int = 5,
    times: int = 1000,
    seed: int = 0,
) -> AnalysisResult:
    """Probe what is left of each modality without its most aligned dimensions.

    What falls faster than with as many dimensions at random was held by those that are
    aligned; what falls more slowly was held by the others.

    Args:
        embeddings: embeddings, their correlations, and labels.
        shares: shares of the dimensions to drop, in [0, 1).
        classifier: 'knn' or 'linear'.
        k: number of nearest neighbours.
        times: number of bootstrap resamples, for intervals of 95 %.
        seed: seed of the random order.

    Returns:
        Table ``dropped``; figure ``dropped``.

    Raises:
        NotApplicable: if there are no labels that can be probed, or no correlations.
        ValueError: if a share is out of range.
    """
    if not all(0 <= share < 1 for share in shares):
        raise ValueError(f'shares must be in [0, 1), got {list(shares)}')
    rows: list[dict[str, Any]] = []
    for name in embeddings.modalities:
        z = embeddings.z[name]
        random = torch.Generator().manual_seed(seed)
        orders = {
            'most aligned': alignment_of(embeddings, name).argsort(descending=True),
            'at random': torch.randperm(z.shape[1], generator=random),
        }
        for label, y in embeddings.labels.items():
            for dropped, order in orders.items():
                for share in shares:
                    number = round(share * len(order))
                    x = z[:, order[number:]].numpy()
                    for _, outcome in run_probes(x, y.numpy(), k, (classifier,)):
                        again = outcome.score(resamples(len(outcome.y), times))
                        low, high = interval(again)
                        row: dict[str, Any] = {
                            'label': label,
                            'modality': name,
                            'dropped': dropped,
                            'dimensions_dropped': number,
                            'left': x.shape[1],
                            'score': round(float(outcome.score()[0]), 2),
                            'low': round(low, 2),
                            'high': round(high, 2),
                            'chance': round(outcome.chance, 2),
                            'metric': outcome.metric,
                        }
                        rows.append(row)
    if not rows:
        raise NotApplicable(
            'probes need labels of two or more classes in the batches (keys label*), got '
            f'labels {list(embeddings.labels)}'
        )
    return AnalysisResult(
        name='dropping',
        title='Without the most aligned dimensions',
        text=(
            f'Score of a {classifier} probe on what is left when the dimensions most '
            'aligned with the other modality are dropped, against as many dropped at '
            'random, with intervals of 95 % over resamples of the scored samples. A label '
            'that falls faster than at random is held by aligned dimensions; one that '
            'falls more slowly, by the others.'
        ),
        tables={'dropped': rows},
        figures={'dropped': _plot(rows, classifier)},
    )


def _plot(rows: Rows, classifier: str) -> Figure:
    labels = list(dict.fromkeys(r['label'] for r in rows))
    names = list(dict.fromkeys(r['modality'] for r in rows))
    # Aligned dimensions are the common ones of an ideal model.
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
                    axis.errorbar(
                        [r['dimensions_dropped'] for r in curve],
                        [r['score'] for r in curve],
                        (
                            [max(r['score'] - r['low'], 0) for r in curve],
                            [max(r['high'] - r['score'], 0) for r in curve],
                        ),
                        marker='o',
                        color=colour,
                        linestyle='-' if dropped == 'most aligned' else '--',
                        elinewidth=1,
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
