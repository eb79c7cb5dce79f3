"""Write and render benchmark results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles

from experiments.provenance import append, commit, hardware, versions

FOLDER = Path(__file__).resolve().parent
COLUMNS = (
    'benchmark',
    'case',
    'value',
    'unit',
    'lower',
    'upper',
    'repeats',
    'hardware',
    'versions',
    'commit',
)

type Row = dict[str, str]


def record(
    name: str,
    case: Mapping[str, object],
    values: Sequence[float],
    unit: str,
    path: Path = FOLDER / 'results.csv',
) -> Row:
    """Append the median and quartiles of one case to a CSV file.

    Args:
        name: name of the benchmark.
        case: parameters of the case, by name and in order.
        values: measured value of each repeat.
        unit: unit of the values, such as 's', 'MiB' or 'samples/s'.
        path: CSV file to append to.

    Returns:
        The row.

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError(f'values must have at least one number, got none for {case}')
    lower, _, upper = (
        quantiles(values, n=4, method='inclusive') if len(values) > 1 else 3 * [*values]
    )
    found = (median(values), lower, upper)
    return record_interval(name, case, found, unit, path, len(values))


def record_interval(
    name: str,
    case: Mapping[str, object],
    found: tuple[float, float, float],
    unit: str,
    path: Path,
    repeats: int = 1,
) -> Row:
    """Append the value of one case and its interval to a CSV file.

    Args:
        name: name of the benchmark.
        case: parameters of the case, by name and in order.
        found: the value, and the bounds of its interval.
        unit: unit of the value.
        path: CSV file to append to.
        repeats: number of repeats.

    Returns:
        The row.
    """
    value, lower, upper = found
    row = {
        'benchmark': name,
        'case': ' '.join(f'{k}={v}' for k, v in case.items()),
        'value': f'{value:.6g}',
        'unit': unit,
        'lower': f'{lower:.6g}',
        'upper': f'{upper:.6g}',
        'repeats': str(repeats),
        'hardware': hardware(),
        'versions': versions('torchgeo', 'torchgeo-decur'),
        'commit': commit(),
    }
    append(path, COLUMNS, [row])
    return row


def render(rows: Sequence[Row]) -> str:
    """Render rows as a Markdown table.

    Args:
        rows: rows of one benchmark run.

    Returns:
        The table, and a line with the source of its numbers.
    """
    lines = ['| case | median | interval | unit |', '|---|---:|---:|---|']
    lines += [
        f'| {row["case"]} | {row["value"]} | {row["lower"]} to {row["upper"]} | '
        f'{row["unit"]} |'
        for row in rows
    ]
    last = rows[-1]
    return '\n'.join(
        [
            *lines,
            '',
            f'Commit `{last["commit"]}`, {last["hardware"]}, {last["versions"]}.',
        ]
    )


def render_parts(rows: Sequence[Row]) -> str:
    """Render the parts of a step as a Markdown table with one column per variant.

    Args:
        rows: rows of one case, with ``variant=`` and ``part=``; other rows are ignored.

    Returns:
        The table of medians, with their percentages of the sum.
    """
    seconds: dict[str, dict[str, float]] = {}
    for row in rows:
        words = dict(word.split('=', 1) for word in row['case'].split() if '=' in word)
        if 'part' in words:
            variant = seconds.setdefault(words['variant'].replace('-', ' '), {})
            variant[words['part'].replace('-', ' ')] = float(row['value'])
    lines = [f'| part | {" | ".join(seconds)} |', '|---' + '|---:' * len(seconds) + '|']
    for part in next(iter(seconds.values())):
        cells = [
            f'{parts[part]:.3f} s ({parts[part] / sum(parts.values()):.0%})'
            for parts in seconds.values()
        ]
        lines.append(f'| {part} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def render_forms(rows: Sequence[Row]) -> str:
    """Render the forms of a loss as a Markdown table with one row per size.

    Args:
        rows: rows of one run, with ``form=``, in milliseconds and MiB; other rows are ignored.

    Returns:
        The table of medians, and a line with the source of its numbers.
    """
    cells: dict[str, dict[str, list[str]]] = {}
    forms: list[str] = []
    for row in rows:
        size, mark, form = row['case'].partition(' form=')
        if mark:
            value = f'{float(row["value"]):.3g} {row["unit"]}'
            cells.setdefault(size, {}).setdefault(form, []).append(value)
            forms += [form] * (form not in forms)
    lines = ['| | ' + ' | '.join(forms) + ' |', '|---' + '|---:' * len(forms) + '|']
    for size, found in cells.items():
        shown = (', '.join(found.get(form, ['not measured'])) for form in forms)
        lines.append(f'| {size} | {" | ".join(shown)} |')
    last = rows[-1]
    source = f'Commit `{last["commit"]}`, {last["hardware"]}, {last["versions"]}.'
    return '\n'.join([*lines, '', source])


def render_costs(rows: Sequence[Row]) -> str:
    """Render the cost of each objective as a Markdown table with one row per objective.

    Args:
        rows: rows of one run, with ``objective=``, in images/s, % and MiB.

    Returns:
        The table of medians with quartiles, and two lines with the setting and the source of its
        numbers.
    """
    cells: dict[str, dict[str, str]] = {}
    loads: set[float] = set()
    setting = ''
    for row in rows:
        objective, setting = row['case'].removeprefix('objective=').split(' ', 1)
        setting, load = setting.rsplit(' load=', 1)
        loads.add(float(load))
        value, lower, upper = (float(row[k]) for k in ('value', 'lower', 'upper'))
        digits = '.0f' if row['unit'] == 'MiB' else '.3g'
        spread = f' ({lower:{digits}} to {upper:{digits}})' if lower < upper else ''
        cells.setdefault(objective, {})[row['unit']] = f'{value:{digits}}{spread}'
    lines = [
        '| objective | images per second | memory, MiB | loss, % of the step |',
        '|---|---:|---:|---:|',
    ]
    lines += [
        f'| {objective} | {of["images/s"]} | {of["MiB"]} | {of["%"]} |'
        for objective, of in cells.items()
    ]
    last = rows[-1]
    return '\n'.join(
        [
            *lines,
            '',
            f'Setting: `{setting}`. Load average at the start: {min(loads)} to {max(loads)}.',
            f'Commit `{last["commit"]}`, {last["hardware"]}, {last["versions"]}.',
        ]
    )
