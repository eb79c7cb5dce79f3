"""Record hardware, versions and commit of a number, and append its row."""

import csv
import fcntl
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What decides a number: not the documentation, nor the numbers themselves.
_CODE = ('torchgeo_decur', 'experiments', ':!experiments/*.csv', ':!*.md')


@cache
def commit(*paths: str) -> str:
    """Last commit that changed package or experiments, and a hash of what differs.

    Args:
        paths: what counts in place of these.

    Returns:
        Such as ``1a2b3c4``, or ``1a2b3c4+5d6e7f8`` where files differ from it.
    """

    def git(*args: str) -> str:
        command = ['git', '-C', str(ROOT), *args, '--', *(paths or _CODE)]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    found = git('rev-list', '-1', '--abbrev-commit', 'HEAD')
    changes = git('diff', 'HEAD')
    digest = sha256(changes.encode()).hexdigest()[:7]
    return (found or 'none') + (f'+{digest}' if changes else '')


@cache
def hardware() -> str:
    """Processor and cores, and accelerators where there are some."""
    import torch

    lines = _lines(Path('/proc/cpuinfo'))
    names = [
        v.strip() for k, _, v in (x.partition(':') for x in lines) if 'model name' in k
    ]
    name = names[0] if names else platform.processor() or platform.machine()
    found = f'{os.cpu_count()} x {name}'
    if torch.cuda.is_available():
        found += f', {torch.cuda.device_count()} x {torch.cuda.get_device_name()}'
    return found


@cache
def versions(*packages: str) -> str:
    """Versions of Python, torch and more.

    Args:
        packages: names of distributions.

    Returns:
        Such as ``python 3.12.3, torch 2.9.1``.
    """
    names = ('torch', *packages)
    return ', '.join(
        [f'python {platform.python_version()}', *(f'{n} {version(n)}' for n in names)]
    )


def append(
    path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> None:
    """Append rows to a CSV file as one write; several runs may share the file.

    Args:
        path: the file; its folder exists.
        columns: names of the columns.
        rows: what to append.
    """
    with path.open('a', newline='') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, columns, lineterminator='\n')
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        yield from path.read_text().splitlines()
