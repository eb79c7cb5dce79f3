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
- ``metrics``: columns of the metrics of ``torchgeo test``. Only the first must be there in
  all cells.

A relative ``--config`` starts at the folder of the table, ``{seed}`` is the seed. Each cell is
fitted, and its last checkpoint is tested once; the logger must be Lightning's CSVLogger.

Rows are appended to ``experiments/results.csv``: table and cell, extra options, commit, seed,
hardware, metric, value. The commit is the last one that changed the package or the
experiments, followed by a hash of what differs from it, if anything does. Cells whose rows are
there are not run again; an interrupted fit goes on from its checkpoint.
"""

import csv
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import provenance
import yaml
from jsonargparse import auto_cli
from scipy.stats import t as student

ROOT = provenance.ROOT
RESULTS = ROOT / 'experiments' / 'results.csv'
COLUMNS = ('table', 'cell', 'options', 'commit', 'seed', 'hardware', 'metric', 'value')

type Row = dict[str, str]
type Command = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class Cell:
    """One experiment of a table.

    Args:
        name: its value on each axis.
        pretrain: options of the pretraining, if there is one.
        fit: options of the fit.
    """

    name: tuple[str, ...]
    pretrain: tuple[str, ...] | None
    fit: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of experiments.

    Args:
        name: name of its file.
        axes: names of the axes.
        cells: the experiments.
        metrics: what is measured.
    """

    name: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    metrics: tuple[str, ...]

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
        known = {'fit', 'axes', 'pretrain', 'pretrain_all', 'metrics'}
        if not {'fit', 'metrics'} <= set(content) <= known:
            raise ValueError(
                f'{path} must have fit and metrics, and may have axes, pretrain and '
                f'pretrain_all, got {sorted(content)}'
            )
        every: list[str] = content.get('pretrain_all', [])
        starts: dict[str, list[str]] = content.get('pretrain', {})
        axes: dict[str, dict[str, list[str]]] = content.get('axes', {})
        if starts:
            more = axes.pop('encoders', {})
            if unknown := sorted(set(more) - set(starts)):
                raise ValueError(
                    f'{path}: encoders must be among those of pretrain, got {unknown}'
                )
            axes = {'encoders': {name: more.get(name, []) for name in starts}} | axes
        cells = []
        for names in product(*axes.values()):
            chosen = zip(axes.values(), names, strict=True)
            options = [o for values, name in chosen for o in values[name]]
            cells.append(
                Cell(
                    tuple(map(str, names)),
                    _resolve([*every, *starts[names[0]]], path.parent)
                    if starts
                    else None,
                    _resolve([*content['fit'], *options], path.parent),
                )
            )
        return cls(path.stem, tuple(axes), tuple(cells), tuple(content['metrics']))


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
    fill(table, seeds, options, only, out, results, _torchgeo)
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
    torchgeo: Command,
) -> None:
    """Run what is missing of a table, seed by seed.

    Args:
        path: YAML file of the table.
        seeds: seeds to run each cell with.
        options: more options for every fit and test.
        only: names of values of axes.
        out: folder of checkpoints and logs.
        results: CSV file to append rows to.
        torchgeo: runs the command ``torchgeo`` with some arguments.

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
        folder = out / table.name / about['commit'] / f'seed_{seed}'
        try:
            found = _measure(table, cell, seed, options, folder, torchgeo)
        except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
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
    header = [*table.axes, *(m.removeprefix('test_') for m in table.metrics)]
    lines = [f'| {" | ".join(header)} |']
    lines.append('|' + '---|' * len(table.axes) + '---:|' * len(table.metrics))
    for cell in table.cells:
        values: dict[str, list[float]] = {m: [] for m in table.metrics}
        for row in rows:
            if row['cell'] == ' / '.join(cell.name) and row['metric'] in values:
                values[row['metric']].append(float(row['value']))
        done = any(values.values())
        cells = [*cell.name]
        cells += [_interval(v) if v or not done else '-' for v in values.values()]
        lines.append(f'| {" | ".join(cells)} |')
    seeds = sorted({int(row['seed']) for row in rows})
    extra = f', options `{newest["options"]}`' if newest['options'] else ''
    lines += [
        '',
        f'In %, mean ± half of the 95 % interval (Student t) over the seeds {seeds}; '
        f'`experiments/tables/{path.name}`{extra}, commit `{newest["commit"]}`, '
        f'{newest["hardware"]}.',
    ]
    return '\n'.join(lines)


def _measure(
    table: Table,
    cell: Cell,
    seed: int,
    options: Sequence[str],
    folder: Path,
    torchgeo: Command,
) -> dict[str, str]:
    """Pretrain if needed, fit and test one cell; its metrics."""
    words = {'seed': str(seed), 'encoders': ''}
    if cell.pretrain is not None:
        start = folder / f'pretrain_{_slug(cell.name[:1])}'
        if not (export := _newest(start, 'encoders')):
            torchgeo(_command('fit', cell.pretrain, words, start, 'run'))
            export = _newest(start, 'encoders')
        if export is None:
            raise RuntimeError('the pretraining exported no encoders')
        words['encoders'] = str(export)
    given = [*cell.fit, *options]
    # What was fitted with other options is not gone on from.
    digest = sha256('\n'.join(given).encode()).hexdigest()[:7]
    here = folder / f'{_slug(cell.name)}_{digest}'
    torchgeo(_command('fit', given, words, here, 'fit'))
    torchgeo(_command('test', given, words, here, 'fit', 'test'))
    metrics = _newest(here, 'metrics.csv', 'test')
    if metrics is None:
        raise RuntimeError(f'the test wrote no metrics.csv in {here}')
    with metrics.open() as file:
        found = {k: v for row in csv.DictReader(file) for k, v in row.items() if v}
    measured = {m: found[m] for m in table.metrics if m in found}
    if table.metrics[0] not in measured:
        raise RuntimeError(
            f'metrics must be among {sorted(found)}, got {list(table.metrics)}'
        )
    return measured


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


def _torchgeo(args: Sequence[str]) -> None:
    subprocess.run([sys.executable, '-m', 'torchgeo', *args], check=True)


def _resolve(options: Sequence[str], folder: Path) -> tuple[str, ...]:
    start = '--config='
    if wrong := [o for o in options if not isinstance(o, str)]:
        raise ValueError(f'options must be text, got {wrong[0]!r}; put it in quotes')
    return tuple(
        f'{start}{(folder / o.removeprefix(start)).resolve()}'
        if o.startswith(start)
        else o
        for o in options
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
