"""Write files atomically and compute checksums of their contents."""

import csv
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

type Write = Callable[[Path], Any]


class UnreadableFileError(RuntimeError):
    """Error for a file that is missing, truncated or not a raster."""


def atomic_write(path: Path, write: Write, shared: bool = False) -> None:
    """Write a file atomically, with the default permissions.

    Args:
        path: path of the file. Its folder is created if needed.
        write: function that writes the content to a temporary file next to ``path``. It
            receives the path of the temporary file.
        shared: whether several processes may write the same file concurrently. Each then
            uses its own temporary file.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atomic_write(Path(folder, 'a.txt'), lambda file: file.write_text('text'))
        ...     os.listdir(folder)
        ['a.txt']
    """
    atomic_write_all({path: write}, shared)


def atomic_write_all(writes: Mapping[Path, Write], shared: bool = False) -> None:
    """Write several files atomically: no file appears before all are complete.

    Args:
        writes: function that writes the content, for each path; see
            :func:`atomic_write`.
        shared: see :func:`atomic_write`.
    """
    own = f'.{uuid4().hex}' if shared else ''
    partial = {path: path.with_name(f'.{path.name}{own}.partial') for path in writes}
    try:
        for path, write in writes.items():
            file = partial[path]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            file.touch()
            mode = stat.S_IMODE(file.stat().st_mode)
            write(file)
            # Some libraries replace the file and restrict its permissions.
            file.chmod(mode)
        for path, file in partial.items():
            os.replace(file, path)
    finally:
        for file in partial.values():
            file.unlink(missing_ok=True)


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write dictionaries as the rows of a CSV file, atomically.

    Args:
        file: path of the file.
        rows: dictionaries with the same keys, which become the header.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_csv(Path(folder, 'a.csv'), [{'epoch': 0, 'score': 50.0}])
        ...     Path(folder, 'a.csv').read_text().splitlines()
        ['epoch,score', '0,50.0']
    """

    def write(partial: Path) -> None:
        with partial.open('w', newline='', encoding='utf-8') as opened:
            writer = csv.DictWriter(opened, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)

    atomic_write(file, write)


def check_writable(folder: Path) -> None:
    """Check that a folder is writable or can be created, without creating it.

    Args:
        folder: folder to check.

    Raises:
        ValueError: if the folder is not writable.
    """
    folder = folder.absolute()
    try:
        existing = next(f for f in (folder, *folder.parents) if f.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f'output folder must be writable, got {folder} ({error.strerror}); choose '
            'another folder, for example with --trainer.default_root_dir'
        ) from error


def short_hash(contents: Iterable[bytes]) -> str:
    """Compute a short hash of chunks of bytes.

    Args:
        contents: consecutive chunks.

    Returns:
        The first 16 hexadecimal digits of the SHA-256 hash.
    """
    found = hashlib.sha256()
    for content in contents:
        found.update(content)
    return found.hexdigest()[:16]


def checksum_of(file: Path) -> str:
    """Compute the SHA-256 checksum of a file, in hexadecimal."""
    with file.open('rb') as opened:
        return hashlib.file_digest(opened, 'sha256').hexdigest()
