"""Start-up: seconds of ``import torchgeo_decur`` and of what the command lists.

    python -m experiments.benchmarks.startup

Each case runs in a process of its own, in turn; the first of each, which reads files that no
cache holds, is left out. ``torchgeo.models`` is what ``torchgeo_decur`` builds on, and
``torchgeo.main`` is what the command of TorchGeo imports.

Rows are appended to ``experiments/benchmarks/results_startup.csv``.
"""

import subprocess
import sys
from functools import partial
from pathlib import Path

from jsonargparse import auto_cli

from experiments.benchmarks.measure import take_turns
from experiments.benchmarks.record import FOLDER, record, render

IMPORTS = {
    'nothing': 'pass',
    'torch': 'import torch',
    'torchgeo.models': 'import torchgeo.models',
    'torchgeo.main': 'import torchgeo.main',
    'torchgeo_decur': 'import torchgeo_decur',
    'torchgeo_decur.tasks': 'import torchgeo_decur.tasks',
}
# The command, as its script starts it.
COMMANDS = ('--help', 'weights', 'config')
START = 'import sys; sys.argv = ["torchgeo-decur", "{}"]; from torchgeo_decur.cli import main; main()'


def main(repeats: int = 5, results: Path = FOLDER / 'results_startup.csv') -> None:
    """Measure, print a table and append it.

    Args:
        repeats: how often each case runs.
        results: CSV file to append to.
    """
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    cases = {f'import={name}': code for name, code in IMPORTS.items()}
    cases |= {f'command={name}': START.format(name) for name in COMMANDS}
    seconds = take_turns(
        {
            case: partial(run, [sys.executable, '-c', code])
            for case, code in cases.items()
        },
        repeats,
        minutes=4,
    )
    rows = [
        record('startup', dict([case.split('=')]), found, 's', results)
        for case, found in seconds.items()
    ]
    print(render(rows))


if __name__ == '__main__':
    auto_cli(main)
