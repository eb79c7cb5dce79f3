"""Contribution of each modality to the prediction of labels."""

from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from math import factorial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from .classifiers import (
    Array,
    Outcome,
    halves,
    interval,
    is_number,
    resamples,
    run_probes,
)
from .embeddings import Embeddings
from .matplotlib_style import PAGE, figure_style, grid_of_panels
from .result import TITLES, AnalysisResult, NotApplicable

type Subset = tuple[str, ...]
type Row = dict[str, Any]

# Colors of the modalities, in order, from Okabe and Ito.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')


def modality_values(
    embeddings: Embeddings, labels: Sequence[str] | None = None, times: int = 500
) -> AnalysisResult:
    r"""Compute the value of each modality and the interaction of each pair for each label.

    For every subset S of the modalities, a linear probe of their features is fitted on
    one half of the samples and scored on the other. Only samples with all modalities
    are used. The score :math:`v(S)` is the balanced accuracy, or the average precision
    for multi-label data, in percent. Without any modality, it is the chance score. The
    Shapley value of a modality is its mean gain over all orders of adding modalities
    (Shapley, *A Value for n-Person Games*, 1953). The values sum to the gain of all
    modalities over chance:

    .. math:: \phi_m = \sum_{S \not\ni m} \frac{|S|! (M - |S| - 1)!}{M!}
              (v(S \cup m) - v(S)).

    The interaction of a pair m, n is the mean of :math:`v(S \cup mn) - v(S \cup m) -
    v(S \cup n) + v(S)` over all orders (Grabisch and Roubens, 1999). It is negative if
    both modalities contain the same information, and positive if the label can be
    predicted only from both together.

    The 95 % confidence intervals are percentiles over bootstrap resamples of the scored
    samples. They do not include the variation between training runs.

    Args:
        embeddings: features of at least two modalities, and labels.
        labels: keys of the labels to use, by default all.
        times: number of bootstrap resamples.

    Returns:
        Tables ``subsets`` (scores), ``values`` (Shapley values) and ``pairs``
        (interactions), and figure ``values``. Each table has rows for each class and for
        all classes together (``class`` is 'all').

    Raises:
        NotApplicable: if there are fewer than two modalities, or no class labels.
        ValueError: if a label is unknown.

    Example:
        >>> h = {'s1': torch.randn(200, 2), 's2': torch.randn(200, 2)}
        >>> data = Embeddings.of(h, h=h, labels={'label': h['s1'][:, 0] > 0})
        >>> result = modality_values(data, times=50)
        >>> value = {r['modality']: r['value'] for r in result.tables['values'][:2]}
        >>> value['s1'] > 40 > 20 > value['s2']
        True
    """
    unknown = [k for k in labels or () if k not in embeddings.labels]
    if unknown:
        raise ValueError(
            f'labels must be among {list(embeddings.labels)}, got {unknown}'
        )
    own = embeddings.having(*embeddings.modalities)
    features = {m: own.h[m] for m in own.modalities if m in own.h}
    if len(features) < 2:
        raise NotApplicable(
            f'modality values need features of at least two modalities, got {list(features)}'
        )
    subsets: list[Subset] = [
        s for size in range(1, len(features) + 1) for s in combinations(features, size)
    ]
    tables: dict[str, list[Row]] = {'subsets': [], 'values': [], 'pairs': []}
    for label, y in own.labels.items():
        if (labels and label not in labels) or is_number(y.numpy()):
            continue
        outcomes = {}
        for subset in subsets:
            x = torch.cat([features[m] for m in subset], dim=1).numpy()
            for _, outcome in run_probes(x, y.numpy(), classifiers=('linear',)):
                outcomes[subset] = outcome
        if not outcomes:
            continue
        for name, scores in _by_class(outcomes, _classes(y.numpy()), times).items():
            about = {'label': label, 'class': name}
            tables['subsets'] += [
                {**about, 'subset': '+'.join(s) or 'none', **_row('score', v)}
                for s, v in scores.items()
            ]
            tables['values'] += [
                {**about, 'modality': m, **_row('value', _shapley(scores, (m,)))}
                for m in features
            ]
            tables['pairs'] += [
                {
                    **about,
                    'first': m,
                    'second': n,
                    **_row('interaction', _shapley(scores, (m, n))),
                }
                for m, n in combinations(features, 2)
            ]
    if not tables['values']:
        raise embeddings.no_labels(10)
    return AnalysisResult(
        name='value',
        title=TITLES['value'],
        text=_text(tables, len(next(iter(features.values())))),
        tables=tables,
        figures={'values': _plot(tables['values'], list(features))},
    )


def _classes(y: Array) -> list[int]:
    """Return the classes that :func:`run_probes` scores."""
    if y.ndim == 1:
        return [int(c) for c in np.unique(y[halves(len(y))[1]])]
    train, test = halves(len(y))
    return [i for i, c in enumerate(y.T) if len(set(c[train])) > 1 and c[test].any()]


def _by_class(
    outcomes: Mapping[Subset, Outcome], classes: Sequence[int], times: int
) -> dict[str, dict[Subset, Array]]:
    """Score each subset, for all classes together and for each class.

    The first score belongs to the original samples, the others to the resamples.
    """
    first = next(iter(outcomes.values()))
    weights = np.vstack([np.ones(len(first.y)), resamples(len(first.y), times)])
    chance = np.full(len(weights), first.chance)
    found: dict[str, dict[Subset, Array]] = {'all': {(): chance}}
    found['all'] |= {s: o.score(weights) for s, o in outcomes.items()}
    for number, c in enumerate(classes):
        each: dict[Subset, Array] = {}
        for subset, o in outcomes.items():
            if o.y.ndim == 1:
                mask = o.y == c
                only = Outcome(o.y[mask], o.predicted[mask])
                each[subset] = _recall(only, weights[:, mask])
                each[()] = chance
            else:
                place = slice(number, number + 1)
                only = Outcome(
                    o.y[:, place], o.predicted.reshape(len(o.y), -1)[:, place]
                )
                each[subset] = only.score(weights)
                each[()] = np.full(len(weights), only.chance)
        found[str(c)] = each
    return found


def _recall(outcome: Outcome, weights: Array) -> Array:
    """Compute the recall in percent for an outcome with a single class."""
    hits = weights @ (outcome.y == outcome.predicted).astype(np.float64)
    recall: Array = 100 * hits / np.maximum(weights.sum(1), 1)
    return recall


def _shapley(scores: Mapping[Subset, Array], players: Subset) -> Array:
    """Compute the Shapley value of a modality, or the interaction of a pair."""
    modalities = max(scores, key=len)
    others = [m for m in modalities if m not in players]
    number, own = len(modalities), len(players)
    total = np.zeros_like(scores[()])
    for subset in _subsets(others):
        size = len(subset)
        orders = factorial(size) * factorial(number - size - own)
        weight = orders / factorial(number - own + 1)
        for part in _subsets(players):
            joined = tuple(m for m in modalities if m in (*subset, *part))
            total += weight * (-1) ** (own - len(part)) * scores[joined]
    return total


def _subsets(names: Sequence[str]) -> chain[Subset]:
    sizes = range(len(names) + 1)
    return chain.from_iterable(combinations(names, size) for size in sizes)


def _row(name: str, values: Array) -> dict[str, float]:
    numbers = {name: float(values[0]), **interval(values[1:])}
    return {k: round(v, 2) for k, v in numbers.items()}


def _text(tables: Mapping[str, Sequence[Row]], samples: int) -> str:
    def short(row: Row, name: str) -> str:
        return f'{row[name]:+.1f} [{row["low"]:+.1f}, {row["high"]:+.1f}]'

    lines = []
    for label in dict.fromkeys(r['label'] for r in tables['values']):
        own = {
            k: [r for r in rows if (r['label'], r['class']) == (label, 'all')]
            for k, rows in tables.items()
        }
        gains = [f'{r["modality"]} {short(r, "value")}' for r in own['values']]
        pairs = [
            f'{r["first"]} and {r["second"]} {short(r, "interaction")}'
            for r in own['pairs']
        ]
        whole, none = own['subsets'][-1], own['subsets'][0]
        lines.append(
            f'- {label}: {whole["score"]:.1f} with all modalities, {none["score"]:.1f} '
            f'with none; value {", ".join(gains)}; interaction of {", ".join(pairs)}'
        )
    return (
        f'Linear probes of features, fitted on one half of {samples} samples that have all '
        'modalities and scored on the other half. The value of a modality is its mean gain '
        'in percentage points over all orders of adding modalities (Shapley value). If the '
        'interaction of a pair is negative, both modalities contain the same information. '
        'If it is positive, the label can be predicted only from both together.\n\n'
        + '\n'.join(lines)
    )


def _plot(rows: Sequence[Row], modalities: Sequence[str]) -> Figure:
    labels = list(dict.fromkeys(r['label'] for r in rows))
    columns = min(len(labels), 4)
    width = 0.8 / len(modalities)
    with figure_style():
        figure, axes = grid_of_panels(
            len(labels), columns, (min(PAGE, 2.4 * columns), 2.2)
        )
        for axis, label in zip(axes, labels, strict=True):
            own = [r for r in rows if r['label'] == label]
            classes = list(dict.fromkeys(r['class'] for r in own))[:13]
            for i, m in enumerate(modalities):
                shown = [r for r in own if r['modality'] == m][: len(classes)]
                values = np.array([r['value'] for r in shown])
                ends = np.array([(r['low'], r['high']) for r in shown]).T
                axis.bar(
                    np.arange(len(shown)) + width * (i - (len(modalities) - 1) / 2),
                    values,
                    width,
                    yerr=np.maximum((values - ends[0], ends[1] - values), 0),
                    error_kw={'elinewidth': 0.8},
                    color=_COLOURS[i % len(_COLOURS)],
                    label=m,
                )
            axis.axhline(0, color='black', lw=0.8)
            axis.set(title=label, xlabel='class', xticks=range(len(classes)))
            axis.set_xticklabels(classes)
            axis.grid(axis='x', visible=False)
        axes[0].set_ylabel('value (percentage points)')
        axes[0].legend()
    return figure
