"""Read zarr arrays (format 2) from a ZIP file on disk or inside a tar file.

Chunks are decoded with numcodecs, the codec library of zarr. zarr-python is not used: it
takes 2 ms to open a group, reads a location in twice the time, and starts threads in each
worker.
"""

import io
import itertools
import json
import math
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from ...files import UnreadableFileError

# Number of cached multi-location chunks: 4 dates of 2 modalities.
_LARGE_CHUNKS = 8


class Section(io.RawIOBase):
    """File object for a section of a file, such as a member of a tar file.

    Args:
        path: path of the file.
        start: offset of the section in bytes.
        size: size of the section in bytes.
    """

    def __init__(self, path: Path, start: int, size: int) -> None:
        """Initialize a new Section instance."""
        self._file = path.open('rb', buffering=0)
        self._start, self._size, self._position = start, size, 0

    def readable(self) -> bool:
        """Return True, because the section is readable."""
        return True

    def seekable(self) -> bool:
        """Return True, because the section is seekable."""
        return True

    def tell(self) -> int:
        """Return the current position in the section."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position in the section.

        Args:
            offset: offset in bytes.
            whence: origin of ``offset``: start, current position or end.

        Returns:
            The new position.

        Raises:
            OSError: if the new position is before the start.
        """
        base = (0, self._position, self._size)[whence]
        if base + offset < 0:
            raise OSError(f'position must not be negative, got {base + offset}')
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer.

        Args:
            buffer: writable buffer.

        Returns:
            The number of bytes read, or 0 at the end of the section.
        """
        view = memoryview(buffer)[: max(0, self._size - self._position)]
        self._file.seek(self._start + self._position)
        count = self._file.readinto(view) or 0
        self._position += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class ArrayMetadata(NamedTuple):
    """Metadata of a zarr array.

    Args:
        shape: shape of the array.
        chunks: shape of a chunk.
        dtype: data type of the values.
        codecs: codecs that decode a chunk, in order of application.
        fill_value: value of chunks that are not stored.
        order: memory order of the values in a chunk, 'C' or 'F'.
        separator: separator of the chunk indices in the name of a chunk.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    codecs: tuple[Any, ...]
    fill_value: Any
    order: Any
    separator: str


class ZarrZip:
    """Reader that decodes the chunks of zarr arrays in a ZIP file on demand.

    Args:
        path: path of the file.
        member: name, offset and size of the ZIP file inside a tar file, or None if
            ``path`` is the ZIP file.

    Raises:
        UnreadableFileError: if the file is missing or truncated.
    """

    def __init__(self, path: Path, member: tuple[str, int, int] | None = None) -> None:
        """Initialize a new ZarrZip instance."""
        self.name = str(path) if member is None else f'{path}, member {member[0]}'
        self._known: dict[str, ArrayMetadata] = {}
        self._small: dict[str, np.ndarray[Any, Any]] = {}
        try:
            file: Any = (
                path.open('rb')
                if member is None
                else io.BufferedReader(Section(path, *member[1:]))
            )
        except OSError as error:
            raise UnreadableFileError(
                f'{self.name} is missing ({error.strerror}); restore it, or set '
                'skip_unreadable=True'
            ) from error
        self._file = file
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError) as error:
            file.close()
            raise self._truncated(error) from error

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, '_zip'):
            self._zip.close()
        if hasattr(self, '_file'):
            self._file.close()

    def __del__(self) -> None:
        """Close the file when it is dropped from the cache of open files."""
        self.close()

    def __contains__(self, array: str) -> bool:
        """Return whether the file contains an array of this name."""
        return f'{array}/.zarray' in self._zip.NameToInfo

    def metadata(self, array: str) -> ArrayMetadata:
        """Read the metadata of an array.

        Args:
            array: name of the array.

        Returns:
            The metadata.

        Raises:
            ImportError: if numcodecs is not installed.
            UnreadableFileError: if the file is truncated.
            ValueError: if the array does not exist or has another zarr format.
        """
        if array not in self._known:
            self._known[array] = self._read_metadata(array)
        return self._known[array]

    def attributes(self, array: str) -> Mapping[str, Any]:
        """Read the attributes of an array, such as its time unit.

        Args:
            array: name of the array.

        Returns:
            The attributes, or an empty dictionary if there are none.
        """
        name = f'{array}/.zattrs'
        if name not in self._zip.NameToInfo:
            return {}
        return cast(Mapping[str, Any], json.loads(self._bytes(name)))

    def read(self, array: str, *index: int) -> np.ndarray[Any, Any]:
        """Read an array, optionally at an index of its first dimensions.

        Args:
            array: name of the array.
            index: index along each of the first dimensions.

        Returns:
            The values. They may come from a cache and must not be modified.

        Raises:
            UnreadableFileError: if the file is truncated or damaged.
            ValueError: if the array does not exist or the index is out of range.
        """
        about = self.metadata(array)
        sizes = about.shape[: len(index)]
        if len(index) > len(about.shape) or any(
            not 0 <= i < n for i, n in zip(index, sizes, strict=True)
        ):
            raise ValueError(
                f'{self.name}: index of {array} must be within shape {about.shape}, got '
                f'{index}'
            )
        rest, chunks = about.shape[len(index) :], about.chunks[len(index) :]
        corner = tuple(i // c for i, c in zip(index, about.chunks, strict=False))
        inside = tuple(i % c for i, c in zip(index, about.chunks, strict=False))
        numbers = [range(math.ceil(n / c)) for n, c in zip(rest, chunks, strict=True)]
        if all(len(n) == 1 for n in numbers):
            # Avoid a copy if a single chunk contains all values.
            chunk = self._chunk(array, (*corner, *(0 for _ in rest)))[inside]
            return np.asarray(chunk)[tuple(slice(n) for n in rest)]
        out = np.empty(rest, about.dtype)
        for place in itertools.product(*numbers):
            chunk = self._chunk(array, (*corner, *place))[inside]
            where = tuple(
                slice(p * c, min((p + 1) * c, n))
                for p, c, n in zip(place, chunks, rest, strict=True)
            )
            out[where] = chunk[tuple(slice(w.stop - w.start) for w in where)]
        return out

    def _read_metadata(self, array: str) -> ArrayMetadata:
        name = f'{array}/.zarray'
        names = self._zip.NameToInfo
        if name not in names:
            if any(n.rsplit('/', 1)[-1] == 'zarr.json' for n in names):
                raise ValueError(
                    f'{self.name}: expected arrays of zarr format 2, found format 3; '
                    'rewrite the file with zarr_format=2'
                )
            found = sorted(n.removesuffix('/.zarray') for n in names if '/.zarray' in n)
            raise ValueError(
                f'{self.name}: expected an array {array}, found arrays '
                f'{found or "none"}; restore the original file'
            )
        read = json.loads(self._bytes(name))
        get_codec = _numcodecs().get_codec
        stages = [read.get('compressor'), *reversed(read.get('filters') or [])]
        return ArrayMetadata(
            shape=tuple(read['shape']),
            chunks=tuple(read['chunks']),
            dtype=np.dtype(read['dtype']),
            codecs=tuple(get_codec(c) for c in stages if c is not None),
            fill_value=read.get('fill_value'),
            order=read.get('order', 'C'),
            separator=read.get('dimension_separator', '.'),
        )

    def _chunk(self, array: str, place: tuple[int, ...]) -> np.ndarray[Any, Any]:
        """Return a decoded chunk, from a cache if possible."""
        about = self.metadata(array)
        name = f'{array}/{about.separator.join(map(str, place)) or "0"}'
        if name in self._small:
            return self._small[name]
        if len(about.shape) == 5 and about.chunks[0] > 1:
            return _large_chunk(self, array, name)
        chunk = self.decode(array, name)
        # Cache coordinates, dates and names as long as their file is open.
        if len(about.shape) <= 2:
            self._small[name] = chunk
        return chunk

    def decode(self, array: str, name: str) -> np.ndarray[Any, Any]:
        """Decode a chunk.

        Args:
            array: name of the array.
            name: name of the chunk.

        Returns:
            The values, with the shape of a chunk.

        Raises:
            UnreadableFileError: if the chunk is damaged.
        """
        about = self.metadata(array)
        if name not in self._zip.NameToInfo:
            return np.full(about.chunks, _fill(about), about.dtype)
        data: Any = self._bytes(name)
        try:
            for codec in about.codecs:
                data = codec.decode(data)
            if isinstance(data, np.ndarray) and data.dtype == object:
                return data.reshape(about.chunks)
            return np.frombuffer(data, about.dtype).reshape(
                about.chunks, order=about.order
            )
        # Codecs raise different errors for damaged data.
        except (RuntimeError, ValueError, OSError) as error:
            raise self._truncated(error) from error

    def _bytes(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise self._truncated(error) from error

    def _truncated(self, error: Exception) -> UnreadableFileError:
        return UnreadableFileError(
            f'{self.name} is truncated or not a ZIP file of zarr arrays ({error}); '
            'restore it, or set skip_unreadable=True'
        )


@lru_cache(maxsize=_LARGE_CHUNKS)
def _large_chunk(file: ZarrZip, array: str, name: str) -> np.ndarray[Any, Any]:
    return file.decode(array, name)


def _fill(about: ArrayMetadata) -> Any:
    fill = about.fill_value
    if fill is None:
        return about.dtype.type()
    # zarr stores NaN as a string, because JSON has no NaN.
    return float(fill) if about.dtype.kind == 'f' else fill


def _numcodecs() -> Any:
    try:
        import numcodecs
    except ImportError as error:
        raise ImportError(
            'reading zarr files requires numcodecs; install it with '
            '`pip install "torchgeo-decur[zarr]"`'
        ) from error
    return numcodecs
