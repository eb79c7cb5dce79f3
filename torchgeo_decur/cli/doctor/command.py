"""Run the command `torchgeo-decur doctor`."""

import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ...files import atomic_write, check_writable
from .diagnosis import examine
from .findings import Level
from .rendering import render_html, render_text

#: Exit codes for scripts; 1 is an error of the command itself.
EXIT_CODES = {Level.WARNING: 3, Level.ERROR: 4}


def doctor(
    config: Path,
    overlays: list[Path] | None = None,
    out: Path | None = None,
    max_samples: int = 1000,
    workers: int | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Examine the data of a config before a fit, and print findings with fixes.

    The exit code is 0 without warnings and errors, 3 with warnings, and 4 with errors.

    Args:
        config: config of ``torchgeo`` with data.
        overlays: configs that override parts of it.
        out: HTML file to write.
        max_samples: largest number of samples to read, over all splits.
        workers: processes that read; one for each core by default.
        data: options of the datamodule that override the configs, such as
            ``--data.root FOLDER``.

    Raises:
        SystemExit: if there are warnings or errors.
    """
    if out is not None:
        check_writable(out.parent)
    # Only the page goes to standard output, for scripts.
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
