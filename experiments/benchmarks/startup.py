"""Start-up: seconds of ``import torchgeo_decur`` against ``import torchgeo``.

    python experiments/benchmarks/startup.py

Each import runs in a process of its own, in turn; the first of each, which reads files that no
cache holds, is left out. ``torchgeo`` is what its command imports; ``torchgeo_decur`` is the
package, and its command.

Rows are appended to ``experiments/benchmarks/results_startup.csv``.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path

from jsonargparse import auto_cli
from measure import take_turns
from record import FOLDER, record, render

IMPORTS = {
    'nothing': 'pass',
    'torch': 'import torch',
    'torchgeo': 'import torchgeo',
    'torchgeo.main': 'import torchgeo.main',
    'torchgeo_decur': 'import torchgeo_decur',
    'torchgeo_decur.tasks': 'import torchgeo_decur.tasks',
    'torchgeo_decur.cli': 'import torchgeo_decur.cli',
}


def main(repeats: int = 5, results: Path = FOLDER / 'results_startup.csv') -> None:
    """Measure, print a table and append it.

    Args:
        repeats: how often each import runs.
        results: CSV file to append to.
    """
    run = partial(subprocess.run, check=True)
    cases = {
        name: partial(run, [sys.executable, '-c', code])
        for name, code in IMPORTS.items()
    }
    seconds = take_turns(cases, repeats, minutes=4)
    rows = [
        record('startup', {'import': name}, found, 's', results)
        for name, found in seconds.items()
    ]
    print(render(rows))


if __name__ == '__main__':
    auto_cli(main)
