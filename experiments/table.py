"""Run a table of experiments, and show what was measured.

    python experiments/table.py run experiments/tables/synthetic.yaml --seeds '[0, 1, 2]'
    python experiments/table.py show experiments/tables/synthetic.yaml

A table is a YAML file with

- ``fit``: options of ``torchgeo fit`` that all cells share;
- ``axes``: by name of an axis, by name of a value, the options that it adds. The cells are
  all combinations;
- ``pretrain``: by name, the options of a pretraining that exports encoders; those of
  ``pretrain_all`` come before them. The names are the first axis, ``encoders``, whose values
  may add options too; ``{encoders}`` in the options of a cell is the folder of the export;
- ``pretrain_axes``: axes whose options are those of the pretraining;
- ``choose``: the last axis, of whose values the one with the highest mean of the metrics is
  marked, for each combination of the others;
- ``probe``, in place of ``fit``: a list of options of ``torchgeo-decur probe``, one list
  for each time that it is run on a pretraining;
- ``metrics``: columns of the metrics of ``torchgeo test``, or, by header, of the probes, such
  as ``label_s1 together features``. Only the first must be there in all cells;
- ``parts``: cells whose probes are shown in full, below the table.

A relative ``--config`` or ``--data`` starts at the folder of the table, ``{seed}`` is the seed.
Each cell is fitted, and its last checkpoint is tested once; the logger must be Lightning's
CSVLogger.

Rows are appended to ``experiments/results.csv``: table and cell, extra options, commit, seed,
hardware, metric, value. The commit is the last one that changed the package or the
experiments, followed by a hash of what differs from it, if anything does. Cells whose rows are
there are not run again; an interrupted fit goes on from its checkpoint. Tables share
pretrainings of the same package, options and files of options.
"""

import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from jsonargparse import auto_cli
from scipy.stats import t as student

# The documentation runs this file from elsewhere: what it shares lies beside it.
sys.path.append(str(Path(__file__).resolve().parent))

import forked
import provenance

ROOT = provenance.ROOT
RESULTS = ROOT / 'experiments' / 'results.csv'
_STARTS = ('pretrain', 'pretrain_all', 'pretrain_axes')
COLUMNS = ('table', 'cell', 'options', 'commit', 'seed', 'hardware', 'metric', 'value')

type Row = dict[str, str]
type Command = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class Cell:
    """One experiment of a table.

    Args:
        name: its value on each axis.
        pretrain: options of the pretraining, if there is one.
        fit: options of the fit, if there is one.
        probes: options of each probe of the pretraining.
    """

    name: tuple[str, ...]
    pretrain: tuple[str, ...] | None
    fit: tuple[str, ...]
    probes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table of experiments.

    Args:
        name: name of its file.
        axes: names of the axes.
        cells: the experiments.
        metrics: what is shown, by its header.
        parts: cells whose probes are shown in full.
        choose: the last axis, if its best value is chosen.
    """

    name: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    metrics: Mapping[str, str]
    parts: tuple[str, ...]
    choose: str | None

    @classmethod
    def read(cls, path: Path) -> 'Table':
        """Read a table.

        Args:
            path: YAML file.

        Returns:
            The table.

        Raises:
            ValueError: if the file has other keys.
        """
        content = yaml.safe_load(path.read_text())
        keys = set(content)
        fits = {'fit', 'metrics'} <= keys <= {'fit', 'metrics', 'axes', *_STARTS}
        probes = {'probe', 'metrics', 'pretrain'} <= keys
        if not fits and not (
            probes and keys <= {'probe', 'metrics', 'parts', 'choose', *_STARTS}
        ):
            raise ValueError(
                f'{path} must have fit and metrics, and may have axes, pretrain, '
                'pretrain_all and pretrain_axes; or have probe, metrics and pretrain, '
                'and may have pretrain_all, pretrain_axes, parts and choose; '
                f'got {sorted(content)}'
            )
        every: list[str] = content.get('pretrain_all', [])
        starts: dict[str, list[str]] = content.get('pretrain', {})
        ways: dict[str, dict[str, list[str]]] = content.get('pretrain_axes', {})
        axes: dict[str, dict[str, list[str]]] = content.get('axes', {})
        if starts:
            more = axes.pop('encoders', {})
            if unknown := sorted(set(more) - set(starts)):
                raise ValueError(
                    f'{path}: encoders must be among those of pretrain, got {unknown}'
                )
            encoders = {name: more.get(name, []) for name in starts}
            axes = {'encoders': encoders, **{axis: {} for axis in ways}, **axes}
        cells = []
        for names in product(*(ways.get(axis) or axes[axis] for axis in axes)):
            chosen = dict(zip(axes, names, strict=True))
            begin = [o for axis in ways for o in ways[axis][chosen[axis]]]
            options = [o for axis in axes for o in axes[axis].get(chosen[axis], [])]
            cells.append(
                Cell(
                    tuple(map(str, names)),
                    _resolve([*every, *starts[names[0]], *begin], path.parent)
                    if starts
                    else None,
                    _resolve([*content.get('fit', []), *options], path.parent),
                    tuple(_resolve(p, path.parent) for p in content.get('probe', [])),
                )
            )
        metrics: Any = content['metrics']
        if not isinstance(metrics, dict):
            metrics = {m.removeprefix('test_'): m for m in metrics}
        parts = tuple(content.get('parts', ()))
        choose: str | None = content.get('choose')
        if choose not in (None, [*axes][-1]):
            raise ValueError(
                f'{path}: choose must be the last axis, {[*axes][-1]!r}, got {choose!r}'
            )
        return cls(path.stem, tuple(axes), tuple(cells), metrics, parts, choose)


def run(
    table: Path,
    seeds: Sequence[int] = (0,),
    options: Sequence[str] = (),
    only: Sequence[str] = (),
    out: Path = ROOT / 'outputs' / 'tables',
    results: Path = RESULTS,
) -> None:
    """Run the cells of a table that have no result yet.

    Args:
        table: YAML file of the table.
        seeds: seeds to run each cell with.
        options: more options for every fit and test, such as --data.init_args.root=PATH.
        only: names of values of axes; cells that lack one of them are left out.
        out: folder of checkpoints and logs.
        results: CSV file to append rows to.
    """
    fill(table, seeds, options, only, out, results, forked.run)
    print(render(table, results))


def show(table: Path, results: Path = RESULTS) -> None:
    """Print what was measured of a table.

    Args:
        table: YAML file of the table.
        results: CSV file with the rows.
    """
    print(render(table, results))


def fill(
    path: Path,
    seeds: Sequence[int],
    options: Sequence[str],
    only: Sequence[str],
    out: Path,
    results: Path,
    command: Command,
) -> None:
    """Run what is missing of a table, seed by seed.

    Args:
        path: YAML file of the table.
        seeds: seeds to run each cell with.
        options: more options for every fit and test.
        only: names of values of axes.
        out: folder of checkpoints and logs.
        results: CSV file to append rows to.
        command: runs a subcommand of ``torchgeo`` or ``torchgeo-decur``, with its options.

    Raises:
        ValueError: if a name is on no axis.
        RuntimeError: if a cell failed; the others were run.
    """
    table = Table.read(path)
    if unknown := set(only) - {name for cell in table.cells for name in cell.name}:
        raise ValueError(f'only must name values of the axes, got {sorted(unknown)}')
    about = {
        'table': table.name,
        'options': ' '.join(options),
        'commit': provenance.commit(),
    }
    failed = []
    for seed, cell in product(seeds, table.cells):
        name = ' / '.join(cell.name)
        fresh = not any(
            row == row | about | {'cell': name, 'seed': str(seed)}
            for row in _read(results)
        )
        if not set(only) <= set(cell.name) or not fresh:
            continue
        print(f'{table.name}: {name}, seed {seed}', flush=True)
        try:
            found = _measure(table, cell, seed, options, out, command)
        except (RuntimeError, OSError) as error:
            failed.append(f'{name}, seed {seed}: {error}')
            continue
        row = about | {'cell': name, 'seed': str(seed)}
        row['hardware'] = provenance.hardware()
        _append(results, [row | {'metric': m, 'value': v} for m, v in found.items()])
    if failed:
        raise RuntimeError('these cells failed:\n' + '\n'.join(failed))


def render(path: Path, results: Path = RESULTS) -> str:
    """Render a table in Markdown: mean and 95 % interval over the seeds, in %.

    Rows of the newest commit of the table are taken, for a comparison is side by side.

    Args:
        path: YAML file of the table.
        results: CSV file with the rows.

    Returns:
        The table, and a line on where its numbers are from.
    """
    table = Table.read(path)
    rows = [row for row in _read(results) if row['table'] == table.name]
    if not rows:
        return 'Not measured.'
    newest = {key: rows[-1][key] for key in ('commit', 'options', 'hardware')}
    rows = [row for row in rows if row == row | newest]
    chosen = _choose(table, rows) if table.choose else {}
    header = [*table.axes, *table.metrics, *(['mean'] if chosen else [])]
    lines = [f'| {" | ".join(header)} |']
    numbers = len(header) - len(table.axes)
    lines.append('|' + '---|' * len(table.axes) + '---:|' * numbers)
    for cell in table.cells:
        values = _values(rows, ' / '.join(cell.name))
        cells = [*cell.name]
        cells += [
            _interval(values.get(m, ())) if m in values or not values else '-'
            for m in table.metrics.values()
        ]
        if chosen and values:
            cells.append(f'{100 * _mean(table, values):.1f}')
        if chosen.get(cell.name[:-1]) == cell.name[-1]:
            cells = [f'**{text}**' for text in cells]
        lines.append(f'| {" | ".join(cells)} |')
    seeds = sorted({int(row['seed']) for row in rows})
    extra = f', options `{newest["options"]}`' if newest['options'] else ''
    for name in table.parts:
        if values := _values(rows, name):
            lines += ['', f'{name}, by part:', '', *_parts(values)]
    ratio = len(seeds) ** 0.5 / student.ppf(0.975, max(len(seeds) - 1, 1))
    lines += [
        '',
        f'In %, mean ± half of the 95 % interval (Student t) over the seeds {seeds}, of '
        f'which the standard deviation is {ratio:.2f} times; `experiments/tables/{path.name}`{extra}, commit `{newest["commit"]}`, '
        f'{newest["hardware"]}.',
    ]
    return '\n'.join(lines)


def best(path: Path, results: Path = RESULTS) -> dict[tuple[str, ...], str]:
    """Tell which value of the axis to choose is best, by the newest commit of a table.

    Args:
        path: YAML file of the table.
        results: CSV file with the rows.

    Returns:
        The value, by those on the other axes.
    """
    table = Table.read(path)
    rows = [row for row in _read(results) if row['table'] == table.name]
    return _choose(table, [row for row in rows if row['commit'] == rows[-1]['commit']])


def _choose(table: Table, rows: Sequence[Row]) -> dict[tuple[str, ...], str]:
    means: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for cell in table.cells:
        if values := _values(rows, ' / '.join(cell.name)):
            means[cell.name[:-1]][cell.name[-1]] = _mean(table, values)
    return {name: max(found, key=found.__getitem__) for name, found in means.items()}


def _mean(table: Table, values: Mapping[str, Sequence[float]]) -> float:
    return mean(mean(values[m]) for m in table.metrics.values() if m in values)


def _values(rows: Sequence[Row], cell: str) -> dict[str, list[float]]:
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row['cell'] == cell:
            values[row['metric']].append(float(row['value']))
    return values


def _parts(values: Mapping[str, Sequence[float]]) -> list[str]:
    """Lines of a table of probes: a row for what is probed, a column for each label."""
    split = [metric.split(maxsplit=1) for metric in values]
    labels, places = (list(dict.fromkeys(x)) for x in zip(*split, strict=True))
    lines = [f'| part | {" | ".join(labels)} |', '|---|' + '---:|' * len(labels)]
    for place in places:
        cells = [_interval(values.get(f'{label} {place}', ())) for label in labels]
        lines.append(f'| {place} | {" | ".join(cells)} |')
    return lines


def _measure(
    table: Table,
    cell: Cell,
    seed: int,
    options: Sequence[str],
    out: Path,
    command: Command,
) -> dict[str, str]:
    """Pretrain if needed, fit and test, or probe, one cell; its metrics."""
    words = {'seed': str(seed), 'encoders': ''}
    if cell.pretrain is not None:
        start = _start(out, cell, seed)
        if not (export := _newest(start, 'encoders')):
            command(_command('fit', cell.pretrain, words, start, 'run'))
            export = _newest(start, 'encoders')
        if export is None:
            raise RuntimeError('the pretraining exported no encoders')
        words['encoders'] = str(export)
        if cell.probes:
            return _probe(table, cell, export.parent, options, command)
    given = [*cell.fit, *options]
    # What was fitted with other options is not gone on from.
    name = f'{_slug(cell.name)}_{_digest(given)}'
    here = out / table.name / provenance.commit() / f'seed_{seed}' / name
    command(_command('fit', given, words, here, 'fit'))
    command(_command('test', given, words, here, 'fit', 'test'))
    metrics = _newest(here, 'metrics.csv', 'test')
    if metrics is None:
        raise RuntimeError(f'the test wrote no metrics.csv in {here}')
    with metrics.open() as file:
        found = {k: v for row in csv.DictReader(file) for k, v in row.items() if v}
    _check(table, found)
    return {m: found[m] for m in table.metrics.values() if m in found}


def _start(out: Path, cell: Cell, seed: int) -> Path:
    """Folder of a pretraining, by all that decides it; its name in a table does not."""
    words = [
        Path(option.removeprefix('--config=')).read_text()
        if option.startswith('--config=')
        else option
        for option in cell.pretrain or ()
    ]
    code = provenance.commit('torchgeo_decur')
    return out / 'pretrain' / code / f'seed_{seed}' / _digest(words)


def _digest(words: Sequence[str]) -> str:
    return sha256('\n'.join(words).encode()).hexdigest()[:7]


def _probe(
    table: Table, cell: Cell, run: Path, options: Sequence[str], command: Command
) -> dict[str, str]:
    found = {}
    for number, given in enumerate(cell.probes):
        out = run / f'probes_{number}.csv'
        config = str(run / 'config.yaml')
        command(['probe', config, f'--out={out}', *given, *options])
        with out.open() as file:
            for row in csv.DictReader(file):
                share = float(row['fraction'])
                place = f'{row["label"]} {row["name"]} {row["part"]}'
                name = place if share == 1 else f'{place} {share:g}'
                found[name] = f'{float(row["score"]) / 100:.5f}'
    _check(table, found)
    shown = found if cell.name[0] in table.parts else table.metrics.values()
    return {m: found[m] for m in shown if m in found}


def _check(table: Table, found: Mapping[str, str]) -> None:
    if next(iter(table.metrics.values())) not in found:
        raise RuntimeError(
            f'metrics must be among {sorted(found)}, got {list(table.metrics.values())}'
        )


def _command(
    command: str,
    options: Sequence[str],
    words: Mapping[str, str],
    folder: Path,
    fitted: str,
    name: str = '',
) -> list[str]:
    """Arguments of ``torchgeo``; goes on from the newest checkpoint of a fit."""
    filled = list(options)
    for word, value in words.items():
        filled = [option.replace(f'{{{word}}}', value) for option in filled]
    logger = '--trainer.logger.init_args'
    checkpoint = _newest(folder, 'checkpoints/*.ckpt', fitted)
    return [
        command,
        *filled,
        f'--seed_everything={words["seed"]}',
        f'{logger}.save_dir={folder}',
        f'{logger}.name={name or fitted}',
        *([f'--ckpt_path={checkpoint}'] if checkpoint else []),
    ]


def _resolve(options: Sequence[str], folder: Path) -> tuple[str, ...]:
    starts = ('--config=', '--data=')
    if wrong := [o for o in options if not isinstance(o, str)]:
        raise ValueError(f'options must be text, got {wrong[0]!r}; put it in quotes')
    parts = [option.partition('=') for option in options]
    return tuple(
        f'{key}={(folder / value).resolve()}' if key + equals in starts else option
        for option, (key, equals, value) in zip(options, parts, strict=True)
    )


def _newest(folder: Path, pattern: str, name: str = 'run') -> Path | None:
    found = (folder / name).glob(f'version_*/{pattern}')
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _slug(names: Sequence[str]) -> str:
    text = '_'.join(names)
    return ''.join(c if c.isalnum() or c in '+-._' else '-' for c in text)


def _interval(values: Sequence[float]) -> str:
    if not values:
        return 'not measured'
    if len(values) == 1:
        return f'{100 * values[0]:.1f}'
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return f'{100 * mean(values):.1f} ± {100 * half:.1f}'


def _read(results: Path) -> list[Row]:
    if not results.exists():
        return []
    with results.open(newline='') as file:
        return list(csv.DictReader(file))


def _append(results: Path, rows: Sequence[Row]) -> None:
    provenance.append(results, COLUMNS, rows)


if __name__ == '__main__':
    auto_cli([run, show])
