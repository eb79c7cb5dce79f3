"""Data of the figure and the table at the top of the results page."""

from statistics import mean

from experiments.provenance import ROOT
from experiments.rendering import RESULTS, Columns, half_width, interval, read_columns

TABLE = ROOT / 'experiments' / 'tables' / 'objectives.yaml'
ENCODERS = (
    'DeCUR',
    'DeCUR without decoupling',
    'DeCUR without intra-modal terms',
    'Barlow Twins',
    'VICReg',
    'SimCLR',
    'CLIP',
    'CoMM',
    'COrAL',
    'random',
)
_KEPT = 'What is kept, with all labels'
_BOTH = 'Both modalities, mean of three labels'
_ONE = 'One modality alone, mean of the labels that it can know'
# Section title and column header, by header in the summary.
_COLUMNS = {
    'shared by both': (_KEPT, 'redundancy'),
    'radar only': (_KEPT, 'uniqueness of radar'),
    'optics only': (_KEPT, 'uniqueness of optics'),
    'both sensors, 1 % of labels': (_BOTH, '1 %'),
    'both sensors, all labels': (_BOTH, '100 %'),
    'one sensor, all fractions': (_ONE, 'mean'),
}


def one_sensor() -> dict[str, tuple[float, float]]:
    """Compute the mean score with one sensor, over three fractions of the labels.

    Returns:
        Mean and half-width of the 95 % confidence interval in %, by encoder.
    """
    found = {}
    for name, columns in _read(_ONE).items():
        values = [*columns['mean'].values()]
        found[name] = 100 * mean(values), 100 * half_width(values)
    return found


def render_summary() -> str:
    """Render the summary as a Markdown table.

    Returns:
        The table, with one row per encoder.
    """
    sections = {title: _read(title) for title, _ in _COLUMNS.values()}
    lines = [
        f'| encoders | {" | ".join(_COLUMNS)} |',
        '|---|' + '---:|' * len(_COLUMNS),
    ]
    for name in ENCODERS:
        cells = [
            interval([*sections[title][name][header].values()])
            for title, header in _COLUMNS.values()
        ]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _read(title: str) -> dict[str, Columns]:
    return read_columns(TABLE, title, ENCODERS, RESULTS)
