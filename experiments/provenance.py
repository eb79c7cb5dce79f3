"""Hardware, versions and commit behind measured numbers."""

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
# Paths of code that affects measured numbers, without documentation and results.
_CODE = ('torchgeo_decur', 'experiments', ':!experiments/*.csv', ':!*.md')


@cache
def commit(*paths: str) -> str:
    """Return the last commit of the code, with a hash of uncommitted changes.

    Args:
        paths: paths of the code; by default, the package and the experiments.

    Returns:
        The commit, such as ``1a2b3c4``, or ``1a2b3c4+5d6e7f8`` with uncommitted changes.
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
    """Describe the processor, its cores and the accelerators, if any."""
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
    """Return versions of Python, torch and packages: ``python 3.12.3, torch 2.9.1``."""
    names = ('torch', *packages)
    return ', '.join(
        [f'python {platform.python_version()}', *(f'{n} {version(n)}' for n in names)]
    )


def append(
    path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]
) -> None:
    """Append rows to a CSV file that several processes may write to.

    Args:
        path: path of the CSV file, in an existing folder.
        columns: column names.
        rows: rows to append.
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
