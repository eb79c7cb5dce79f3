"""Files: each appears whole or not at all, and what tells their contents apart."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

type Write = Callable[[Path], Any]


class UnreadableFileError(RuntimeError):
    """A file is missing, truncated or not a raster."""


def atomic_write(path: Path, write: Write, shared: bool = False) -> None:
    """Write a file that appears whole or not at all, for whom the umask lets read it.

    Args:
        path: the file; its folder is made.
        write: writes the file it is given, which lies beside and has another ending.
        shared: whether other processes may write the same file at this time. What one
            that is killed leaves beside is then not taken up by the next.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atomic_write(Path(folder, 'a.txt'), lambda file: file.write_text('whole'))
        ...     os.listdir(folder)
        ['a.txt']
    """
    atomic_write_all({path: write}, shared)


def atomic_write_all(writes: Mapping[Path, Write], shared: bool = False) -> None:
    """Write files that belong together: none appears before all are whole.

    Args:
        writes: by file, what writes it, as of :func:`atomic_write`.
        shared: as of :func:`atomic_write`.
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
            # Some libraries put another file there, that its owner alone may read.
            file.chmod(mode)
        for path, file in partial.items():
            os.replace(file, path)
    finally:
        for file in partial.values():
            file.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """See that a folder can be made and a file be written there; leaves no trace.

    Args:
        folder: the folder.

    Raises:
        ValueError: if not.
    """
    folder = folder.absolute()
    try:
        existing = next(f for f in (folder, *folder.parents) if f.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f'output folder must be writable, got {folder} ({error.strerror}); choose '
            'another, for example with --trainer.default_root_dir'
        ) from error


def short_hash(contents: Iterable[bytes]) -> str:
    """Tell contents apart.

    Args:
        contents: bytes, one after the other.

    Returns:
        16 characters, the beginning of their SHA-256.
    """
    found = hashlib.sha256()
    for content in contents:
        found.update(content)
    return found.hexdigest()[:16]


def checksum_of(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with file.open('rb') as opened:
        return hashlib.file_digest(opened, 'sha256').hexdigest()
