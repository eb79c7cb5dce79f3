"""Measure the setup time of a folder of georeferenced chips, and windows per second.

    python -m experiments.benchmarks.chips

Chips of two modalities, with 64 x 64 pixels of 10 m, are written to a temporary folder. They do not
overlap each other. The setup is ``RasterPairDataModule.setup('fit')``, which opens every file,
splits the chips and checks validation chips for nodata. Windows are drawn but not read.
``setup-processor`` is the CPU time, which depends less on other load on the machine.

Rows are appended to ``experiments/benchmarks/results_chips.csv``.
"""

import logging
import math
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, cast

import numpy as np
import rasterio
from jsonargparse import auto_cli
from rasterio.transform import from_origin

from experiments.benchmarks.measure import take_turns
from experiments.benchmarks.record import FOLDER, Row, record, render
from torchgeo_decur.datamodules import RasterPairDataModule
from torchgeo_decur.datasets.rasters.windows import RandomWindows

SIDE = 64
RESOLUTION = 10.0
MODALITIES = {
    's1': ('float32', ['VV', 'VH']),
    's2': ('uint16', ['B4', 'B3', 'B2', 'B8']),
}


def write_chips(root: Path, number: int) -> None:
    """Write chips of both modalities, each chip on a grid of its own.

    Args:
        root: output folder.
        number: number of chips.
    """
    generator = np.random.default_rng(0)
    columns = math.ceil(math.sqrt(2 * number))
    cells = generator.permutation(columns**2)[:number]
    for m in MODALITIES:
        (root / m).mkdir(parents=True)
    for chip, cell in enumerate(cells.tolist()):
        row, column = divmod(cell, columns)
        x, y = (np.array([column, row]) + generator.random(2) / 4) * 2 * SIDE
        place = from_origin(
            400000 + x * RESOLUTION, 5500000 + y * RESOLUTION, RESOLUTION, RESOLUTION
        )
        for m, (dtype, bands) in MODALITIES.items():
            values = generator.integers(1, 1000, (len(bands), SIDE, SIDE), np.uint16)
            about: dict[str, Any] = {
                'driver': 'GTiff',
                'width': SIDE,
                'height': SIDE,
                'count': len(bands),
                'dtype': dtype,
                'crs': 'EPSG:32632',
                'transform': place,
            }
            with rasterio.open(root / m / f'{chip:06d}.tif', 'w', **about) as file:
                file.write(values.astype(dtype))


def module(root: Path, length: int) -> RasterPairDataModule:
    """Build a datamodule for the chips in a folder.

    Args:
        root: folder of the chips.
        length: number of windows to draw.

    Returns:
        The datamodule, not yet set up.
    """
    rasters = {
        m: {'paths': str(root / m), 'bands': bands}
        for m, (_, bands) in MODALITIES.items()
    }
    return RasterPairDataModule(rasters, patch_size=SIDE, length=length)


def _measure(
    root: Path, number: int, draws: int, repeats: int, minutes: float, results: Path
) -> list[Row]:
    """Measure a folder of chips and append the rows to a CSV file."""
    made = module(root, draws)
    epochs = count()
    busy: list[float] = []

    def set_up() -> None:
        nonlocal made
        made = module(root, draws)
        start = process_time()
        made.setup('fit')
        busy.append(process_time() - start)

    def draw() -> None:
        windows = cast(RandomWindows, made.train_dataset)
        windows.set_epoch(next(epochs))
        windows.windows()

    cases: dict[str, Callable[[], None]] = {'setup': set_up, 'draw': draw}
    seconds = take_turns(cases, repeats, minutes)
    case = {'chips': number, 'files': number * len(MODALITIES)}
    rates = [draws / s for s in seconds['draw']]
    found = {
        'setup': (seconds['setup'], 's'),
        # Omit the first run, which is a warm-up.
        'setup-processor': (busy[1:], 's'),
        'draw': (rates, 'windows/s'),
    }
    return [
        record('chips', {**case, 'what': what}, values, unit, results)
        for what, (values, unit) in found.items()
    ]


def main(
    chips: Sequence[int] = (1000, 10000),
    draws: int = 20000,
    repeats: int = 3,
    minutes: float = 4.0,
    results: Path = FOLDER / 'results_chips.csv',
) -> None:
    """Measure all cases, print a table and append its rows to a CSV file.

    Args:
        chips: numbers of chips to measure.
        draws: number of windows per draw.
        repeats: number of runs of each case.
        minutes: time in minutes after which no further repeat starts.
        results: CSV file to append to.
    """
    rows = []
    for number in chips:
        with TemporaryDirectory() as folder:
            write_chips(Path(folder), number)
            rows += _measure(Path(folder), number, draws, repeats, minutes, results)
    print(render(rows))


if __name__ == '__main__':
    logging.getLogger('lightning.pytorch').setLevel(logging.WARNING)
    auto_cli(main)
