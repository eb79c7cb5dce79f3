"""How well each embedding dimension is aligned across modalities."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .embeddings import Embeddings, Pair
from .matplotlib_style import COLOURS, COLUMN, PAGE, figure_style
from .result import AnalysisResult, NotApplicable, Rows

#: Dimensions with a smaller loss are called aligned: correlated by more than 0.68.
ALIGNED = 0.1


def alignment_loss(diagonal: Tensor) -> Tensor:
    r"""Cross-modal loss of each dimension.

    .. math:: L_i = (1 - C_{ii})^2

    It is Eq. 7 of Wang et al., ECCV 2024, https://arxiv.org/abs/2309.05300: 0 for a
    dimension that is the same in both modalities, 1 for one that is uncorrelated, 4 for
    one that is opposite.

    Args:
        diagonal: correlation of each dimension with itself, shape (D,).

    Returns:
        The losses, shape (D,).
    """
    return (1 - diagonal).square()


def alignment_histogram(
    embeddings: Embeddings, baseline: Embeddings | None = None
) -> AnalysisResult:
    """Show how the cross-modal loss is spread over the dimensions, as in Fig. 5a.

    Args:
        embeddings: embeddings, with the correlations over a whole data set.
        baseline: embeddings of another model, such as Barlow Twins, of the same data.

    Returns:
        Tables ``alignment``, for each pair of modalities and each part of the dimensions,
        and ``dimensions``, for each dimension; figure ``histogram``.

    Raises:
        NotApplicable: if there are no two modalities with as many dimensions.

    Example:
        >>> import torch
        >>> z = torch.randn(64, 4)
        >>> finding = alignment_histogram(Embeddings.of({'s1': z, 's2': z}))
        >>> [(row['part'], row['mean_loss']) for row in finding.tables['alignment']]
        [('all', 0.0)]
    """
    if not embeddings.diagonals:
        raise NotApplicable(
            'alignment needs two modalities with as many dimensions, got '
            f'{ {m: z.shape[1] for m, z in embeddings.z.items()} }'
        )
    rows: list[dict[str, object]] = []
    each: list[dict[str, object]] = []
    curves: dict[Pair, dict[str, Tensor]] = {}
    for pair, diagonal in embeddings.diagonals.items():
        losses = alignment_loss(diagonal)
        parts = _parts(embeddings, pair)
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
        title='Alignment of embedding dimensions',
        text=_text(embeddings, rows),
        tables={'alignment': rows, 'dimensions': each},
        figures={'histogram': _histogram(curves)},
    )


def _parts(embeddings: Embeddings, pair: Pair) -> dict[str, slice]:
    m, n = (embeddings.parts(name) for name in pair)
    return m if len(m) < len(n) else n


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
    lines = [
        f'- {r["modalities"]}, {r["part"]}: mean {r["mean_loss"]:.2f}, '
        f'{r["aligned_percent"]:.0f} % of {r["dimensions"]} below {ALIGNED}'
        for r in rows
    ]
    return (
        'The loss of a dimension is (1 - C)², with C its correlation with the same '
        f'dimension of the other modality, over {embeddings.number} samples: 0 where both '
        'modalities say the same, 1 where they have nothing to do with each other.\n\n'
        + '\n'.join(lines)
    )


def _histogram(curves: dict[Pair, dict[str, Tensor]]) -> Figure:
    columns = min(len(curves), 3)
    lines = -(-len(curves) // columns)
    width = min(PAGE, COLUMN * max(columns, 1.4))
    top = max(x.max().item() for c in curves.values() for x in c.values())
    bins = np.linspace(0, max(1.2, 0.1 * np.ceil(10 * top)), 49)
    with figure_style():
        figure, axes = plt.subplots(
            lines, columns, figsize=(width, 2.4 * lines), squeeze=False, sharey=True
        )
        for axis in axes.flat[len(curves) :]:
            axis.set_axis_off()
        for axis, (pair, losses) in zip(axes.flat, curves.items(), strict=False):
            for part, x in losses.items():
                other = part == 'baseline'
                # `all` is the sum of the two before it: a line over their areas.
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
        axes[0, 0].set_ylabel('share of the dimensions (%)')
        axes[0, 0].legend()
    return figure
