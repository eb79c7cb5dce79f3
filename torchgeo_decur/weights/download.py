"""Files of published weights: downloaded once, whole, and the same ever after."""

import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from ..catalog import cached_file
from ..files import atomic_write, checksum_of

_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.[^.]+$')


def record_file(url: str) -> Path:
    """Where the SHA-256 of a downloaded file is written, in the format of sha256sum.

    Args:
        url: address of the file.

    Returns:
        Path next to that of :func:`cached_file`.
    """
    file = cached_file(url)
    return file.with_name(f'{file.name}.sha256')


def fetch[T](url: str, read: Callable[[Path], T], progress: bool = True) -> T:
    """Read a published file, from the cache or else downloaded, and verified either way.

    A hash in the name of the file (``name-0123abcd.pth``) must be its own. Where the name
    has none, the SHA-256 is recorded when the file was first read, next to it, and
    every later use or download must have the same. Files appear in the cache whole or
    not at all; one that is not what it should be is removed. If the cache cannot be
    written, a good file is read all the same, and no SHA-256 is recorded.

    Args:
        url: address of the file.
        read: reads the file, or raises ValueError if its content is not what it should
            be.
        progress: show a progress bar of the download.

    Returns:
        What ``read`` returns.

    Raises:
        FileNotFoundError: if the file is not in the cache and cannot be downloaded.
        ValueError: if the file has another hash, or ``read`` refuses it.
    """
    file = cached_file(url)
    if file.exists():
        return _read_verified(url, file, read)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise FileNotFoundError(
            f'{url} is not in the cache, and {file.parent} must be a folder that can be '
            f'written to download it: {error.strerror}; choose another with the '
            'environment variable TORCH_HOME'
        ) from error
    contents: list[T] = []

    def download(partial: Path) -> None:
        try:
            torch.hub.download_url_to_file(url, str(partial), progress=progress)
        except Exception as error:
            raise FileNotFoundError(
                f'{url} is not in the cache and cannot be downloaded '
                f'({type(error).__name__}: {error}); without a network, get the file '
                f'elsewhere and put it at {file}'
            ) from error
        contents.append(_read_verified(url, partial, read))

    atomic_write(file, download, shared=True)
    return contents[0]


def _read_verified[T](url: str, file: Path, read: Callable[[Path], T]) -> T:
    record, named = record_file(url), _HASH_IN_NAME.search(cached_file(url).name)
    known = record.read_text().split()[:1] if record.exists() and not named else []
    expected = named[1] if named else ''.join(known)
    found = checksum_of(file)
    if not found.startswith(expected):
        raise ValueError(
            f'{url}: expected a file with SHA-256 {expected}'
            f'{"" if named else f" as recorded in {record}"}, found {found}; it was '
            f'truncated or altered and {_remove(file)}'
            f'{"" if named else f". If the publisher replaced it, delete {record.name}"}'
        )
    try:
        content = read(file)
    except ValueError as error:
        if not expected:
            raise ValueError(f'{error}; it {_remove(file)}') from error
        raise
    if not expected:
        line = f'{found}  {cached_file(url).name}\n'
        # A cache that cannot be written holds files that its owner vouches for.
        with suppress(OSError):
            atomic_write(record, lambda partial: partial.write_text(line), shared=True)
    return content


def _remove(file: Path) -> str:
    """Remove a file that is not what it should be; return what became of it."""
    try:
        file.unlink()
    except OSError as error:
        return f'cannot be removed ({error.strerror}); delete {file}'
    return 'has been removed'
