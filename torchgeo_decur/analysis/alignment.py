"""Alignment of each embedding dimension across modalities."""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .embeddings import Embeddings, Pair
from .matplotlib_style import COLOURS, COLUMN, PAGE, figure_style, grid_of_panels
from .result import TITLES, AnalysisResult, Rows

#: Threshold of the loss below which a dimension counts as aligned. Its correlation then
#: exceeds 0.68.
ALIGNED = 0.1


def alignment_loss(diagonal: Tensor) -> Tensor:
    r"""Compute the cross-modal loss of each dimension.

    .. math:: L_i = (1 - C_{ii})^2

    This is Eq. 7 of Wang et al., ECCV 2024, https://arxiv.org/abs/2309.05300. The loss
    is 0 for identical, 1 for uncorrelated and 4 for opposite dimensions.

    Args:
        diagonal: correlation of each dimension across two modalities, shape (D,).

    Returns:
        The losses, shape (D,).
    """
    return (1 - diagonal).square()


def alignment_histogram(
    embeddings: Embeddings, baseline: Embeddings | None = None
) -> AnalysisResult:
    """Plot a histogram of the cross-modal loss over dimensions (DeCUR paper, Fig. 5a).

    Args:
        embeddings: embeddings with their correlations over a whole dataset.
        baseline: embeddings of the same data from another model, such as Barlow Twins.

    Returns:
        Table ``alignment`` with one row per pair of modalities and part of the
        dimensions, table ``dimensions`` with one row per dimension, and figure
        ``histogram``.

    Raises:
        NotApplicable: if no two modalities have the same number of dimensions.

    Example:
        >>> import torch
        >>> z = torch.randn(64, 4)
        >>> result = alignment_histogram(Embeddings.of({'s1': z, 's2': z}))
        >>> [(row['part'], row['mean_loss']) for row in result.tables['alignment']]
        [('all', 0.0)]
    """
    if not embeddings.diagonals:
        raise embeddings.no_pair('alignment')
    rows: list[dict[str, object]] = []
    each: list[dict[str, object]] = []
    curves: dict[Pair, dict[str, Tensor]] = {}
    for pair, diagonal in embeddings.diagonals.items():
        losses = alignment_loss(diagonal)
        parts = embeddings.pair_parts(*pair)
        curves[pair] = {part: losses[place] for part, place in parts.items()}
        for part, place in parts.items():
            rows.append(_row(pair, part, diagonal[place]))
        for i, (c, loss) in enumerate(
            zip(diagonal.tolist(), losses.tolist(), strict=True)
        ):
            part = next(p for p, s in parts.items() if s.start <= i < s.stop)
            names = {'modalities': _name(pair), 'dimension': i, 'part': part}
            each.append({**names, 'correlation': round(c, 6), 'loss': round(loss, 6)})
        if baseline is not None and pair in baseline.diagonals:
            other = baseline.diagonals[pair]
            curves[pair]['baseline'] = alignment_loss(other)
            rows.append(_row(pair, 'baseline', other))
    return AnalysisResult(
        name='alignment',
        title=TITLES['alignment'],
        text=_text(embeddings, rows),
        tables={'alignment': rows, 'dimensions': each},
        figures={'histogram': _histogram(curves)},
    )


def _name(pair: Pair) -> str:
    return ' and '.join(pair)


def _row(pair: Pair, part: str, diagonal: Tensor) -> dict[str, object]:
    losses = alignment_loss(diagonal)
    return {
        'modalities': _name(pair),
        'part': part,
        'dimensions': len(losses),
        'mean_loss': round(losses.mean().item(), 4),
        'median_loss': round(losses.median().item(), 4),
        'aligned_percent': round(100 * (losses < ALIGNED).double().mean().item(), 1),
        'mean_correlation': round(diagonal.mean().item(), 4),
    }


def _text(embeddings: Embeddings, rows: Rows) -> str:
    numbers = sorted({*embeddings.pair_numbers.values()} or {embeddings.number})
    samples = ' to '.join(map(str, dict.fromkeys((numbers[0], numbers[-1]))))
    lines = [
        f'- {r["modalities"]}, {r["part"]}: mean {r["mean_loss"]:.2f}, '
        f'{r["aligned_percent"]:.0f} % of {r["dimensions"]} below {ALIGNED}'
        for r in rows
    ]
    return (
        'The loss of a dimension is (1 - C)², where C is its correlation across the two '
        f'modalities over {samples} samples. The loss is 0 for identical and 1 for '
        'uncorrelated dimensions.\n\n' + '\n'.join(lines)
    )


def _histogram(curves: dict[Pair, dict[str, Tensor]]) -> Figure:
    columns = min(len(curves), 3)
    width = min(PAGE, COLUMN * max(columns, 1.4))
    top = max(x.max().item() for c in curves.values() for x in c.values())
    bins = np.linspace(0, max(1.2, 0.1 * np.ceil(10 * top)), 49).tolist()
    with figure_style():
        figure, axes = grid_of_panels(len(curves), columns, (width, 2.4))
        for axis, (pair, losses) in zip(axes, curves.items(), strict=True):
            for part, x in losses.items():
                other = part == 'baseline'
                # Draw `all`, the sum of common and unique, as a line over the filled
                # areas of both.
                axis.hist(
                    x.numpy(),
                    bins,
                    weights=np.full(len(x), 100 / len(x)),
                    histtype='step' if other or part == 'all' else 'stepfilled',
                    color=COLOURS['features'] if other else COLOURS[part],
                    alpha=1 if other or part == 'all' else 0.65,
                    linestyle='--' if other else '-',
                    label=part,
                )
            axis.set(
                title=f'Alignment of {_name(pair)}', xlabel='loss $(1 - C_{ii})^2$'
            )
        axes[0].set_ylabel('dimensions (%)')
        axes[0].legend()
    return figure
