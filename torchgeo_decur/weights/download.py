"""Download published weights once and verify them at every use.

Files are stored in the torch.hub cache, which TorchGeo shares and users can fill by hand.
``hf_hub_download`` uses another cache and cannot read ``file://`` URLs. It checks only the
size of a download and, with a pinned revision, accepts altered and truncated files (version
2.4).
"""

import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from ..files import atomic_write, checksum_of
from ..published_weights import cached_file

_HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})\.[^.]+$')


def checksum_file(url: str) -> Path:
    """Return the path of the file that records a SHA-256, in sha256sum format.

    Args:
        url: URL of the published file.

    Returns:
        Path next to the published file in the cache.
    """
    file = cached_file(url)
    return file.with_name(f'{file.name}.sha256')


def fetch[T](url: str, read: Callable[[Path], T], progress: bool = True) -> T:
    """Read and verify a published file; download it if it is not cached.

    If the file name contains a hash (``name-0123abcd.pth``), the content must match it.
    Otherwise, the SHA-256 is recorded next to the file at first use, and every later use
    or download must match the record. Files are cached atomically, and a file that fails
    verification is removed. In a read-only cache, no SHA-256 is recorded.

    Args:
        url: URL of the published file.
        read: function that reads the file, or raises ValueError if the content is wrong.
        progress: whether to show a progress bar for the download.

    Returns:
        The result of ``read``.

    Raises:
        FileNotFoundError: if the file is not in the cache and cannot be downloaded.
        ValueError: if the file has a different hash, or ``read`` raises this error.
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
            f'{url} is not in the cache and cannot be downloaded, because {file.parent} is '
            f'not writable ({error.strerror}); set the environment variable TORCH_HOME to '
            'a writable folder'
        ) from error
    contents: list[T] = []

    def download(partial: Path) -> None:
        try:
            torch.hub.download_url_to_file(url, str(partial), progress=progress)
        except Exception as error:
            raise FileNotFoundError(
                f'{url} is not in the cache and cannot be downloaded '
                f'({type(error).__name__}: {error}); without a network, copy the file to '
                f'{file}'
            ) from error
        contents.append(_read_verified(url, partial, read))

    atomic_write(file, download, shared=True)
    return contents[0]


def _read_verified[T](url: str, file: Path, read: Callable[[Path], T]) -> T:
    record, named = checksum_file(url), _HASH_IN_NAME.search(cached_file(url).name)
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
        # Trust the owner of a read-only cache.
        with suppress(OSError):
            atomic_write(record, lambda partial: partial.write_text(line), shared=True)
    return content


def _remove(file: Path) -> str:
    """Remove a file that failed verification and describe the outcome for the error."""
    try:
        file.unlink()
    except OSError as error:
        return f'cannot be removed ({error.strerror}); delete {file}'
    return 'has been removed'
