"""Measure samples per second of a fit with 1, 2 and 4 processes in Lightning's DDP.

    python -m experiments.benchmarks.scaling

Each process has its own part of the data, and one CPU thread or its own GPU. All processes use the
same batch size (weak scaling). Numbers of processes above the number of cores or GPUs are skipped.
The first two steps are not measured.

Rows are appended to ``experiments/benchmarks/results_scaling.csv``.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from jsonargparse import auto_cli
from lightning.pytorch import Callback, Trainer, seed_everything
from torch.utils.data import DataLoader

from experiments.benchmarks.measure import DEVICE
from experiments.benchmarks.record import FOLDER, record, render
from experiments.provenance import ROOT
from torchgeo_decur.tasks import DeCUR

WARM = 2


class Times(Callback):
    """Callback that records the end of each step."""

    def __init__(self) -> None:
        """Initialize a new Times instance."""
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Record the time after synchronizing with the device."""
        if DEVICE.type == 'cuda':
            torch.cuda.synchronize()
        self.ends.append(perf_counter())


def main(
    processes: Sequence[int] = (1, 2, 4),
    model: str = 'resnet18',
    projector: Sequence[int] = (2048, 2048),
    batch_size: int = 8,
    size: int = 112,
    steps: int = 12,
    results: Path = FOLDER / 'results_scaling.csv',
) -> None:
    """Measure all cases, print a table and append its rows to a CSV file.

    Args:
        processes: numbers of processes to measure.
        model: name of a timm model.
        projector: output width of each projector layer.
        batch_size: number of samples per batch and process.
        size: size of images and views in pixels.
        steps: number of measured steps per fit.
        results: CSV file to append to.
    """
    most = torch.cuda.device_count() if DEVICE.type == 'cuda' else os.cpu_count() or 1
    rows, alone = [], 0.0
    for number in processes:
        if number > most:
            print(f'skipping {number} processes: the machine supports only {most}')
            continue
        with TemporaryDirectory() as folder:
            options = [str(o) for o in (number, model, batch_size, size, steps)]
            widths = ','.join(map(str, projector))
            command = [
                sys.executable,
                '-m',
                'experiments.benchmarks.scaling',
                'fit',
                folder,
                *options,
                widths,
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
            seconds = torch.load(Path(folder) / 'seconds.pt', weights_only=True)
        rates = [number * batch_size / s for s in seconds]
        alone = alone or median(rates) / number
        case = {'processes': number, 'model': model, 'batch': batch_size, 'size': size}
        rows.append(record('scaling', case, rates, 'samples/s', results))
        shares = [rate / alone / number for rate in rates]
        efficiency = {**case, 'what': 'efficiency'}
        rows.append(record('scaling', efficiency, shares, 'of linear', results))
    print(render(rows))


def fit(
    folder: str,
    processes: int,
    model: str,
    batch_size: int,
    size: int,
    steps: int,
    projector: Sequence[int],
) -> None:
    """Run a fit and write the seconds of its steps to a folder."""
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    task = DeCUR({'s1': 2, 's2': 13}, model, projector=projector, size=size)
    # Reuse a few images, because loading has its own benchmark.
    samples = [
        {'image_s1': torch.rand(2, size, size), 'image_s2': torch.rand(13, size, size)}
        for _ in range(batch_size)
    ]
    loader: DataLoader[dict[str, torch.Tensor]] = DataLoader(
        processes * (steps + WARM) * samples,  # type: ignore[arg-type]
        batch_size,
        drop_last=True,
    )
    times = Times()
    trainer = Trainer(
        accelerator='gpu' if DEVICE.type == 'cuda' else 'cpu',
        devices=processes,
        strategy='ddp' if processes > 1 else 'auto',
        max_epochs=-1,
        max_steps=steps + WARM,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[times],
        default_root_dir=folder,
    )
    trainer.fit(task, loader)
    if trainer.is_global_zero:
        ends = times.ends[WARM - 1 :]
        seconds = [after - before for before, after in pairwise(ends)]
        torch.save(seconds, Path(folder) / 'seconds.pt')


if __name__ == '__main__':
    if sys.argv[1:2] == ['fit']:
        where, number, name, batch, side, count, widths = sys.argv[2:]
        layers = [int(w) for w in widths.split(',')]
        fit(where, int(number), name, int(batch), int(side), int(count), layers)
    else:
        auto_cli(main)
