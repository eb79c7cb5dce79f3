"""Cross-modal retrieval and effective rank of embeddings."""

from itertools import permutations
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from ..losses.functional import effective_rank, standardize
from .classifiers import Array, interval, resamples
from .embeddings import Embeddings
from .matplotlib_style import COLOURS, COLUMN, PAGE, figure_style, grid_of_panels
from .result import TITLES, AnalysisResult, Rows

#: Numbers k of nearest samples for recall at k.
AT = (1, 5, 10)


def retrieval_hits(
    query: Tensor, gallery: Tensor, at: tuple[int, ...] = AT, chunk: int = 1024
) -> Tensor:
    """Compute the probability that each query retrieves its sample in another modality.

    The similarity is the cosine of standardized embeddings. Ties count with the
    probability of a hit in random order so that constant embeddings score at chance.

    Args:
        query: embeddings of one modality, shape (N, D).
        gallery: embeddings of the same samples in another modality, shape (N, D).
        at: numbers k of nearest samples.
        chunk: number of queries to process at once.

    Returns:
        Probability of a hit for each query and each k, shape (N, ``len(at)``).

    Example:
        >>> z = torch.eye(4)
        >>> retrieval_hits(z, z).mean(dim=0).tolist()
        [1.0, 1.0, 1.0]
        >>> retrieval_hits(torch.ones(4, 2), torch.ones(4, 2), at=(1, 2)).mean(dim=0).tolist()
        [0.25, 0.5]
    """
    a, b = (normalize(standardize(x.double()), dim=1) for x in (query, gallery))
    ks = torch.tensor(at, dtype=torch.float64)
    hits = []
    for start in range(0, len(a), chunk):
        near = a[start : start + chunk] @ b.T
        own = near.diagonal(start)[:, None]
        # The tolerance prevents rounding errors from breaking ties.
        closer = (near > own + 1e-9).sum(dim=1, keepdim=True)
        equal = ((near - own).abs() <= 1e-9).sum(dim=1, keepdim=True)
        hits.append(((ks - closer) / equal).clamp(0, 1))
    return torch.cat(hits)


def cross_modal_retrieval(embeddings: Embeddings, times: int = 1000) -> AnalysisResult:
    """Retrieve each sample of one modality among the samples of every other modality.

    Args:
        embeddings: embeddings of at least two modalities.
        times: number of bootstrap resamples of the queries for 95 % confidence
            intervals.

    Returns:
        Table ``retrieval`` with recall at 1, 5 and 10 in percent, by direction and
        part, and figure ``recall``.

    Raises:
        NotApplicable: if no two modalities have the same number of dimensions.
    """
    rows: list[dict[str, Any]] = []
    for m, n in permutations(embeddings.z, 2):
        common = embeddings.having(m, n)
        a, b = common.z[m], common.z[n]
        if a.shape != b.shape or len(a) < 2:
            continue
        weights = resamples(len(a), times) / len(a)
        for part, place in embeddings.pair_parts(m, n).items():
            hits = 100 * retrieval_hits(a[:, place], b[:, place]).numpy()
            again = weights @ hits
            row: dict[str, Any] = {'from': m, 'to': n, 'part': part}
            for i, k in enumerate(AT):
                row[f'recall_{k}'] = round(float(hits[:, i].mean()), 2)
                ends = interval(again[:, i])
                row |= {f'{name}_{k}': round(end, 2) for name, end in ends.items()}
            rows.append(row | {'samples': len(a)})
    if not rows:
        raise embeddings.no_pair('retrieval')
    number = min(r['samples'] for r in rows)
    most = max(r['samples'] for r in rows)
    samples = str(number) if number == most else f'{number} to {most}'
    chance = ', '.join(f'{100 * min(k / number, 1):.2g}' for k in AT)
    lines = [
        f'- {r["from"]} to {r["to"]}, {r["part"]}: '
        + ', '.join(f'{r[f"recall_{k}"]:.1f}' for k in AT)
        for r in rows
    ]
    return AnalysisResult(
        name='retrieval',
        title=TITLES['retrieval'],
        text=(
            f'Each of {samples} samples in one modality is retrieved from all samples in '
            'the other modality, by the cosine similarity of standardized embeddings. '
            'Recall is the percentage of samples found among the nearest 1, 5 and 10; '
            f'chance is {chance}. Recall decreases with the number of samples, so compare '
            'it only for equal numbers.\n\n' + '\n'.join(lines)
        ),
        tables={'retrieval': rows},
        figures={'recall': _plot(rows)},
    )


def effective_ranks(embeddings: Embeddings) -> AnalysisResult:
    """Compute the effective rank of embeddings and features.

    The effective rank is RankMe (``losses.functional.effective_rank``). It cannot
    exceed the number of samples.

    Args:
        embeddings: embeddings and features.

    Returns:
        Table ``ranks`` with one row per name and part, and figure ``ranks``.

    Example:
        >>> result = effective_ranks(Embeddings.of({'s1': torch.eye(4)}))
        >>> round(result.tables['ranks'][0]['rank'])
        4
    """
    rows: list[dict[str, Any]] = []
    for name in embeddings.z:
        z = embeddings.having(name).z[name]
        parts = {p: z[:, place] for p, place in embeddings.parts(name).items()}
        rows += [_rank(name, part, x) for part, x in parts.items() if len(x)]
    own = {name: embeddings.having(name).h[name] for name in embeddings.h}
    rows += [_rank(name, 'features', h) for name, h in own.items() if len(h)]
    return AnalysisResult(
        name='rank',
        title=TITLES['rank'],
        text=(
            f'Effective rank (RankMe) over {rows[0]["samples"]} samples. It cannot exceed '
            'the number of dimensions or samples. A rank near 1 indicates collapse.'
        ),
        tables={'ranks': rows},
        figures={'ranks': _plot_ranks(rows)},
    )


def _rank(name: str, part: str, x: Tensor) -> dict[str, Any]:
    rank = effective_rank(x).item()
    return {
        'name': name,
        'part': part,
        'rank': round(rank, 2),
        'dimensions': x.shape[1],
        'percent_of_dimensions': round(100 * rank / x.shape[1], 1),
        'samples': len(x),
    }


def _plot(rows: Rows) -> Figure:
    ways = list(dict.fromkeys((r['from'], r['to']) for r in rows))
    columns = min(len(ways), 3)
    with figure_style():
        figure, axes = grid_of_panels(
            len(ways), columns, (min(PAGE, 2.4 * columns), 2.2)
        )
        for axis, (m, n) in zip(axes, ways, strict=True):
            for r in (r for r in rows if (r['from'], r['to']) == (m, n)):
                recall = np.array([r[f'recall_{k}'] for k in AT])
                ends = np.array([[r[f'low_{k}'], r[f'high_{k}']] for k in AT]).T
                span: Array = np.abs(ends - recall)
                axis.errorbar(
                    AT,
                    recall,
                    span,
                    marker='o',
                    color=COLOURS[r['part']],
                    elinewidth=1,
                    label=r['part'],
                )
            number = next(r['samples'] for r in rows if (r['from'], r['to']) == (m, n))
            chance = [100 * min(k / number, 1) for k in AT]
            axis.plot(AT, chance, color='black', ls=':', lw=1, label='chance')
            axis.set(title=f'From {m} to {n}', xlabel='nearest samples k', xticks=AT)
        axes[0].set_ylabel('recall at k (%)')
        axes[0].legend()
    return figure


def _plot_ranks(rows: Rows) -> Figure:
    names = list(dict.fromkeys(r['name'] for r in rows))
    parts = [p for p in COLOURS if any(r['part'] == p for r in rows)]
    with figure_style():
        figure, axis = plt.subplots(figsize=(1.4 * COLUMN, 2.3))
        for number, part in enumerate(parts):
            mine = [r for r in rows if r['part'] == part]
            shift = 0.2 * (number - (len(parts) - 1) / 2)
            bars = axis.bar(
                [names.index(r['name']) + shift for r in mine],
                [r['rank'] for r in mine],
                width=0.18,
                color=COLOURS[part],
                label=part,
            )
            axis.bar_label(bars, fmt='%.0f', fontsize=6.5)
        axis.set(title='Effective rank', ylabel='rank', xticks=range(len(names)))
        axis.set_xticklabels(names)
        axis.grid(axis='x', visible=False)
        axis.legend(loc='upper left', bbox_to_anchor=(1, 1))
    return figure
