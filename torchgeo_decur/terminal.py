"""Hide unhelpful library messages and format tables for terminals with 80 columns."""

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

#: Width of the narrowest supported terminal, in columns.
COLUMNS = 80
# Minimum length of a shortened text, in characters.
_FEWEST = 8
_COMMANDS = ('torchgeo', 'torchgeo-decur')
# Lightning warnings that a user cannot act on.
_WARNINGS = (
    # Lightning 2.6 with torch 2.15 or later.
    r'`isinstance\(treespec, LeafSpec\)` is deprecated',
    # Lightning suggests one worker fewer than the number of cores, even if there are
    # few cores.
    r"The '\w+' does not have many workers .* `num_workers=[123]`",
)
# Lightning log lines that advertise other products or report absent hardware.
_LINES = r'💡 Tip: |[THI]PU available: False'
_LOGGER = 'lightning.pytorch.utilities.rank_zero'


def is_command(path: str) -> bool:
    """Check whether a program is ``torchgeo`` or ``torchgeo-decur``.

    Args:
        path: path of the program, ``sys.argv[0]``.

    Example:
        >>> is_command('/usr/bin/torchgeo'), is_command('train.py')
        (True, False)
    """
    file = Path(path)
    # `python -m torchgeo` runs the `__main__.py` of the package.
    name = file.parent.name.replace('_', '-') if file.stem == '__main__' else file.stem
    return name in _COMMANDS


def hide_noise() -> None:
    """Hide Lightning warnings and log lines that a user cannot act on.

    Errors and all other warnings are kept. Python options, such as ``-W error``, take
    precedence.
    """
    for message in _WARNINGS:
        warnings.filterwarnings('ignore', message, append=True)
    logger = logging.getLogger(_LOGGER)
    if not any(isinstance(known, _NoiseFilter) for known in logger.filters):
        logger.addFilter(_NoiseFilter())


class _NoiseFilter(logging.Filter):
    """Log filter that drops unhelpful lines and repeated lists of devices."""

    def __init__(self) -> None:
        super().__init__()
        self._device = ''

    def filter(self, record: logging.LogRecord) -> bool:
        line = record.getMessage()
        if line.startswith('GPU available'):
            repeated = line == self._device
            self._device = line
            return not repeated
        return not re.match(_LINES, line)


def text_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1
) -> str:
    """Format a table with aligned columns and shorten texts to fit the terminal width.

    Args:
        head: column names.
        rows: cells of each row.
        texts: number of text columns, which come first. The other columns are
            right-aligned, and only their names are shortened.

    Returns:
        Table in plain text. Its lines have the same length, which exceeds 80 characters
        only if the numbers need more space.

    Example:
        >>> print(text_table(['label', 'score'], [['a', '1.0'], ['forest', '12.5']]))
        label   score
        a         1.0
        forest   12.5
    """
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    fewest = [
        _FEWEST if i < texts else max([_FEWEST, *map(len, column[1:])])
        for i, column in enumerate(columns)
    ]
    while sum(widths) + 2 * (len(widths) - 1) > COLUMNS:
        spare, widest = max(
            (w - f, -i) for i, (w, f) in enumerate(zip(widths, fewest, strict=True))
        )
        if spare < 1:
            break
        widths[-widest] -= 1
    lines = []
    for cells in (head, *rows):
        short = [_shorten(c, w) for c, w in zip(cells, widths, strict=True)]
        lines.append(
            '  '.join(
                f'{c:<{w}}' if i < texts else f'{c:>{w}}'
                for i, (c, w) in enumerate(zip(short, widths, strict=True))
            )
        )
    return '\n'.join(lines)


def _shorten(text: str, width: int) -> str:
    """Shorten a long text in the middle, because similar names differ at their ends."""
    if len(text) <= width:
        return text
    left = (width - 2) // 2
    return f'{text[:left]}..{text[len(text) - (width - 2 - left) :]}'
