"""Files: each appears whole or not at all, and what tells their contents apart."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4


def write_whole(path: Path, write: Callable[[Path], Any], shared: bool = False) -> None:
    """Write a file that appears whole or not at all, for whom the umask lets read it.

    Args:
        path: the file; its folder is made.
        write: writes the file it is given, which lies beside and has another ending.
        shared: whether other processes may write the same file at this time. What one
            that is killed leaves beside is then not taken up by the next.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, 'a.txt'), lambda file: file.write_text('whole'))
        ...     os.listdir(folder)
        ['a.txt']
    """
    own = f'.{uuid4().hex}' if shared else ''
    partial = path.with_name(f'.{path.name}{own}.partial')
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    try:
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        write(partial)
        # Some libraries put a file of their own there, that its owner alone may read.
        partial.chmod(mode)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def writable(folder: Path) -> None:
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


def digest(contents: Iterable[bytes]) -> str:
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
