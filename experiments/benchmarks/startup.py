"""Measure the time of ``import torchgeo_decur``, and of the command's help and lists.

    python -m experiments.benchmarks.startup

The cases alternate, each run in a separate process. The first run fills the file cache and is not
measured. Two imports serve as references: ``torchgeo_decur`` imports ``torchgeo.models``, and
TorchGeo's command imports ``torchgeo.main``.

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
# Run the command as its console script does.
COMMANDS = ('--help', 'weights', 'config')
START = 'import sys; sys.argv = ["torchgeo-decur", "{}"]; from torchgeo_decur.cli import main; main()'


def main(repeats: int = 5, results: Path = FOLDER / 'results_startup.csv') -> None:
    """Measure all cases, print a table and append its rows to a CSV file.

    Args:
        repeats: number of runs of each case.
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
