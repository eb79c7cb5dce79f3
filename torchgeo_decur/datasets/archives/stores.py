"""Index the locations of an archive in multi-location files or tar shards."""

import os
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from torchgeo.datasets import NonGeoDataset

from ...files import UnreadableFileError, atomic_write
from ..io import not_found
from .place_arrays import PlaceArrays
from .zarr_zip import ZarrZip

# Maximum number of multi-location files that a process keeps open.
_OPEN = 32


class PlaceStore(ABC):
    """Base class for stores of the locations of a split.

    Attributes:
        present: Boolean array that is True if a location has a modality, shape (locations,
            modalities).
    """

    present: np.ndarray[Any, np.dtype[np.bool_]]

    def __len__(self) -> int:
        """Return the number of locations."""
        return len(self.present)

    @abstractmethod
    def arrays(self, modality: str, place: int) -> PlaceArrays | None:
        """Open the arrays of a location.

        Args:
            modality: name of the modality.
            place: index of the location in the store.

        Returns:
            The arrays, or None if the location does not have the modality.

        Raises:
            UnreadableFileError: if the file is missing or truncated.
        """

    @abstractmethod
    def number(self, place: int) -> int:
        """Return the number of a location in the archive."""

    @abstractmethod
    def origin(self, modality: str, place: int) -> str:
        """Return the file and the row or name of a location for error messages."""


class PlaceFiles(PlaceStore):
    """Store for multi-location files ``<folder>/<name>.zarr.zip``.

    The files have the same names in all folders.

    Args:
        root: folder of the split.
        folders: alternative folders of each modality. A file is read from the first folder
            that contains it.
        dataset: dataset to name in error messages.

    Raises:
        DatasetNotFoundError: if there are no files.
        UnreadableFileError: if a file is truncated.
    """

    def __init__(
        self, root: Path, folders: Mapping[str, Sequence[str]], dataset: NonGeoDataset
    ) -> None:
        """Initialize a new PlaceFiles instance."""
        found = {f: _names(root / f, '*.zarr.zip') for f in _all(folders)}
        self.files: list[str] = sorted(set().union(*found.values()))
        if not self.files:
            raise not_found(
                dataset, f'files such as {root}/{_all(folders)[0]}/*.zarr.zip'
            )
        self.paths = {
            m: [
                next((root / f / name for f in some if name in found[f]), None)
                for name in self.files
            ]
            for m, some in folders.items()
        }
        counts = []
        for i in range(len(self.files)):
            path = next(p[i] for p in self.paths.values() if p[i] is not None)
            counts.append(ZarrZip(cast(Path, path)).metadata('bands').shape[0])
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        there = [[path is not None for path in p] for p in self.paths.values()]
        self.present = np.repeat(np.array(there).T, counts, axis=0)

    def arrays(self, modality: str, place: int) -> PlaceArrays | None:
        """Open the arrays of a location, as described in :meth:`PlaceStore.arrays`."""
        file, row = self._find(place)
        path = self.paths[modality][file]
        if path is None:
            return None
        opened = _open(path, os.getpid(), *_version(path))
        if row >= (rows := opened.metadata('bands').shape[0]):
            raise ValueError(
                f'{path}: expected as many locations as for the other modalities, found '
                f'only {rows}; restore the original file'
            )
        return PlaceArrays(opened, (row,))

    def number(self, place: int) -> int:
        """Return the number of a location and check that its modalities agree.

        Args:
            place: index of the location in the store.

        Returns:
            Number of the location in the archive.

        Raises:
            ValueError: if the files of two modalities contain different locations.
        """
        numbers = {
            arrays.file.name: arrays.number()
            for m in self.paths
            if (arrays := self.arrays(m, place)) is not None
        }
        if len(set(numbers.values())) > 1:
            raise ValueError(
                f'expected the same location in row {self._find(place)[1]} of each '
                f'modality, found {numbers}; restore the original files'
            )
        return next(iter(numbers.values()))

    def origin(self, modality: str, place: int) -> str:
        """Return the file and row of a location."""
        file, row = self._find(place)
        path = self.paths[modality][file] or self.files[file]
        return f'{path}, row {row}'

    def _find(self, place: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, place, 'right')) - 1
        return file, place - int(self._starts[file])


class TarShards(PlaceStore):
    """Store for tar shards with one ``<key>.zarr.zip`` per location and modality.

    The shards are ``<folder>/<name>.tar``. Their members are not compressed and can be read
    in any order. An index with the byte offset of each member is created once per shard and
    stored in a folder.

    Args:
        root: folder of the split.
        folders: alternative folders of each modality. A location is read from the first
            folder that contains it.
        dataset: dataset to name in error messages.
        index: folder of the shard indices.

    Raises:
        DatasetNotFoundError: if there are no shards.
        UnreadableFileError: if a shard is truncated.
        ValueError: if a shard is compressed or empty, or an index cannot be written.
    """

    def __init__(
        self,
        root: Path,
        folders: Mapping[str, Sequence[str]],
        dataset: NonGeoDataset,
        index: Path,
    ) -> None:
        """Initialize a new TarShards instance."""
        self.root = root
        self.folders = _all(folders)
        self.columns = {m: [self.folders.index(f) for f in folders[m]] for m in folders}
        found = {f: _names(root / f, '*.tar') for f in self.folders}
        self.shards: list[str] = sorted(set().union(*found.values()))
        if not self.shards:
            raise not_found(dataset, f'files such as {root}/{self.folders[0]}/*.tar')
        keys, spans, shards = [], [], []
        for number, name in enumerate(self.shards):
            of = {
                f: _members(root / f / name, index / root.name / f / f'{name}.npz')
                for f in self.folders
                if name in found[f]
            }
            union = np.unique(np.concatenate([k for k, _ in of.values()]))
            # Byte offset and size of each member. A size of 0 means that it is absent.
            rows = np.zeros((len(union), len(self.folders), 2), np.int64)
            for f, (names, where) in of.items():
                rows[np.searchsorted(union, names), self.folders.index(f)] = where
            keys.append(union)
            spans.append(rows)
            shards.append(np.full(len(union), number, np.int32))
        self._keys, self._spans = np.concatenate(keys), np.concatenate(spans)
        self._shards = np.concatenate(shards)
        there = self._spans[..., 1] > 0
        columns = [there[:, c].any(1) for c in self.columns.values()]
        self.present = np.stack(columns, axis=1)

    def arrays(self, modality: str, place: int) -> PlaceArrays | None:
        """Open the arrays of a location, as described in :meth:`PlaceStore.arrays`."""
        column = self._column(modality, place)
        if column is None:
            return None
        start, size = (int(v) for v in self._spans[place, column])
        member = (f'{self.key(place)}.zarr.zip', start, size)
        return PlaceArrays(ZarrZip(self._path(place, column), member))

    def folder(self, modality: str, place: int) -> str | None:
        """Return the folder of a modality of a location, or None if it is absent."""
        column = self._column(modality, place)
        return None if column is None else self.folders[column]

    def key(self, place: int) -> str:
        """Return the name of a location."""
        return str(self._keys[place])

    def number(self, place: int) -> int:
        """Return the number at the end of the name of a location, or else its index."""
        digits = re.search(r'\d+$', self.key(place))
        return int(digits[0]) if digits else place

    def origin(self, modality: str, place: int) -> str:
        """Return the shard and name of a location."""
        column = self._column(modality, place)
        return f'{self._path(place, column or 0)}, {self.key(place)}'

    def _column(self, modality: str, place: int) -> int | None:
        columns = self.columns[modality]
        return next((c for c in columns if self._spans[place, c, 1]), None)

    def _path(self, place: int, column: int) -> Path:
        return self.root / self.folders[column] / self.shards[int(self._shards[place])]


type _Members = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def _members(path: Path, index: Path) -> _Members:
    """Load the member index of a shard, or create it if it is missing or outdated."""
    size = path.stat().st_size
    if index.exists():
        with np.load(index) as read:
            if int(read['size']) == size:
                return read['keys'], read['spans']
    keys, spans = _scan(path, size)

    def write(file: Path) -> None:
        with file.open('wb') as opened:
            np.savez(opened, keys=keys, spans=spans, size=size)

    try:
        atomic_write(index, write, shared=True)
    except OSError as error:
        raise ValueError(
            f'index must be a writable folder, got {index.parent} '
            f'({error.strerror}); choose another folder'
        ) from error
    return keys, spans


def _scan(path: Path, size: int) -> _Members:
    found = {}
    try:
        with tarfile.open(path, 'r:') as tar:
            for member in tar:
                name = member.name.removeprefix('./')
                if member.isfile() and name.endswith('.zarr.zip'):
                    key = name.removesuffix('.zarr.zip')
                    found[key] = (member.offset_data, member.size)
                # Free the memory used for previous members.
                tar.members = []  # type: ignore[attr-defined]
    except (tarfile.TarError, EOFError, OSError) as error:
        with path.open('rb') as opened:
            if opened.read(2) in (b'\x1f\x8b', b'BZ', b'\xfd7', b'\x28\xb5'):
                raise ValueError(
                    f'{path}: expected an uncompressed tar file, found a compressed file; '
                    'decompress the file'
                ) from error
        raise _cut_off(path, str(error)) from error
    if any(start + length > size for start, length in found.values()):
        raise _cut_off(path, 'unexpected end of file')
    if not found:
        raise ValueError(
            f'{path}: expected members <key>.zarr.zip, found none; restore the '
            'original file'
        )
    return np.array(list(found)), np.array(list(found.values()), np.int64)


def _cut_off(path: Path, reason: str) -> UnreadableFileError:
    return UnreadableFileError(
        f'{path} is truncated or not a tar file ({reason}); restore or delete the file'
    )


@lru_cache(maxsize=_OPEN)
def _open(path: Path, process: int, size: int, modified: int) -> ZarrZip:
    """Open a file once per process, because forked processes share file positions."""
    return ZarrZip(path)


def _version(path: Path) -> tuple[int, int]:
    """Return the size and modification time of a file, or zeros if it is missing."""
    try:
        about = path.stat()
    except OSError:
        return 0, 0
    return about.st_size, about.st_mtime_ns


def _names(folder: Path, pattern: str) -> set[str]:
    return {path.name for path in folder.glob(pattern)}


def _all(folders: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(f for some in folders.values() for f in some))
