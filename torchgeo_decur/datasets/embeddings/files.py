"""Read embedding files from `torchgeo-decur embed` and other programs."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

type Floats = NDArray[np.float32]

#: Key of the metadata that ``torchgeo-decur embed`` writes to a file.
KEY = b'torchgeo_decur'


class EmbeddingFile:
    """File with one embedding per row and columns that describe the rows.

    Args:
        path: path of the file. Parquet and GeoParquet have a column of lists or several
            columns of numbers. ``.npz`` has an array of shape (N, D) and, as columns,
            arrays of shape (N,). ``.npy`` has one array of shape (N, D).

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file has another format.

    Attributes:
        names: names of the columns.
        spans: start and end of the dimensions of each modality in the column
            ``embedding``, for files of ``torchgeo-decur embed``.
    """

    def __init__(self, path: str | Path) -> None:
        """Initialize a new EmbeddingFile instance."""
        self.path = Path(path)
        self.spans: dict[str, list[int]] = {}
        self._arrays: Mapping[str, NDArray[Any]] | None = None
        if not self.path.is_file():
            raise FileNotFoundError(
                f'embedding file {self.path} does not exist; check the path'
            )
        if self.path.suffix in ('.npy', '.npz'):
            found = np.load(self.path, allow_pickle=False)
            whole = self.path.suffix == '.npy'
            self._arrays = {'embedding': found} if whole else dict(found)
            self.names = list(self._arrays)
            return
        try:
            schema = pq.read_schema(self.path)
        except pa.ArrowInvalid as error:
            raise ValueError(
                f'{self.path}: expected a NumPy (.npy, .npz) or Parquet file, found another '
                'format; convert the file to Parquet'
            ) from error
        self.names = schema.names
        self._metadata: Mapping[bytes, bytes] = schema.metadata or {}
        about: dict[str, Any] = json.loads(self._metadata.get(KEY, b'{}'))
        self.spans = about.get('dimensions') or {}

    def features(self, column: str = 'embedding') -> Floats:
        """Read the embeddings.

        Args:
            column: name of a column of lists, or a pattern that matches several columns of
                numbers, such as ``A*``. It is ignored for ``.npy`` files.

        Returns:
            Embeddings, shape (N, D). Null rows are NaN.

        Raises:
            ValueError: if no column matches, or rows differ in length.
        """
        if self._arrays is not None:
            x = self._array('embedding' if self.path.suffix == '.npy' else column)
            if x.ndim != 2:
                raise ValueError(
                    f'{self.path}: expected an array of shape (N, D), found shape '
                    f'{x.shape}; write one row per embedding'
                )
            return np.asarray(x, np.float32)
        if column in self.names:
            table = pq.read_table(self.path, columns=[column])
            return _matrix(self.path, table[column].combine_chunks())
        names = [n for n in self.names if fnmatchcase(n, column)]
        if not names or '*' not in column:
            raise self._absent(column)
        # read_table keeps the order of the file.
        table = pq.read_table(self.path, columns=names)
        return np.asarray(table.to_pandas()[names].to_numpy(np.float32))

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Read columns that describe the rows.

        Args:
            names: names of the columns. If a GeoParquet file has a CRS, ``geometry`` is
                converted to longitude and latitude.

        Returns:
            The columns, in the order of the rows.

        Raises:
            ValueError: if a column is absent.
        """
        for name in names:
            if name not in self.names:
                raise self._absent(name)
        if self._arrays is not None:
            return pd.DataFrame({name: list(self._arrays[name]) for name in names})
        if 'geometry' in names and self.has_geometry:
            table = gpd.read_parquet(self.path, columns=list(names))
            return table if table.crs is None else table.to_crs('OGC:CRS84')
        return pd.read_parquet(self.path, columns=list(names))

    @property
    def has_geometry(self) -> bool:
        """True if the file is GeoParquet."""
        return self._arrays is None and b'geo' in self._metadata

    def _array(self, name: str) -> NDArray[Any]:
        if name not in (self._arrays or {}):
            raise self._absent(name)
        return (self._arrays or {})[name]

    def _absent(self, name: str) -> ValueError:
        return ValueError(
            f'{self.path}: expected column {name!r}, found columns {self.names}; choose '
            'one of them'
        )


def read_features(file: str | Path, column: str = 'embedding') -> dict[str, Floats]:
    """Read the embeddings of each modality in a file.

    Args:
        file: path of the file, see :class:`EmbeddingFile`.
        column: column of the embeddings.

    Returns:
        Embeddings by name, shape (N, D). A file of ``torchgeo-decur embed`` has one entry
        per modality; other files have one entry, named after the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file has another format or lacks the column.
    """
    opened = EmbeddingFile(file)
    x = opened.features(column)
    if column != 'embedding' or not opened.spans:
        return {opened.path.stem: x}
    return {m: x[:, start:stop] for m, (start, stop) in opened.spans.items()}


def _matrix(file: Path, column: Any) -> Floats:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(column.type) for is_kind in kinds):
        raise ValueError(
            f'{file}: expected a column of lists of numbers, found {column.type}; choose '
            'another column'
        )
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    known = ~np.isnan(lengths.astype(float))
    found = set(lengths[known].astype(int).tolist())
    if len(found) != 1:
        raise ValueError(
            f'{file}: expected rows of equal length, found '
            f'{f"lengths {sorted(found)}" if found else "no rows"}; choose another column'
        )
    values = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    x = np.full((len(column), found.pop()), np.nan, np.float32)
    x[known] = values.astype(np.float32).reshape(int(known.sum()), -1)
    return x
