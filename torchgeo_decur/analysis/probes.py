"""Which dimensions hold which label."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .classifiers import CLASSIFIERS, Array, Classifier, interval, resamples, run_probes
from .embeddings import Embeddings
from .matplotlib_style import COLOURS, PAGE, figure_style
from .result import AnalysisResult, NotApplicable, Rows

#: The larger of common and unique, less as many of its dimensions as the other lacks.
MATCHED = 'matched'
PARTS = ('common', 'unique', MATCHED, 'all', 'features')

type Row = dict[str, Any]


def probe_parts(
    embeddings: Embeddings,
    k: int = 5,
    classifiers: Sequence[Classifier] = CLASSIFIERS,
    times: int = 1000,
) -> AnalysisResult:
    """Probe common, unique and all dimensions of the embeddings, and the features.

    For each modality alone, all concatenated, and whatever else the task makes of them,
    and for each label, a nearest-neighbour classifier and a logistic regression are
    fitted on one half of the samples and scored on the other, as
    :class:`~torchgeo_decur.callbacks.OnlineProbe` does. Intervals of 95 % are percentiles
    over bootstrap resamples of the scored samples; they do not tell how much another
    training would differ. Differences of common and unique dimensions are paired: both
    are scored on the same resamples. More dimensions hold more, whichever they are, so
    the comparison is made a second time with as many dimensions of each.

    Args:
        embeddings: embeddings, features and labels.
        k: number of nearest neighbours.
        classifiers: which of 'knn' and 'linear'.
        times: number of resamples.

    Returns:
        Tables ``differences``, where there are common and unique dimensions, and
        ``probes``, scores in percent; figure ``probes``.

    Raises:
        NotApplicable: if there are no labels that can be probed.

    Example:
        >>> z = torch.randn(64, 4)
        >>> data = Embeddings.of({'s1': z, 's2': -z}, labels={'label': z[:, 0] > 0})
        >>> finding = probe_parts(data, classifiers=['linear'], times=10)
        >>> [(row['name'], row['part'], row['metric']) for row in finding.tables['probes']][-1]
        ('s1+s2', 'all', 'balanced accuracy')
    """
    rows: list[Row] = []
    differences: list[Row] = []
    inputs = parts_by_name(embeddings)
    for label, y in embeddings.labels.items():
        for name, parts in inputs.items():
            found: dict[Classifier, dict[str, Row]] = {c: {} for c in classifiers}
            again: dict[tuple[str, str], Array] = {}
            for part, x in parts.items():
                probes = run_probes(x.numpy(), y.numpy(), k, tuple(classifiers))
                for classifier, outcome in probes:
                    scores = outcome.score(resamples(len(outcome.y), times))
                    again[part, classifier] = scores
                    what = {'label': label, 'name': name, 'classifier': classifier}
                    found[classifier][part] = {
                        **what,
                        'part': part,
                        'score': round(float(outcome.score()[0]), 2),
                        **_ends(scores),
                        'chance': round(outcome.chance, 2),
                        'dimensions': x.shape[1],
                        'metric': outcome.metric,
                        'scored': len(outcome.y),
                    }
            for classifier, scored in found.items():
                rows += scored.values()
                for a, b in _compared(scored):
                    change = again[a, classifier] - again[b, classifier]
                    known = scored.get('features', scored['all'])
                    differences.append(_difference(scored[a], scored[b], known, change))
    if not rows:
        raise NotApplicable(
            'probes need labels of two or more classes in the batches (keys label*), and '
            f'more than {2 * k} samples, got labels {list(embeddings.labels)} of '
            f'{len(next(iter(embeddings.z.values())))} samples'
        )
    tables = {'differences': differences, 'probes': rows}
    return AnalysisResult(
        name='probes',
        title='What is where: probes',
        text=_text(rows, differences),
        tables={name: table for name, table in tables.items() if table},
        figures={'probes': _plot(rows)},
    )


def parts_by_name(embeddings: Embeddings) -> dict[str, dict[str, Tensor]]:
    """What to probe: by name, the parts of the embeddings, and the features."""
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
    """Which parts to compare: common with unique, and as many dimensions of each."""
    if not {'common', 'unique'} <= set(scored):
        return []
    pairs = [('common', 'unique')]
    if MATCHED in scored:
        fewer = scored['common']['dimensions'] < scored['unique']['dimensions']
        pairs.append(('common', MATCHED) if fewer else (MATCHED, 'unique'))
    return pairs


def _ends(values: Array) -> dict[str, float]:
    low, high = interval(values)
    return {'low': round(low, 2), 'high': round(high, 2)}


def _difference(common: Row, unique: Row, features: Row, change: Array) -> Row:
    ends = _ends(change)
    above = [row['low'] > row['chance'] for row in (common, unique, features)]
    if not any(above):
        verdict = 'not learned, at chance in the features too'
    elif not any(above[:2]):
        verdict = 'in the features alone, both at chance'
    elif ends['low'] > 0:
        verdict = 'common holds more'
    elif ends['high'] < 0:
        verdict = 'unique holds more'
    else:
        verdict = 'no difference seen'
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
        f'Half of the samples fit a probe, the other {rows[0]["scored"]} score it. Scores '
        'are balanced accuracy for classes and micro-averaged average precision for '
        'several labels, in percent, with intervals of 95 % over resamples of the scored '
        'samples. Intervals do not cover other trainings, and of many some miss by chance.'
    ]
    if not differences:
        paragraphs.append(
            'This task does not tell common from unique dimensions, so none are compared.'
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
            how = 'As many dimensions of each' if alike else 'All dimensions of each'
            lines = [f'- {v}: {"; ".join(w)}' for v, w in said.items()]
            paragraphs.append(
                f'{how}, {linear[0]["classifier"]} probe, common less unique:\n\n'
                + '\n'.join(lines)
            )
    if len(widths) > 1:
        paragraphs.append(
            'A difference that is gone with as many dimensions of each is one of their '
            'number, not of what they were trained for.'
        )
    return '\n\n'.join(paragraphs)


def _plot(rows: Rows) -> Figure:
    labels = list(dict.fromkeys(r['label'] for r in rows))
    names = list(dict.fromkeys(r['name'] for r in rows))
    parts = [p for p in PARTS if any(r['part'] == p for r in rows)]
    shown = 'linear' if any(r['classifier'] == 'linear' for r in rows) else 'knn'
    columns = min(len(labels), 2)
    lines = -(-len(labels) // columns)
    with figure_style():
        figure, axes = plt.subplots(
            lines, columns, figsize=(PAGE, 2.3 * lines), squeeze=False, sharey=True
        )
        for axis in axes.flat[len(labels) :]:
            axis.set_axis_off()
        for axis, label in zip(axes.flat, labels, strict=False):
            for number, part in enumerate(parts):
                mine = [
                    r
                    for r in rows
                    if (r['label'], r['part'], r['classifier']) == (label, part, shown)
                ]
                if not mine:
                    continue
                shift = 0.14 * (number - (len(parts) - 1) / 2)
                scores = [r['score'] for r in mine]
                # An interval of resamples need not hold the score itself.
                below = [max(r['score'] - r['low'], 0) for r in mine]
                above = [max(r['high'] - r['score'], 0) for r in mine]
                colour, face = _colour(part, mine[0], rows)
                axis.errorbar(
                    [names.index(r['name']) + shift for r in mine],
                    scores,
                    (below, above),
                    fmt='o',
                    color=colour,
                    markerfacecolor=face,
                    elinewidth=1,
                    label=part,
                )
            chance = next(r['chance'] for r in rows if r['label'] == label)
            axis.axhline(chance, color='black', ls=':', lw=1, label='chance')
            axis.set(title=f'{label}, {shown} probe', xticks=range(len(names)))
            axis.set_xticklabels(names)
            metric = next(r['metric'] for r in rows if r['label'] == label)
            axis.set_ylabel(f'{metric} (%)')
        handles, texts = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, texts, loc='outside lower center', ncols=len(texts))
    return figure


def _colour(part: str, row: Mapping[str, Any], rows: Rows) -> tuple[str, str]:
    """Colour of a part and of the face of its marker: open where it is a choice."""
    if part != MATCHED:
        return COLOURS[part], COLOURS[part]
    common = max(
        r['dimensions']
        for r in rows
        if (r['part'], r['name']) == ('common', row['name'])
    )
    whole = 'common' if common > row['dimensions'] else 'unique'
    return COLOURS[whole], 'white'
