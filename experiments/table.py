"""Run a table of experiments and show its results.

    python -m experiments.table run experiments/tables/synthetic.yaml --seeds '[0, 1, 2]'
    python -m experiments.table show experiments/tables/synthetic.yaml

A table is a YAML file with these keys:

- ``fit``: options of ``torchgeo fit`` for all cells;
- ``axes``: options for each value of each axis, by name. The cells are all combinations of values;
- ``pretrain``: options of each pretraining run that exports encoders, by name. They follow the
  options in ``pretrain_all``. The names are the values of the first axis, ``encoders``, which can
  add options. In the options of a cell, ``{encoders}`` stands for the export folder. A name can
  have several pretraining runs for different modalities, by name;
- ``pretrain_axes``: axes with options for pretraining;
- ``against``: a value of the first axis. A second table shows the differences between the other
  values and this one, paired by seed;
- ``summary``: names of metrics, by header and value of an axis. A separate table shows their mean
  over all cells with these values, for each value of the first axis;
- ``choose``: the name of the last axis. For each combination of the other axes, its value with the
  highest mean metric is marked;
- ``probe``, instead of ``fit``: a list of options for each run of ``torchgeo-decur probe`` on the
  pretrained encoders;
- ``metrics``: metrics of ``torchgeo test``, one per column; or, by header, metrics of the probes,
  such as ``label_s1 together features``. A list of metrics is shown as its mean. Columns can be
  grouped by title, which gives several tables of the same cells. Only the first column is required
  in all cells;
- ``parts``: cells for which a table of all probes is shown.

A relative path in ``--config`` or ``--data`` is relative to the folder of the table, and ``{seed}``
stands for the seed. Each cell is fitted, and its last checkpoint is tested once. The logger must be
Lightning's CSVLogger.

Rows are appended to ``experiments/results.csv``: table and cell, extra options, commit, seed,
hardware, metric, value. The commit is the last one that changed the package or the experiments,
with a hash of uncommitted changes. Cells with rows do not run again, and an interrupted fit resumes
from its checkpoint. Tables share pretraining runs with the same package, options and config files.
Rows are identified by commit and options instead of numbers, so ``resumable_parts`` would not
simplify this module.
"""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from jsonargparse import auto_cli

from experiments import forked, provenance
from experiments.definition import Cell, Table
from experiments.rendering import RESULTS, read_rows, render

ROOT = provenance.ROOT
COLUMNS = ('table', 'cell', 'options', 'commit', 'seed', 'hardware', 'metric', 'value')

type Command = Callable[[Sequence[str]], None]


def run(
    table: Path,
    seeds: Sequence[int] = (0,),
    options: Sequence[str] = (),
    only: Sequence[str] = (),
    out: Path = ROOT / 'outputs' / 'tables',
    results: Path = RESULTS,
    workers: int = 1,
) -> None:
    """Run the cells of a table that have no results yet.

    Args:
        table: YAML file of the table.
        seeds: random seeds with which to run each cell.
        options: additional options for every fit and test, such as --data.init_args.root=PATH.
        only: values of axes; only cells with all of these values run.
        out: folder for checkpoints and logs.
        results: CSV file to append rows to.
        workers: number of cells that run in parallel; they divide the cores among them.
    """
    if workers > 1:
        os.environ['OMP_NUM_THREADS'] = str(max(1, (os.cpu_count() or 1) // workers))
    fill(table, seeds, options, only, out, results, forked.run, workers)
    print(render(table, results))


def show(table: Path, results: Path = RESULTS) -> None:
    """Print the results of a table in Markdown.

    Args:
        table: YAML file of the table.
        results: CSV file of the results.
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
    workers: int = 1,
) -> None:
    """Run the cells of a table that have no results yet, seed by seed.

    Args:
        path: YAML file of the table.
        seeds: random seeds with which to run each cell.
        options: additional options for every fit and test.
        only: values of axes; only cells with all of these values run.
        out: folder for checkpoints and logs.
        results: CSV file to append rows to.
        command: function that runs a subcommand of ``torchgeo`` or ``torchgeo-decur``.
        workers: number of cells that run in parallel.

    Raises:
        ValueError: if a value in ``only`` is on no axis.
        RuntimeError: if a cell failed; it is raised after all other cells have run.
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

    def measure(cell: Cell, seed: int) -> None:
        name = ' / '.join(cell.name)
        print(f'{table.name}: {name}, seed {seed}', flush=True)
        try:
            found = _measure(table, cell, seed, options, out, command)
        except (RuntimeError, OSError) as error:
            failed.append(f'{name}, seed {seed}: {error}')
            return
        row = about | {'cell': name, 'seed': str(seed)}
        row['hardware'] = provenance.hardware()
        provenance.append(
            results,
            COLUMNS,
            [row | {'metric': m, 'value': v} for m, v in found.items()],
        )

    pool = ThreadPoolExecutor(workers)
    try:
        for seed in seeds:
            done = {
                row['cell']
                for row in read_rows(results)
                if row == row | about | {'seed': str(seed)}
            }
            cells = [
                cell
                for cell in table.cells
                if set(only) <= set(cell.name) and ' / '.join(cell.name) not in done
            ]
            if workers > 1:
                # Run all pretraining first, because parallel cells share it.
                starts = dict.fromkeys(s for cell in cells for s in cell.pretrains)
                tries = [pool.submit(_pretrain, s, seed, out, command) for s in starts]
                for start in tries:
                    start.exception()  # the cells raise the error
            tasks = [pool.submit(measure, cell, seed) for cell in cells]
            for task in tasks:
                task.result()
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise RuntimeError('these cells failed:\n' + '\n'.join(failed))


def _measure(
    table: Table,
    cell: Cell,
    seed: int,
    options: Sequence[str],
    out: Path,
    command: Command,
) -> dict[str, str]:
    """Pretrain if needed, fit and test or probe a cell, and return its metrics."""
    words = {'seed': str(seed), 'encoders': ''}
    exports = [_pretrain(options, seed, out, command) for options in cell.pretrains]
    if cell.probes:
        return _probe(table, cell, exports[0].parent, options, command)
    if exports:
        words['encoders'] = str(_together(exports))
    given = [*cell.fit, *options]
    # A fit with other options must not resume from the same checkpoint.
    name = f'{_slug(cell.name)}_{_digest(given)}'
    here = out / table.name / provenance.commit() / f'seed_{seed}' / name
    command(_command('fit', given, words, here, 'fit'))
    command(_command('test', given, words, here, 'fit', 'test'))
    metrics = _newest(here, 'metrics.csv', 'test')
    if metrics is None:
        raise RuntimeError(
            f'the test wrote no metrics.csv to {here}; set the logger to CSVLogger'
        )
    with metrics.open() as file:
        found = {k: v for row in csv.DictReader(file) for k, v in row.items() if v}
    _check(table, found)
    return {m: found[m] for m in table.measured if m in found}


def _pretrain(options: Sequence[str], seed: int, out: Path, command: Command) -> Path:
    """Pretrain, unless another table has done so, and return the export folder."""
    start = _start(out, options, seed)
    if not (export := _newest(start, 'encoders')):
        words = {'seed': str(seed), 'encoders': ''}
        command(_command('fit', options, words, start, 'run'))
        export = _newest(start, 'encoders')
    if export is None:
        raise RuntimeError(
            f'the pretraining in {start} exported no encoders; add the callback '
            'ExportEncoders'
        )
    return export


def _together(exports: Sequence[Path]) -> Path:
    """Return one folder with the encoders of all pretraining runs."""
    if len(exports) == 1:
        return exports[0]
    files = [file for export in exports for file in sorted(export.iterdir())]
    if len({file.name for file in files}) < len(files):
        raise RuntimeError(
            'pretraining runs of a cell must export different files, got '
            f'{[*map(str, files)]}'
        )
    # The folder of a pretraining run is two levels above its export folder.
    folder = exports[0].parents[2] / f'with_{_digest([*map(str, exports)])}'
    folder.mkdir(exist_ok=True)
    for file in files:
        with suppress(FileExistsError):
            (folder / file.name).symlink_to(file.resolve())
    return folder


def _start(out: Path, options: Sequence[str], seed: int) -> Path:
    """Return the folder of a pretraining run, which depends on code, options and seed."""
    words = [
        Path(option.removeprefix('--config=')).read_text()
        if option.startswith('--config=')
        else option
        for option in options
    ]
    code = ['torchgeo_decur']
    if any('experiments.adaptive.' in word for word in words):
        code.append('experiments/adaptive.py')
    return out / 'pretrain' / provenance.commit(*code) / f'seed_{seed}' / _digest(words)


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
    shown = found if cell.name[0] in table.parts else table.measured
    return {m: found[m] for m in shown if m in found}


def _check(table: Table, found: Mapping[str, str]) -> None:
    if table.measured[0] not in found:
        raise RuntimeError(
            f'metrics must be among {sorted(found)}, got {list(table.measured)}'
        )


def _command(
    command: str,
    options: Sequence[str],
    words: Mapping[str, str],
    folder: Path,
    fitted: str,
    name: str = '',
) -> list[str]:
    """Return the arguments of ``torchgeo``, which resume from the newest checkpoint."""
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


def _newest(folder: Path, pattern: str, name: str = 'run') -> Path | None:
    found = (folder / name).glob(f'version_*/{pattern}')
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _slug(names: Sequence[str]) -> str:
    text = '_'.join(names)
    return ''.join(c if c.isalnum() or c in '+-._' else '-' for c in text)


if __name__ == '__main__':
    auto_cli([run, show])
