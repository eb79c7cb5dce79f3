"""Measure locations per second of SSL4EO-S12 as GeoTIFFs and in both layouts of version 1.1.

    python -m experiments.benchmarks.archives

Synthetic scenes have the real shape: 2 + 13 bands, 4 dates, 264 pixels. They are written as
GeoTIFFs, one per band and date, and then converted to version 1.1. Its arrays have one chunk per
location and date, with radar as float16 and optical images as int16 with the offset, compressed
with Blosc LZ4. Each case is a data loader that reads all locations in random order, with one or two
workers. The cases alternate. Files are in the page cache, so disk access is not measured.

Rows are appended to ``experiments/benchmarks/results_archives.csv``.
"""

import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from jsonargparse import auto_cli
from numcodecs import Blosc
from torch.utils.data import DataLoader
from zarr.storage import ZipStore

from experiments.benchmarks.measure import take_turns
from experiments.benchmarks.record import FOLDER, record, render
from torchgeo_decur.datasets import SSL4EOS12V11, SSL4EOS12Pair, SyntheticEO
from torchgeo_decur.datasets.archives.products import OFFSET

BATCH = 4
FOLDERS = {'s1': 'S1GRD', 's2': 'S2L1C'}


def main(
    places: int = 64,
    size: int = 264,
    repeats: int = 5,
    minutes: float = 4.0,
    results: Path = FOLDER / 'results_archives.csv',
) -> None:
    """Measure all cases, print a table and append its rows to a CSV file.

    Args:
        places: number of locations; by default, as many as in one file of version 1.1.
        size: height and width in pixels.
        repeats: number of times that each case reads all locations.
        minutes: time in minutes after which no further repeat starts.
        results: CSV file to append to.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        scenes = SyntheticEO(length=places, size=size, num_dates=4)
        scenes.write(root / 'tiff', 'ssl4eo_s12', progress=False)
        source = SSL4EOS12Pair(root / 'tiff')
        write_files(source, root / 'files')
        write_shard(source, root / 'shards')
        datasets: dict[str, Any] = {
            'GeoTIFFs': source,
            'zarr files': SSL4EOS12V11(root / 'files'),
            'tar shards': SSL4EOS12V11(root / 'shards'),
        }
        cases: dict[str, Callable[[], None]] = {
            f'{name}, {workers} workers': _Load(dataset, workers)
            for name, dataset in datasets.items()
            for workers in (1, 2)
        }
        seconds = take_turns(cases, repeats, minutes)
    rows = [
        record(
            'archives',
            {'what': name, 'places': places, 'size': size},
            [places / s for s in found],
            'places/s',
            results,
        )
        for name, found in seconds.items()
    ]
    print(render(rows))


def write_files(source: SSL4EOS12Pair, root: Path) -> None:
    """Write one file with all locations for each modality.

    Args:
        source: dataset with the locations.
        root: folder that contains the splits.
    """
    for m, folder in FOLDERS.items():
        path = root / 'train' / folder / 'ssl4eos12_train_seasonal_data_000001.zarr.zip'
        path.parent.mkdir(parents=True)
        images, times, numbers = zip(*_stored(source, m), strict=True)
        with ZipStore(path, mode='w') as store:
            group = zarr.open_group(store, mode='w', zarr_format=2)
            shape = (len(images), *images[0].shape)
            bands = _array(group, 'bands', shape, images[0].dtype)
            for place, image in enumerate(images):
                bands[place] = image
            names = np.array([f'{number:07}' for number in numbers])
            _array(group, 'sample', names.shape, names.dtype, whole=True)[:] = names
            dates = np.stack(times)
            _array(group, 'time_', dates.shape, dates.dtype, whole=True)[:] = dates


def write_shard(source: SSL4EOS12Pair, root: Path) -> None:
    """Write one tar shard for each modality.

    Args:
        source: dataset with the locations.
        root: folder that contains the splits.
    """
    for m, folder in FOLDERS.items():
        path = root / 'train' / folder / 'ssl4eos12_shard_000001.tar'
        path.parent.mkdir(parents=True)
        with tarfile.open(path, 'w') as tar, tempfile.TemporaryDirectory() as temporary:
            for image, times, number in _stored(source, m):
                file = Path(temporary) / f'ssl4eos12_train_{number:07}.zarr.zip'
                with ZipStore(file, mode='w') as store:
                    group = zarr.open_group(store, mode='w', zarr_format=2)
                    # As in the files with all locations, a chunk is one date.
                    bands = group.create_array(
                        'bands',
                        shape=image.shape,
                        dtype=image.dtype,
                        chunks=(1, *image.shape[1:]),
                        compressors=Blosc('lz4', 5, Blosc.SHUFFLE),
                    )
                    bands[:] = image
                    _array(group, 'time', times.shape, times.dtype, whole=True)[:] = (
                        times
                    )
                content = file.read_bytes()
                about = tarfile.TarInfo(file.name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))


def _stored(
    source: SSL4EOS12Pair, modality: str
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]]:
    """Yield the image, times in nanoseconds and number of each location, as in version 1.1."""
    for sample in map(source.__getitem__, range(len(source))):
        image = sample[f'image_{modality}'].numpy()
        stored = (
            image.astype(np.float16)
            if modality == 's1'
            else (image + OFFSET).astype(np.int16)
        )
        times = sample[f'date_{modality}'].numpy() * 1_000_000_000
        yield stored, times, int(sample['index'])


def _array(
    group: Any, name: str, shape: tuple[int, ...], dtype: Any, whole: bool = False
) -> Any:
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=shape if whole else (1, 1, *shape[2:]),
        compressors=Blosc('lz4', 5, Blosc.SHUFFLE),
    )


class _Load:
    """Data loader with persistent workers so that their startup is not measured."""

    def __init__(self, dataset: Any, workers: int) -> None:
        self.loader = DataLoader(
            dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=True
        )

    def __call__(self) -> None:
        for _ in self.loader:
            pass


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    auto_cli(main)
