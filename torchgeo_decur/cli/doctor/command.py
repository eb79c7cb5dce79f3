"""Command `torchgeo-decur doctor`."""

import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ...files import atomic_write, check_writable
from .diagnosis import examine
from .findings import Level
from .rendering import render_html, render_text

#: Exit codes for scripts; 1 means that the command itself failed.
EXIT_CODES = {Level.WARNING: 3, Level.ERROR: 4}


def doctor(
    config: Path,
    overlays: list[Path] | None = None,
    out: Path | None = None,
    max_samples: int = 1000,
    workers: int | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Check the data of a config before a fit and suggest fixes.

    The exit code is 4 if there are errors, 3 if there are only warnings, and 0 otherwise.

    Args:
        config: ``torchgeo`` config with data.
        overlays: configs that override parts of it.
        out: optional HTML file for the findings.
        max_samples: maximum number of samples to read from all splits together.
        workers: number of worker processes, by default one per core.
        data: datamodule options that override the configs, such as
            ``--data.root FOLDER``.

    Raises:
        SystemExit: if there are warnings or errors.
    """
    if out is not None:
        check_writable(out.parent)
    # Print only the findings to standard output so that scripts can read them.
    with redirect_stdout(sys.stderr):
        diagnosis = examine(config, max_samples, workers, overlays or (), data)
    width = min(shutil.get_terminal_size((80, 24)).columns, 100)
    print(render_text(diagnosis, width))
    if out is not None:
        page = render_html(diagnosis)
        atomic_write(out, lambda partial: partial.write_text(page, 'utf-8'))
        print(out)
    worst = diagnosis.worst
    if worst in EXIT_CODES:
        raise SystemExit(EXIT_CODES[worst])
