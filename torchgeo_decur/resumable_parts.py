"""Write long outputs in parts so that an interrupted run can resume.

A run first writes its settings to a JSON file, then each part to a separate file. All
writes are atomic. A later run with the same settings writes only the missing parts. The
combined output is written last.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .files import atomic_write


def resume_run(
    record: Path,
    settings: Mapping[str, Any],
    size: int,
    size_key: str = 'size',
    upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> int:
    """Prepare to resume an interrupted run, or store the settings of a new run.

    Args:
        record: JSON file with the settings. It exists while the output is unfinished.
        settings: JSON values that determine the content of the parts.
        size: number of items per part in a new run.
        size_key: key of ``size`` in the JSON file.
        upgrade: function that translates settings from an earlier release.

    Returns:
        Number of items per part. An interrupted run keeps its original number.

    Raises:
        ValueError: if the interrupted run had different settings.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, 'run.json')
        ...     resume_run(file, {'seed': 0}, 64), resume_run(file, {'seed': 0}, 32)
        (64, 64)
    """
    if not record.exists():
        write_json(record, {**settings, size_key: size})
        return size
    found = upgrade(read_json(record))
    size = found.pop(size_key, size)
    check_same_settings(found, settings, record.parent)
    return int(size)


def check_same_settings(
    found: Mapping[str, Any], settings: Mapping[str, Any], folder: Path
) -> None:
    """Check that existing parts were written with the settings of this run.

    Args:
        found: settings of the run that wrote the parts.
        settings: settings of this run.
        folder: folder of the parts.

    Raises:
        ValueError: if a setting differs.
    """
    differ = [k for k in {**settings, **found} if found.get(k) != settings.get(k)]
    if differ:
        raise ValueError(
            f'{folder} must contain parts with the settings of this run, but differs in '
            f'{sorted(differ)}; delete it or choose another output with --out'
        )


def is_finished(
    out: Path, settings: Mapping[str, Any], read: Callable[[Path], str | bytes | None]
) -> bool:
    """Check whether a run with the same settings has finished a file.

    Args:
        out: path of the file.
        settings: JSON values that determine the content of the file.
        read: function that reads the settings from a file, as JSON.

    Returns:
        True if the file is complete, False if it does not exist.

    Raises:
        ValueError: if the file is from another run or program.
    """
    if not out.exists():
        return False
    try:
        found = json.loads(read(out) or '{}')
    # Errors of pyarrow and rasterio are also of these types.
    except (OSError, ValueError):
        found = {}
    if not found or found != json.loads(json.dumps(dict(settings))):
        raise ValueError(
            f'out must be a new file or the output of the same run, got {out} from '
            'another run; delete it or choose another file with --out'
        )
    return True


def cut_into_parts(number: int, size: int) -> list[range]:
    """Split items into parts of consecutive items.

    Args:
        number: number of items.
        size: number of items per part.

    Returns:
        Item indices of each part; the last part may be smaller.

    Example:
        >>> cut_into_parts(5, 2)
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(i, min(i + size, number)) for i in range(0, number, size)]


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; return an empty one if the file is missing or not valid."""
    try:
        content = json.loads(file.read_text('utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(
    file: Path, content: Mapping[str, Any], indent: int | None = None
) -> None:
    """Write a JSON object atomically and flush it to disk.

    Args:
        file: path of the file.
        content: JSON object. Values that JSON does not support are converted to floats.
        indent: number of spaces per level, or None for a single line.
    """
    write_text(file, json.dumps(content, indent=indent, default=float))


def write_text(file: Path, text: str) -> None:
    """Write a small text file atomically and flush it to disk."""

    def write(partial: Path) -> None:
        with partial.open('w', encoding='utf-8') as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())

    atomic_write(file, write)
