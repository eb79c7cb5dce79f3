"""Read feature files from `torchgeo-decur embed` or other programs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .embed.geoparquet_parts import KEY

type Features = dict[str, NDArray[np.float32]]


def read_features(file: Path, column: str = 'embedding') -> Features:
    """Read features from a NumPy or Parquet file.

    Args:
        file: ``.npy`` file with an array of shape (N, D), or Parquet file with a list of
            numbers in each row.
        column: name of the feature column in a Parquet file.

    Returns:
        Features by name, shape (N, D). A file from ``torchgeo-decur embed`` has one entry
        per modality; other files have one entry, named after the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file has another format, lacks the column, or has rows of
            different lengths.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f'{file} must be a feature file, but does not exist; check the path'
        )
    if file.suffix == '.npy':
        x = np.load(file, allow_pickle=False)
        if x.ndim != 2:
            raise ValueError(
                f'{file}: expected an array of shape (N, D), found shape {x.shape}; reshape '
                'the array'
            )
        return {file.stem: x}
    try:
        table = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f'{file}: expected a NumPy (.npy) or Parquet file, found another format; '
            'convert it'
        ) from error
    names = table.schema_arrow.names
    if column not in names:
        raise ValueError(
            f'{file}: expected column {column!r}, found columns {names}; choose one with '
            '--column'
        )
    x = _matrix(file, table.read([column])[column].combine_chunks())
    metadata: Mapping[bytes, bytes] = table.schema_arrow.metadata or {}
    about: dict[str, Any] = json.loads(metadata.get(KEY, b'{}'))
    spans: dict[str, list[int]] = about.get('dimensions') or {}
    if column != 'embedding' or not spans:
        return {file.stem: x}
    return {m: x[:, start:stop] for m, (start, stop) in spans.items()}


def _matrix(file: Path, column: Any) -> NDArray[np.float32]:
    lengths = set(column.value_lengths().unique().to_pylist())
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f'{file}: expected rows of equal length, found '
            f'{f"lengths {lengths}" if lengths else "no rows"}; choose another column'
        )
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return np.asarray(values.reshape(len(column), -1))
