"""Show what a terminal shows."""

import re


def render_screen(written: str) -> list[str]:
    r"""Return the lines of a screen that are not blank.

    Args:
        written: text with returns, line feeds, ``ESC [A`` (up) and ``ESC [K`` (erase).
    """
    lines: list[list[str]] = [[]]
    row = column = 0
    for part in re.findall(r'\x1b\[\d*[A-Za-z]|.', written, re.S):
        if part == '\r':
            column = 0
        elif part == '\n':
            row += 1
            lines += [[]] * (row == len(lines))
        elif part.endswith('A') and len(part) > 1:
            row = max(row - int(part[2:-1] or 1), 0)
        elif len(part) > 1:
            del lines[row][column:]
        else:
            line = lines[row]
            line += [' '] * (column + 1 - len(line))
            line[column] = part
            column += 1
    text = [''.join(line).rstrip() for line in lines]
    return [line for line in text if line]
