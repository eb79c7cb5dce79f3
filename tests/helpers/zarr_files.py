"""ZIP files of zarr arrays, written as xarray and zarr 2 write them."""

import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc
from zarr.storage import ZipStore

#: Values, names of the dimensions, shape of a chunk, and further attributes of an array.
type Array = tuple[np.ndarray, tuple[str, ...], tuple[int, ...] | None, dict[str, Any]]


def write_zarr_zip(
    path: Path, arrays: Mapping[str, Array], zarr_format: Any = 2
) -> None:
    """Write a group of arrays, with metadata of all of them in one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ZipStore(path, mode='w') as store:
        group = zarr.open_group(store, mode='w', zarr_format=zarr_format)
        metadata: dict[str, Any] = {'.zgroup': {'zarr_format': 2}, '.zattrs': {}}
        for name, (values, dims, chunks, attributes) in arrays.items():
            codec = Blosc('lz4', 5, Blosc.SHUFFLE) if zarr_format == 2 else 'auto'
            array = group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=chunks or values.shape or 'auto',
                compressors=codec,
                attributes={'_ARRAY_DIMENSIONS': list(dims), **attributes},
            )
            array[...] = values
            metadata[f'{name}/.zarray'] = {'shape': list(values.shape)}
        if zarr_format == 2:
            # Readers of xarray open this file first.
            text = json.dumps({'zarr_consolidated_format': 1, 'metadata': metadata})
            store._zf.writestr('.zmetadata', text)


def write_shard(path: Path, members: Mapping[str, Mapping[str, Array]]) -> None:
    """Write a tar shard with one ZIP file of arrays for each key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(path, 'w') as tar:
        for key, arrays in members.items():
            file = Path(folder) / f'{key}.zarr.zip'
            write_zarr_zip(file, arrays)
            content = file.read_bytes()
            about = tarfile.TarInfo(file.name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def growing(corner: float, size: int, dtype: str) -> np.ndarray:
    """A square image that grows to the right from the value of its corner."""
    step = 0.125 if dtype.startswith('float') else 4
    return np.tile(corner + step * np.arange(size), (size, 1)).astype(dtype)
