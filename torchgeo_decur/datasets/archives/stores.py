"""Find the places of an archive, in files of many places or in tar shards."""

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

# Number of files of many places that a process keeps open.
_OPEN = 32


class PlaceStore(ABC):
    """Places of a split, and the arrays of each modality.

    Attributes:
        present: whether a place has a modality, shape (places, modalities).
    """

    present: np.ndarray[Any, np.dtype[np.bool_]]

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self.present)

    @abstractmethod
    def arrays(self, modality: str, place: int) -> PlaceArrays | None:
        """Open the arrays of a place.

        Args:
            modality: name of the modality.
            place: number of the place in the store.

        Returns:
            The arrays, or None if the place does not have the modality.

        Raises:
            UnreadableFileError: if the file is missing or truncated.
        """

    @abstractmethod
    def number(self, place: int) -> int:
        """Return the number of a place in the archive, from its name."""

    @abstractmethod
    def origin(self, modality: str, place: int) -> str:
        """Return the file of a place, for messages."""


class PlaceFiles(PlaceStore):
    """Files ``<folder>/<name>.zarr.zip`` of many places, with equal names in all folders.

    Args:
        root: folder of the split.
        folders: alternative folders of each modality, by name. The first with the file
            is used.
        dataset: the dataset, for messages.

    Raises:
        DatasetNotFoundError: if there is no file.
        UnreadableFileError: if a file is truncated.
    """

    def __init__(
        self, root: Path, folders: Mapping[str, Sequence[str]], dataset: NonGeoDataset
    ) -> None:
        """Initialize a new PlaceFiles instance."""
        found = {f: _names(root / f, '*.zarr.zip') for f in _all(folders)}
        self.files: list[str] = sorted(set().union(*found.values()))
        if not self.files:
            raise not_found(dataset, f'files like {root}/{_all(folders)[0]}/*.zarr.zip')
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
        """Open the arrays of a place; see :meth:`PlaceStore.arrays`."""
        file, row = self._find(place)
        path = self.paths[modality][file]
        if path is None:
            return None
        opened = _open(path, os.getpid(), *_version(path))
        if row >= (rows := opened.metadata('bands').shape[0]):
            raise ValueError(
                f'{path}: expected the places of the other modalities, found only {rows}; '
                'restore the original file'
            )
        return PlaceArrays(opened, (row,))

    def number(self, place: int) -> int:
        """Return the number of a place, and check that its modalities agree.

        Args:
            place: number of the place in the store.

        Returns:
            The number in the archive.

        Raises:
            ValueError: if the files of two modalities have different places.
        """
        numbers = {
            arrays.file.name: arrays.number()
            for m in self.paths
            if (arrays := self.arrays(m, place)) is not None
        }
        if len(set(numbers.values())) > 1:
            raise ValueError(
                f'expected the same place in row {self._find(place)[1]} of each modality, '
                f'found {numbers}; restore the original files'
            )
        return next(iter(numbers.values()))

    def origin(self, modality: str, place: int) -> str:
        """Return file and row of a place."""
        file, row = self._find(place)
        path = self.paths[modality][file] or self.files[file]
        return f'{path}, place {row}'

    def _find(self, place: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._starts, place, 'right')) - 1
        return file, place - int(self._starts[file])


class TarShards(PlaceStore):
    """Shards ``<folder>/<name>.tar`` with one ``<key>.zarr.zip`` per place and modality.

    Members of a tar file are not compressed, so each is read at its position. The
    positions are determined once per shard and stored in a folder.

    Args:
        root: folder of the split.
        folders: alternative folders of each modality, by name. The first with the place
            is used.
        dataset: the dataset, for messages.
        index: folder of the positions.

    Raises:
        DatasetNotFoundError: if there is no shard.
        UnreadableFileError: if a shard is truncated.
        ValueError: if a shard is compressed, or the positions cannot be written.
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
            raise not_found(dataset, f'files like {root}/{self.folders[0]}/*.tar')
        keys, spans, shards = [], [], []
        for number, name in enumerate(self.shards):
            of = {
                f: _members(root / f / name, index / root.name / f / f'{name}.npz')
                for f in self.folders
                if name in found[f]
            }
            union = np.unique(np.concatenate([k for k, _ in of.values()]))
            # Offset and size; a size of 0 means that the place is absent.
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
        """Open the arrays of a place; see :meth:`PlaceStore.arrays`."""
        column = self._column(modality, place)
        if column is None:
            return None
        start, size = (int(v) for v in self._spans[place, column])
        member = (f'{self.key(place)}.zarr.zip', start, size)
        return PlaceArrays(ZarrZip(self._path(place, column), member))

    def folder(self, modality: str, place: int) -> str | None:
        """Return the folder of a modality of a place, or None."""
        column = self._column(modality, place)
        return None if column is None else self.folders[column]

    def key(self, place: int) -> str:
        """Return the name of a place."""
        return str(self._keys[place])

    def number(self, place: int) -> int:
        """Return the number at the end of the name of a place."""
        digits = re.search(r'\d+$', self.key(place))
        return int(digits[0]) if digits else place

    def origin(self, modality: str, place: int) -> str:
        """Return shard and name of a place."""
        column = self._column(modality, place)
        return f'{self._path(place, column or 0)}, {self.key(place)}'

    def _column(self, modality: str, place: int) -> int | None:
        columns = self.columns[modality]
        return next((c for c in columns if self._spans[place, c, 1]), None)

    def _path(self, place: int, column: int) -> Path:
        return self.root / self.folders[column] / self.shards[int(self._shards[place])]


type _Members = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def _members(path: Path, index: Path) -> _Members:
    """Return names and positions of the members of a shard, from a valid index."""
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
            f'index must be a folder that can be written, got {index.parent} '
            f'({error.strerror}); choose another'
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
                # Free the memory of earlier members.
                tar.members = []  # type: ignore[attr-defined]
    except (tarfile.TarError, EOFError, OSError) as error:
        with path.open('rb') as opened:
            if opened.read(2) in (b'\x1f\x8b', b'BZ', b'\xfd7', b'\x28\xb5'):
                raise ValueError(
                    f'{path}: expected an uncompressed tar file, found a compressed one; '
                    'decompress it'
                ) from error
        raise _cut_off(path, str(error)) from error
    if any(start + length > size for start, length in found.values()):
        raise _cut_off(path, 'it ends within a member')
    if not found:
        raise ValueError(
            f'{path}: expected members like <key>.zarr.zip, found none; restore the '
            'original file'
        )
    return np.array(list(found)), np.array(list(found.values()), np.int64)


def _cut_off(path: Path, reason: str) -> UnreadableFileError:
    return UnreadableFileError(
        f'{path} is truncated or not a tar file ({reason}); restore it, or remove it'
    )


@lru_cache(maxsize=_OPEN)
def _open(path: Path, process: int, size: int, modified: int) -> ZarrZip:
    """Open a file, once for each process, because forked processes share a position."""
    return ZarrZip(path)


def _version(path: Path) -> tuple[int, int]:
    """Return size and time of a file; if it is missing, ``ZarrZip`` raises the error."""
    try:
        about = path.stat()
    except OSError:
        return 0, 0
    return about.st_size, about.st_mtime_ns


def _names(folder: Path, pattern: str) -> set[str]:
    return {path.name for path in folder.glob(pattern)}


def _all(folders: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(f for some in folders.values() for f in some))
