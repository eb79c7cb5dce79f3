"""Curves of the logged metrics over the steps of a fit."""

import csv
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .matplotlib_style import PAGE, figure_style, grid_of_panels
from .result import TITLES, AnalysisResult, NotApplicable

type Curve = list[tuple[float, float]]

# Title, axis label and metric prefixes of each panel.
_PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ('Loss', 'loss', ('train_loss', 'val_loss')),
    ('Parts of the loss', 'part of the loss', ('train_', 'val_')),
    ('Alignment', 'mean correlation', ('alignment_',)),
    ('Spread of the features', 'spread (1 is even)', ('std_',)),
    ('Effective rank of the embeddings', 'rank', ('rank_',)),
    ('Linear probe', 'score (%)', ('probe_',)),
    ('Learning rate', 'learning rate', ('lr',)),
)


def read_metrics(file: str | Path) -> dict[str, Curve]:
    """Read the metrics that Lightning's CSVLogger has written.

    Args:
        file: path of a ``metrics.csv``.

    Returns:
        Points (step, value) of each metric, by name.

    Raises:
        NotApplicable: if the file does not exist or has no column ``step``.
    """
    if not Path(file).is_file():
        raise NotApplicable(
            f'training curves need the metrics.csv of a fit, but {file} does not exist; '
            'add a CSVLogger to the fit'
        )
    curves: dict[str, Curve] = defaultdict(list)
    with Path(file).open(newline='') as opened:
        reader = csv.DictReader(opened)
        if 'step' not in (reader.fieldnames or ()):
            raise NotApplicable(
                f'{file}: expected a column step, found {reader.fieldnames or "none"}; '
                "choose a metrics.csv of Lightning's CSVLogger"
            )
        for row in reader:
            for name, value in row.items():
                if value and row['step'] and name not in ('step', 'epoch'):
                    curves[name].append((float(row['step']), float(value)))
    return dict(curves)


def training_curves(file: str | Path) -> AnalysisResult:
    """Plot the loss, alignment, collapse metrics and probe scores over the steps.

    Args:
        file: path of the ``metrics.csv`` of a fit.

    Returns:
        Table ``metrics`` with the first, lowest, highest and last value of each metric,
        and figure ``curves``.

    Raises:
        NotApplicable: if the file does not exist or contains no metrics of a fit.
    """
    curves = read_metrics(file)
    panels = _assign(curves)
    if not panels:
        raise NotApplicable(
            f'{file}: expected metrics of a fit, found {sorted(curves)}; choose the '
            'metrics.csv of a fit'
        )
    rows = [
        {
            'metric': name,
            'points': len(curve),
            'first': _short(curve[0][1]),
            'lowest': _short(min(v for _, v in curve)),
            'highest': _short(max(v for _, v in curve)),
            'last': _short(curve[-1][1]),
        }
        for name, curve in sorted(curves.items())
    ]
    steps = max(step for curve in curves.values() for step, _ in curve)
    return AnalysisResult(
        name='curves',
        title=TITLES['curves'],
        text=(
            f'Logged metrics over the {steps + 1:.0f} steps of the fit. A spread near 0 and '
            'a rank near 1 indicate collapsed features.'
        ),
        tables={'metrics': rows},
        figures={'curves': _plot(panels)},
    )


def _assign(curves: dict[str, Curve]) -> dict[tuple[str, str], dict[str, Curve]]:
    """Assign each metric to a panel; the probes of each label have their own panel."""
    left = dict(curves)
    panels: dict[tuple[str, str], dict[str, Curve]] = defaultdict(dict)
    for title, label, prefixes in _PANELS:
        for name in [n for n in sorted(left) if n.startswith(prefixes)]:
            curve = left.pop(name)
            if not name.startswith('probe_'):
                panels[title, label][name] = curve
            elif name.endswith('_linear'):
                probed = name.removeprefix('probe_').removesuffix('_linear')
                key, _, features = probed.rpartition('_')
                panels[f'{title} of {key}', label][features] = curve
    return dict(panels)


def _plot(panels: dict[tuple[str, str], dict[str, Curve]]) -> Figure:
    with figure_style():
        figure, axes = grid_of_panels(len(panels), 2, (PAGE, 2.6), sharey=False)
        for axis, ((title, label), curves) in zip(axes, panels.items(), strict=True):
            colours = [c['color'] for c in plt.rcParams['axes.prop_cycle']]
            shown = list(dict.fromkeys(_part(name) for name in curves))
            for name, curve in curves.items():
                number = shown.index(_part(name))
                validation = name.startswith('val_')
                axis.plot(
                    *zip(*curve, strict=True),
                    color=colours[number % len(colours)],
                    linestyle='--' if validation else '-',
                    marker='o' if len(curve) < 12 else None,
                    # If there are both curves, the legend names only the training
                    # curve.
                    label=None
                    if validation and f'train_{_part(name)}' in curves
                    else _part(name),
                )
            dashed = any(name.startswith('val_') for name in curves)
            axis.set_title(f'{title} (validation dashed)' if dashed else title)
            axis.set(xlabel='step', ylabel=label)
            if len(shown) > 1:
                # Place the legend below the panel, away from the curves.
                longest = max(len(name) for name in shown)
                columns = 3 if longest < 14 else 2
                axis.legend(
                    loc='upper center', bbox_to_anchor=(0.5, -0.25), ncols=columns
                )
    return figure


def _part(name: str) -> str:
    for prefix in ('train_', 'val_', 'alignment_', 'std_', 'rank_'):
        name = name.removeprefix(prefix)
    return name


def _short(value: float) -> float:
    return float(f'{value:.5g}')
