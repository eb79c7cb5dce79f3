"""Check that memory and open files do not grow in a long fit on packed data.

    python -m experiments.benchmarks.soak --minutes 30

Synthetic scenes are packed into a temporary folder, and a small DeCUR model is fitted on them with
worker processes, a logger, validation and checkpoints. Every few seconds, the memory and the number
of open files of each process are read from ``/proc`` and written to a CSV file. ``rss`` includes
pages of memory-mapped shards, which the system can free at any time; ``own`` does not.

At the end, the first fifth of the time, in which caches fill, is discarded. A line is fitted to the
means of ten blocks of the rest. A process grows if the 95 % interval of its slope is above zero and
the line rises enough: by more than 1 % of the memory, or by more than one file.

Slopes are appended to ``experiments/benchmarks/results_soak.csv``, with their 95 % intervals.
"""

import csv
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import numpy as np
import torch
from jsonargparse import auto_cli
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from scipy.stats import linregress
from scipy.stats import t as student

from experiments.benchmarks.record import FOLDER, record_interval
from torchgeo_decur.datamodules import PackedDataModule, SyntheticEODataModule
from torchgeo_decur.packed import pack_datamodule
from torchgeo_decur.tasks import DeCUR

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ('seconds', 'process', 'rss_mib', 'own_mib', 'files')
BLOCKS = 10

type Row = Mapping[str, float | str]


def main(
    minutes: float = 30.0,
    workers: int = 2,
    every: float = 2.0,
    length: int = 512,
    out: Path = ROOT / 'outputs' / 'soak.csv',
    results: Path = FOLDER / 'results_soak.csv',
) -> None:
    """Run a fit and monitor memory and open files.

    Args:
        minutes: duration of the fit in minutes.
        workers: number of worker processes per data loader.
        every: seconds between two measurements.
        length: number of training scenes.
        out: CSV file for the measurements.
        results: CSV file to append the slopes to.
    """
    torch.set_num_threads(1)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        scenes = SyntheticEODataModule(length=length, val_length=64)
        pack_datamodule(scenes, Path(folder, 'packed'), shard_size=16)
        watch = Watch(every, out)
        watch.start()
        try:
            steps = fit(Path(folder), minutes, workers)
        finally:
            watch.stop()
    print(f'{steps} steps in {minutes:g} minutes; {out}')
    with out.open(newline='') as file:
        slopes, grown = report(list(csv.DictReader(file)))
    for (name, column), slope in slopes.items():
        case = {'minutes': f'{minutes:g}', 'steps': steps, 'process': name}
        unit = f'{column.removesuffix("_mib")} {"MiB" if "mib" in column else ""}/h'
        record_interval('soak', case, slope, unit.replace(' /', '/'), results)
    if grown:
        sys.exit(f'memory or open files grew: {", ".join(grown)}')


def fit(folder: Path, minutes: float, workers: int) -> int:
    """Run a fit for some minutes and return its number of steps."""
    task = DeCUR(
        {'s1': 2, 's2': 13}, 'test_resnet', projector=[64, 64], size=48, lr=1e-3
    )
    trainer = Trainer(
        accelerator='cpu',
        devices=1,
        max_epochs=-1,
        max_time={'seconds': round(60 * minutes)},
        logger=CSVLogger(folder, name='log'),
        callbacks=[ModelCheckpoint(folder / 'checkpoints', save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=5,
    )
    data = PackedDataModule(str(folder / 'packed'), batch_size=32, num_workers=workers)
    trainer.fit(task, datamodule=data)
    return int(trainer.global_step)


class Watch(Thread):
    """Thread that measures this process and its workers.

    Measurements are written to a file immediately, because storing them would use memory.

    Args:
        every: seconds between two measurements.
        out: CSV file for the measurements.
    """

    def __init__(self, every: float, out: Path) -> None:
        """Initialize a new Watch instance."""
        super().__init__(daemon=True)
        self.every, self.out = every, out
        self.over = Event()

    def run(self) -> None:
        """Measure until :meth:`stop`."""
        with self.out.open('w', newline='', buffering=1) as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(COLUMNS)
            self.look(writer.writerow)

    def look(self, see: Callable[[Sequence[object]], object]) -> None:
        """Measure all processes at regular times.

        Args:
            see: function to call with the values of one process, in the order of the columns.
        """
        start = monotonic()
        while not self.over.wait(self.every):
            workers = sorted(
                p.pid for p in multiprocessing.active_children() if p.pid is not None
            )
            for number, pid in enumerate([os.getpid(), *workers]):
                name = f'worker {number}' if number else 'main'
                try:
                    rss, own = memory(pid)
                    files = len(os.listdir(f'/proc/{pid}/fd'))
                # A worker may end during a measurement.
                except (FileNotFoundError, ProcessLookupError):
                    continue
                see((round(monotonic() - start, 1), name, rss, own, files))

    def stop(self) -> None:
        """Stop measuring."""
        self.over.set()
        self.join()


def memory(pid: int) -> tuple[float, float]:
    """Return a process's resident memory in MiB, in total and without mapped files."""
    found = {}
    for line in Path(f'/proc/{pid}/status').read_text().splitlines():
        key, _, value = line.partition(':')
        if key in ('VmRSS', 'RssAnon'):
            found[key] = round(int(value.split()[0]) / 1024, 1)
    if len(found) < 2:
        raise ProcessLookupError(f'process {pid} has no memory, because it is ending')
    return found['VmRSS'], found['RssAnon']


def report(
    rows: Sequence[Row],
) -> tuple[dict[tuple[str, str], tuple[float, float, float]], list[str]]:
    """Print the growth of each process.

    Args:
        rows: rows of the CSV file of measurements.

    Returns:
        Slopes per hour with their intervals, by process and column; and the names of the process
        and column of each growing value.
    """
    slopes: dict[tuple[str, str], tuple[float, float, float]] = {}
    grown = []
    print(
        f'{"process":<10}{"value":<9}{"mean":>9}{"slope per hour":>16}  95 % interval'
    )
    for name in sorted({str(row['process']) for row in rows}):
        own = [row for row in rows if row['process'] == name]
        seconds = np.array([float(row['seconds']) for row in own])
        kept = seconds > seconds.min() + (seconds.max() - seconds.min()) / 5
        for column in COLUMNS[2:]:
            values = np.array([float(row[column]) for row in own])[kept]
            if len(values) < 2 * BLOCKS:
                print(f'{name:<10}{column:<9}  too few measurements ({len(values)})')
                continue
            slope, low, high = trend(seconds[kept] / 3600, values)
            slopes[name, column] = slope, low, high
            print(
                f'{name:<10}{column:<9}{values.mean():>9.1f}{slope:>16.2f}  '
                f'{low:.2f} to {high:.2f}'
            )
            rise = slope * (seconds[kept].max() - seconds[kept].min()) / 3600
            if low > 0 and rise > (1 if column == 'files' else values.mean() / 100):
                grown.append(f'{name} {column}')
    return slopes, grown


def trend(hours: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Fit a line to the means of blocks; return its slope and the 95 % interval.

    Means of long blocks are less correlated than single values.
    """
    x, y = (
        [float(part.mean()) for part in np.array_split(v, BLOCKS)]
        for v in (hours, values)
    )
    # For constant values, the standard error is 0.
    if min(y) == max(y):
        return 0.0, 0.0, 0.0
    line = linregress(x, y)
    half = float(student.ppf(0.975, BLOCKS - 2) * line.stderr)
    return float(line.slope), float(line.slope) - half, float(line.slope) + half


if __name__ == '__main__':
    auto_cli(main)
