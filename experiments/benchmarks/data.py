"""Measure samples per second of GeoTIFF folders, packed shards and synthetic scenes.

    python -m experiments.benchmarks.data

Synthetic scenes have the shape of SSL4EO-S12: 2 + 13 bands, 264 pixels, one GeoTIFF per band and
date. They are written to a temporary folder and packed as raw values and as bytes. Each case then
reads the same locations in random order: ``read`` with the dataset, ``batch`` with a data loader in
this process, and ``worker`` with one worker process and shared memory, as in the datamodules.
``fresh`` is a worker with PyTorch's collate function, which allocates new memory for each batch. The
cases alternate so that other load on the machine affects all of them. Files are in the page cache,
so disk access is not measured.

Rows are appended to ``experiments/benchmarks/results_data.csv``.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from jsonargparse import auto_cli
from torch.utils.data import DataLoader

from experiments.benchmarks.record import FOLDER, record, render
from torchgeo_decur.datamodules import SSL4EOS12PairDataModule
from torchgeo_decur.datamodules.recycled_memory import RecyclingCollate
from torchgeo_decur.datasets import PackedDataset, SSL4EOS12Pair, SyntheticEO
from torchgeo_decur.packed import pack_datamodule

BATCH = 4


def main(
    places: int = 32,
    dates: int = 4,
    size: int = 264,
    repeats: int = 7,
    results: Path = FOLDER / 'results_data.csv',
) -> None:
    """Measure all cases, print a table and append its rows to a CSV file.

    Args:
        places: number of locations.
        dates: number of dates per location.
        size: height and width in pixels.
        repeats: number of times that each case reads all locations.
        results: CSV file to append to.
    """
    # Each worker must use only one core.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = _cases(Path(folder), places, dates, size)
        seconds = _measure(cases, places, repeats)
    rates = {n: [places / s for s in found] for n, found in seconds.items()}
    shape = {'places': places, 'dates': dates, 'size': size}
    rows = [
        record('data', {'what': name, **shape}, values, 'samples/s', results)
        for name, values in rates.items()
    ]
    for kind in ('read', 'batch', 'worker', 'fresh'):
        folder_rates = rates[f'{kind} folder']
        for name in ('raw', 'uint8'):
            ratios = [
                packed / raw
                for packed, raw in zip(
                    rates[f'{kind} {name}'], folder_rates, strict=True
                )
            ]
            case = {'what': f'{kind} {name} / {kind} folder', **shape}
            rows.append(record('data', case, ratios, 'times', results))
    print(render(rows))


def _cases(
    folder: Path, places: int, dates: int, size: int
) -> Mapping[str, Callable[[], None]]:
    """Return functions that read all locations once, by name."""
    synthetic = SyntheticEO(length=places, size=size, num_dates=dates)
    synthetic.write(folder / 'tiff', 'ssl4eo_s12', progress=False)
    datasets: dict[str, Any] = {'folder': SSL4EOS12Pair(folder / 'tiff')}
    for values in ('raw', 'uint8'):
        datamodule = SSL4EOS12PairDataModule(str(folder / 'tiff'), val_fraction=0)
        out = folder / values
        pack_datamodule(datamodule, out, values, ('train',), progress=False)
        datasets[values] = PackedDataset(out)
    datasets['built-in'] = synthetic
    return {
        **{f'read {n}': partial(_read, d) for n, d in datasets.items()},
        **{f'batch {n}': _Load(d, 0) for n, d in datasets.items()},
        **{f'worker {n}': _Load(d, 1) for n, d in datasets.items()},
        **{f'fresh {n}': _Load(d, 1, fresh=True) for n, d in datasets.items()},
    }


def _read(dataset: Any) -> None:
    for index in torch.randperm(len(dataset)).tolist():
        dataset[index]


class _Load:
    """Data loader with persistent workers so that their startup is not measured."""

    def __init__(self, dataset: Any, workers: int, fresh: bool = False) -> None:
        self.loader = DataLoader(
            dataset,
            BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=None if fresh else RecyclingCollate(workers),
        )

    def __call__(self) -> None:
        for _ in self.loader:
            pass


def _measure(
    cases: Mapping[str, Callable[[], None]], places: int, repeats: int
) -> dict[str, list[float]]:
    """Return the seconds of each repeat of each case, after a warm-up pass."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, case in cases.items():
            start = perf_counter()
            case()
            if repeat:
                seconds[name].append(perf_counter() - start)
    return seconds


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    auto_cli(main)
