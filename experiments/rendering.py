"""Render result tables in Markdown."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student

from experiments.definition import Table
from experiments.provenance import ROOT

RESULTS = ROOT / 'experiments' / 'results.csv'

type Row = dict[str, str]
# Numbers by column header and seed.
type Columns = dict[str, dict[str, float]]
# Names of the metrics of each column, by header.
type Headers = Mapping[str, tuple[str, ...]]


def render(path: Path, results: Path = RESULTS) -> str:
    """Render means and 95 % confidence intervals over seeds as a Markdown table, in %.

    Only rows from the newest commit are used so that numbers are comparable.

    Args:
        path: YAML file of the table.
        results: CSV file of the results.

    Returns:
        The table, and a line with the source of its numbers.
    """
    table = Table.read(path)
    rows = _newest(table, results)
    if not rows:
        return 'Not measured.'
    newest = rows[-1]
    lines = []
    for title, columns in table.metrics.items():
        lines += [f'**{title}**', ''] if title else []
        lines += [*_means(table, rows, columns), '']
        if table.against and (less := _less(table, rows, columns)):
            lines += [f'Difference from *{table.against}*, paired by seed:', '']
            lines += [*less, '']
    if table.summary:
        lines += ['Means of several cells:', '', *_summary(table, rows), '']
    seeds = sorted({int(row['seed']) for row in rows})
    fewer = _fewer(rows, seeds)
    extra = f', options `{newest["options"]}`' if newest['options'] else ''
    for name in table.parts:
        if values := _values(rows, name):
            lines += [f'{name}, by part:', '', *_parts(values), '']
    if len(seeds) > 1:
        ratio = len(seeds) ** 0.5 / student.ppf(0.975, len(seeds) - 1)
        spread = (
            'mean ± half-width of the 95 % confidence interval (Student t) '
            f'over the seeds {seeds}{fewer}. The standard deviation is {ratio:.2f} times the half-width.'
        )
    else:
        spread = f'seed {seeds[0]}.'
    lines += [
        f'In %, {spread} Source: `experiments/tables/{path.name}`{extra}, '
        f'commit `{newest["commit"]}`, {newest["hardware"]}.'
    ]
    return '\n'.join(lines)


def read_columns(
    path: Path, title: str, cells: Sequence[str], results: Path = RESULTS
) -> dict[str, Columns]:
    """Read the numbers of one section of a table.

    Args:
        path: YAML file of the table.
        title: title of the section.
        cells: names of the cells to read, in this order.
        results: CSV file of the results.

    Returns:
        Numbers by cell, header and seed.
    """
    table = Table.read(path)
    rows = _newest(table, results)
    return {cell: _columns(table.metrics[title], rows, cell) for cell in cells}


def _newest(table: Table, results: Path) -> list[Row]:
    """Select a table's rows with the same commit, options and hardware as the last one."""
    rows = [row for row in read_rows(results) if row['table'] == table.name]
    keys = ('commit', 'options', 'hardware')
    return [row for row in rows if all(row[key] == rows[-1][key] for key in keys)]


def _fewer(rows: Sequence[Row], seeds: Sequence[int]) -> str:
    """Describe the cells with fewer seeds, in brackets, by first axis if possible."""
    found: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        found[row['cell']].add(int(row['seed']))
    alike: dict[str, dict[str, set[int]]] = defaultdict(dict)
    for cell, s in found.items():
        alike[cell.split(' / ')[0]][cell] = s
    short: dict[str, set[int]] = {}
    for first, cells in alike.items():
        same = len({frozenset(s) for s in cells.values()}) == 1
        short |= {first: next(iter(cells.values()))} if same else cells
    few = [f'{cell}: {sorted(s)}' for cell, s in short.items() if len(s) < len(seeds)]
    return f' ({"; ".join(few)})' if few else ''


def best(path: Path, results: Path = RESULTS) -> dict[tuple[str, ...], str]:
    """Return the best values of the axis ``choose``, at the newest commit of a table.

    Args:
        path: YAML file of the table.
        results: CSV file of the results.

    Returns:
        The best value for each combination of values on the other axes.
    """
    table = Table.read(path)
    rows = [row for row in read_rows(results) if row['table'] == table.name]
    return _choose(table, [row for row in rows if row['commit'] == rows[-1]['commit']])


def _means(table: Table, rows: Sequence[Row], wanted: Headers) -> list[str]:
    """Render a table of means as lines."""
    chosen = _choose(table, rows) if table.choose else {}
    header = [*table.axes, *wanted, *(['mean'] if chosen else [])]
    lines = _header(table, header)
    for cell in table.cells:
        columns = _columns(wanted, rows, ' / '.join(cell.name))
        measured = any(columns.values())
        cells = [*cell.name]
        cells += [
            interval([*found.values()]) if found or not measured else '-'
            for found in columns.values()
        ]
        if chosen and measured:
            cells.append(f'{100 * _mean(columns):.1f}')
        if chosen.get(cell.name[:-1]) == cell.name[-1]:
            cells = [f'**{text}**' for text in cells]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def _header(table: Table, header: Sequence[str]) -> list[str]:
    numbers = len(header) - len(table.axes)
    rule = '|' + '---|' * len(table.axes) + '---:|' * numbers
    return [f'| {" | ".join(header)} |', rule]


def _choose(table: Table, rows: Sequence[Row]) -> dict[tuple[str, ...], str]:
    means: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    wanted = next(iter(table.metrics.values()))
    for cell in table.cells:
        columns = _columns(wanted, rows, ' / '.join(cell.name))
        if any(columns.values()):
            means[cell.name[:-1]][cell.name[-1]] = _mean(columns)
    return {name: max(found, key=found.__getitem__) for name, found in means.items()}


def _mean(columns: Columns) -> float:
    return mean(mean(found.values()) for found in columns.values() if found)


def _columns(wanted: Headers, rows: Sequence[Row], cell: str) -> Columns:
    """Return the numbers of a cell by header and seed, for seeds with all metrics."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row['cell'] == cell:
            found[row['seed']][row['metric']] = float(row['value'])
    return {
        header: {
            seed: mean(values[name] for name in names)
            for seed, values in sorted(found.items())
            if values.keys() >= set(names)
        }
        for header, names in wanted.items()
    }


def _values(rows: Sequence[Row], cell: str) -> dict[str, list[float]]:
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row['cell'] == cell:
            values[row['metric']].append(float(row['value']))
    return values


def _summary(table: Table, rows: Sequence[Row]) -> list[str]:
    """Render means over cells, and their differences paired by seed, as lines."""
    values = {
        (row['cell'], row['seed'], row['metric']): float(row['value']) for row in rows
    }
    seeds = sorted({row['seed'] for row in rows})
    means: dict[str, Columns] = {}
    for first in dict.fromkeys(cell.name[0] for cell in table.cells):
        means[first] = {}
        for header, wanted in table.summary.items():
            keys = [
                (' / '.join(cell.name), metric)
                for cell in table.cells
                for axis_value, metrics in wanted.items()
                for metric in metrics
                if cell.name[0] == first and axis_value in cell.name[1:]
            ]
            means[first][header] = {
                seed: mean(values[cell, seed, metric] for cell, metric in keys)
                for seed in seeds
                if all((cell, seed, metric) in values for cell, metric in keys)
            }
    axis, headers = table.axes[0], [*table.summary]
    less = [f'{header}, minus {table.against}' for header in headers if table.against]
    rule = '|---|' + '---:|' * (len(headers) + len(less))
    lines = [f'| {" | ".join([axis, *headers, *less])} |', rule]
    for first, columns in means.items():
        cells = [first, *(interval([*found.values()]) for found in columns.values())]
        for header in headers if table.against else ():
            other = means[str(table.against)][header]
            mine = columns[header].items()
            pairs = [value - other[seed] for seed, value in mine if seed in other]
            cells.append('' if first == table.against else interval(pairs, '+'))
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def _less(table: Table, rows: Sequence[Row], wanted: Headers) -> list[str]:
    """Render differences from one value of the first axis, paired by seed, as lines.

    Returns:
        The lines; none if the other value has no numbers.
    """
    lines = _header(table, [*table.axes, *wanted])
    known = False
    for cell in table.cells:
        if cell.name[0] == table.against:
            continue
        mine, theirs = (
            _columns(wanted, rows, ' / '.join((str(first), *cell.name[1:])))
            for first in (cell.name[0], table.against)
        )
        cells = []
        for metric, found in mine.items():
            other = theirs[metric]
            values = [v - other[seed] for seed, v in found.items() if seed in other]
            cells.append(interval(values, '+') if values else '-')
            known |= bool(values)
        lines.append(f'| {" | ".join([*cell.name, *cells])} |')
    return lines if known else []


def _parts(values: Mapping[str, Sequence[float]]) -> list[str]:
    """Render a probe table as lines, with one column per label."""
    # If a probe uses a fraction of the labels, its name ends with the fraction.
    split = [m.split(maxsplit=1) for m in values if not m[-1].isdigit()]
    labels, places = (list(dict.fromkeys(x)) for x in zip(*split, strict=True))
    lines = [f'| part | {" | ".join(labels)} |', '|---|' + '---:|' * len(labels)]
    for place in places:
        cells = [interval(values.get(f'{label} {place}', ())) for label in labels]
        lines.append(f'| {place} | {" | ".join(cells)} |')
    return lines


def interval(values: Sequence[float], sign: str = '') -> str:
    """Format numbers between 0 and 1 as mean ± half-width of a confidence interval, in %.

    Args:
        values: one number per seed.
        sign: ``+`` to show the sign of a positive mean.

    Returns:
        The text, without an interval for a single seed.
    """
    if not values:
        return 'not measured'
    if len(values) == 1:
        return f'{100 * values[0]:{sign}.1f}'
    half = half_width(values)
    return f'{100 * mean(values):{sign}.1f} ± {100 * half:.1f}'


def half_width(values: Sequence[float]) -> float:
    """Compute the half-width of the 95 % confidence interval of a mean (Student's t).

    Args:
        values: at least two numbers.

    Returns:
        The half-width.
    """
    quantile = float(student.ppf(0.975, len(values) - 1))
    return float(quantile * stdev(values) / len(values) ** 0.5)


def read_rows(results: Path) -> list[Row]:
    """Read the rows of a results file; return no rows if it does not exist."""
    if not results.exists():
        return []
    with results.open(newline='') as file:
        return list(csv.DictReader(file))
