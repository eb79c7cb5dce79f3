"""Measure the seconds of ``import torchgeo_decur``, and of the help of the command.

    python -m experiments.benchmarks.startup

Each case runs in separate processes, in turn, without the first run, which fills the cache of
files. For comparison, ``torchgeo_decur`` imports ``torchgeo.models``, and TorchGeo's command imports
``torchgeo.main``.

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
# The command, as in its script.
COMMANDS = ('--help', 'weights', 'config')
START = 'import sys; sys.argv = ["torchgeo-decur", "{}"]; from torchgeo_decur.cli import main; main()'


def main(repeats: int = 5, results: Path = FOLDER / 'results_startup.csv') -> None:
    """Measure, print a table and append it.

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
