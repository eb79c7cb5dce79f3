"""Run all benchmarks and compare the results with their targets.

    python -m experiments.benchmarks.run
    python -m experiments.benchmarks.run --only '[loss, augmentation]'

Run this on an idle machine. Each benchmark runs in a separate process and appends its rows to its
own CSV file. The table shows only the rows of this run.
"""

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import auto_cli

from experiments.benchmarks.record import FOLDER, render
from experiments.benchmarks.targets import render_targets
from experiments.provenance import ROOT

ALL = (
    *('startup', 'loss', 'augmentation', 'data', 'archives', 'chips', 'step'),
    *('cost', 'compile', 'scaling'),
)


def main(only: Sequence[str] = ALL) -> None:
    """Run benchmarks and print tables of the results and the targets.

    Args:
        only: names of the benchmarks to run; all by default.

    Raises:
        ValueError: if a name is unknown.
    """
    if unknown := sorted(set(only) - set(ALL)):
        raise ValueError(f'only must name some of {list(ALL)}, got {unknown}')
    added = []
    for name in only:
        path = FOLDER / f'results_{name}.csv'
        before = len(_rows(path))
        subprocess.run(
            [sys.executable, '-m', f'experiments.benchmarks.{name}'],
            check=True,
            cwd=ROOT,
        )
        added += _rows(path)[before:]
    print(render(added), render_targets(), sep='\n\n')


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


if __name__ == '__main__':
    auto_cli(main)
