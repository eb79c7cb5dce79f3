"""Probes of common and unique dimensions."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .classifiers import CLASSIFIERS, Array, Classifier, interval, resamples, run_probes
from .embeddings import Embeddings
from .matplotlib_style import COLOURS, PAGE, figure_style, grid_of_panels, plot_scores
from .result import TITLES, AnalysisResult, Rows

#: Name of a subset of the larger part (common or unique) with as many dimensions as the
#: smaller part.
MATCHED = 'matched'
PARTS = ('common', 'unique', MATCHED, 'all', 'features')

type Row = dict[str, Any]


def probe_parts(
    embeddings: Embeddings,
    k: int = 5,
    classifiers: Sequence[Classifier] = CLASSIFIERS,
    times: int = 1000,
) -> AnalysisResult:
    """Probe the common, unique and all dimensions of embeddings, and the features.

    The inputs are each modality, all modalities concatenated, and other embeddings of
    the task. The probes are a nearest-neighbor classifier and logistic regression. They
    are fitted on one half of the samples and scored on the other half, as in
    :class:`~torchgeo_decur.callbacks.OnlineProbe`. A modality is probed on the samples
    that have this modality.

    The 95 % confidence intervals are percentiles over bootstrap resamples of the scored
    samples. They do not include the variation between training runs. Common and unique
    dimensions are compared on the same resamples. A second comparison uses equal
    numbers of dimensions, because more dimensions usually score higher.

    Args:
        embeddings: embeddings, features and labels.
        k: number of nearest neighbors.
        classifiers: names of the probes, 'knn', 'linear' or both.
        times: number of bootstrap resamples.

    Returns:
        Table ``probes`` with scores in percent, and figure ``probes``. If there are
        common and unique dimensions, the table ``differences`` compares them.

    Raises:
        NotApplicable: if there are no labels that can be probed.

    Example:
        >>> z = torch.randn(64, 4)
        >>> data = Embeddings.of({'s1': z, 's2': -z}, labels={'label': z[:, 0] > 0})
        >>> result = probe_parts(data, classifiers=['linear'], times=10)
        >>> [(row['name'], row['part'], row['metric']) for row in result.tables['probes']][-1]
        ('s1+s2', 'all', 'balanced accuracy')
    """
    rows: list[Row] = []
    differences: list[Row] = []
    inputs = {name: embeddings.having(name) for name in parts_by_name(embeddings)}
    for label in embeddings.labels:
        for name, own in inputs.items():
            parts, y = parts_by_name(own)[name], own.labels[label]
            found: dict[Classifier, dict[str, Row]] = {c: {} for c in classifiers}
            again: dict[tuple[str, str], Array] = {}
            for part, x in parts.items():
                probes = run_probes(x.numpy(), y.numpy(), k, tuple(classifiers))
                for classifier, outcome in probes:
                    scores = outcome.score(resamples(len(outcome.y), times))
                    again[part, classifier] = scores
                    found[classifier][part] = {
                        'label': label,
                        'name': name,
                        'classifier': classifier,
                        'part': part,
                        'dimensions': x.shape[1],
                        **outcome.summary(scores),
                    }
            for classifier, scored in found.items():
                rows += scored.values()
                for a, b in _compared(scored):
                    change = again[a, classifier] - again[b, classifier]
                    known = scored.get('features', scored['all'])
                    differences.append(_difference(scored[a], scored[b], known, change))
    if not rows:
        raise embeddings.no_labels(2 * k)
    tables = {'differences': differences, 'probes': rows}
    return AnalysisResult(
        name='probes',
        title=TITLES['probes'],
        text=_text(rows, differences),
        tables={name: table for name, table in tables.items() if table},
        figures={'probes': _plot(rows)},
    )


def parts_by_name(embeddings: Embeddings) -> dict[str, dict[str, Tensor]]:
    """Return the probe inputs, which are embeddings and features, by name and part."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, z in embeddings.z.items():
        places = embeddings.parts(name)
        found[name] = {part: z[:, place] for part, place in places.items()}
        if 'common' in places:
            pair = sorted((found[name][p] for p in ('common', 'unique')), key=_width)
            if _width(pair[0]) < _width(pair[1]):
                steps = torch.linspace(0, _width(pair[1]) - 1, _width(pair[0]))
                found[name][MATCHED] = pair[1][:, steps.round().long()]
    for name, h in embeddings.h.items():
        found.setdefault(name, {})['features'] = h
    several = [found[m] for m in embeddings.modalities]
    if len(several) > 1:
        found['+'.join(embeddings.modalities)] = {
            part: torch.cat([parts[part] for parts in several], dim=1)
            for part in PARTS
            if all(part in parts for parts in several)
        }
    return found


def _width(x: Tensor) -> int:
    return x.shape[1]


def _compared(scored: dict[str, Row]) -> list[tuple[str, str]]:
    """Return the pairs of parts to compare, with all and with equal numbers of dimensions."""
    if not {'common', 'unique'} <= set(scored):
        return []
    pairs = [('common', 'unique')]
    if MATCHED in scored:
        fewer = scored['common']['dimensions'] < scored['unique']['dimensions']
        pairs.append(('common', MATCHED) if fewer else (MATCHED, 'unique'))
    return pairs


def _difference(common: Row, unique: Row, features: Row, change: Array) -> Row:
    ends = {name: round(end, 2) for name, end in interval(change).items()}
    above = [row['low'] > row['chance'] for row in (common, unique, features)]
    if not any(above):
        verdict = 'embeddings and features at chance'
    elif not any(above[:2]):
        verdict = 'only features above chance'
    elif ends['low'] > 0:
        verdict = 'common significantly better'
    elif ends['high'] < 0:
        verdict = 'unique significantly better'
    else:
        verdict = 'no significant difference'
    return {
        'label': common['label'],
        'name': common['name'],
        'classifier': common['classifier'],
        'dimensions': f'{common["dimensions"]} and {unique["dimensions"]}',
        'common': common['score'],
        'unique': unique['score'],
        'difference': round(common['score'] - unique['score'], 2),
        **ends,
        'verdict': verdict,
    }


def _text(rows: Rows, differences: Rows) -> str:
    paragraphs = [
        'Probes are fitted on half of the samples and scored on the other '
        f'{rows[0]["scored"]} samples. Scores are balanced accuracy for classes, '
        'micro-averaged average precision for multi-label data and R2 for regression, in '
        'percent. The 95 % intervals are over resamples of the scored samples. They do '
        'not include the variation between training runs. Of many such intervals, some '
        'miss the true value by chance.'
    ]
    if not differences:
        paragraphs.append(
            'This task does not distinguish common and unique dimensions.'
        )
    linear = [d for d in differences if d['classifier'] == 'linear'] or differences
    widths = list(dict.fromkeys(d['dimensions'] for d in linear))
    for alike in (False, True):
        said: dict[str, list[str]] = {}
        for d in linear:
            a, _, b = d['dimensions'].partition(' and ')
            if (a == b) == alike:
                numbers = f'{d["difference"]:+.1f} [{d["low"]:+.1f}, {d["high"]:+.1f}]'
                what = f'{d["label"]} in {d["name"]}: {numbers}'
                said.setdefault(d['verdict'], []).append(what)
        if said:
            how = 'Equal numbers of dimensions' if alike else 'All dimensions'
            lines = [f'- {v}: {"; ".join(w)}' for v, w in said.items()]
            paragraphs.append(
                f'{how}, {linear[0]["classifier"]} probe, common minus unique:\n\n'
                + '\n'.join(lines)
            )
    if len(widths) > 1:
        paragraphs.append(
            'If a difference vanishes with equal numbers of dimensions, it is an effect of '
            'the number of dimensions, not of the objective.'
        )
    return '\n\n'.join(paragraphs)


def _plot(rows: Rows) -> Figure:
    labels = list(dict.fromkeys(r['label'] for r in rows))
    names = list(dict.fromkeys(r['name'] for r in rows))
    parts = [p for p in PARTS if any(r['part'] == p for r in rows)]
    shown = 'linear' if any(r['classifier'] == 'linear' for r in rows) else 'knn'
    with figure_style():
        figure, axes = grid_of_panels(len(labels), min(len(labels), 2), (PAGE, 2.3))
        for axis, label in zip(axes, labels, strict=True):
            for number, part in enumerate(parts):
                mine = [
                    r
                    for r in rows
                    if (r['label'], r['part'], r['classifier']) == (label, part, shown)
                ]
                if not mine:
                    continue
                shift = 0.14 * (number - (len(parts) - 1) / 2)
                colour, face = _colour(part, mine[0], rows)
                plot_scores(
                    axis,
                    [names.index(r['name']) + shift for r in mine],
                    mine,
                    fmt='o',
                    color=colour,
                    markerfacecolor=face,
                    label=part,
                )
            chance = next(r['chance'] for r in rows if r['label'] == label)
            axis.axhline(chance, color='black', ls=':', lw=1, label='chance')
            axis.set(title=f'{label}, {shown} probe', xticks=range(len(names)))
            axis.set_xticklabels(names)
            metric = next(r['metric'] for r in rows if r['label'] == label)
            axis.set_ylabel(f'{metric} (%)')
        handles, texts = axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc='outside lower center', ncols=len(texts))
    return figure


def _colour(part: str, row: Mapping[str, Any], rows: Rows) -> tuple[str, str]:
    """Return the line and marker colors of a part, with open markers for a subset."""
    if part != MATCHED:
        return COLOURS[part], COLOURS[part]
    common = max(
        r['dimensions']
        for r in rows
        if (r['part'], r['name']) == ('common', row['name'])
    )
    whole = 'common' if common > row['dimensions'] else 'unique'
    return COLOURS[whole], 'white'
