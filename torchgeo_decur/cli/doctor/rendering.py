"""Render a diagnosis as text or HTML."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ..report.page import render_page
from .diagnosis import Diagnosis
from .findings import Finding, Level, count

_WORDS = {Level.ERROR: 'error', Level.WARNING: 'warning', Level.NOTE: 'note'}


def render_text(diagnosis: Diagnosis, width: int = 80) -> str:
    """Render a diagnosis for the terminal.

    Args:
        diagnosis: the diagnosis.
        width: maximum line width in characters; tables may be wider.
    """
    lines = []
    for name, value in diagnosis.facts.items():
        lines += _wrap(f'{name}: {value}', width, '  ')
    for title, rows in diagnosis.tables.items():
        lines += ['', title, *_columns(rows)]
    lines += ['', _summary(diagnosis)]
    for number, finding in enumerate(diagnosis.findings, start=1):
        lines += _wrap(f'{number}. {_title(finding)}', width, '   ')
        for part in _parts(finding):
            lines += _wrap(f'   {part}', width, '     ')
    return '\n'.join(lines)


def render_html(diagnosis: Diagnosis) -> str:
    """Render a diagnosis as one self-contained HTML file."""
    results: list[dict[str, Any]] = [
        {
            'name': 'summary',
            'title': _summary(diagnosis),
            'text': '\n'.join(f'- {_title(f)}' for f in diagnosis.findings)
            or 'The samples that were read passed all checks.',
            'figures': {},
            'tables': {},
        }
    ]
    for number, finding in enumerate(diagnosis.findings, start=1):
        results.append(
            {
                'name': f'finding_{number}',
                'title': _title(finding),
                'text': '\n\n'.join(_parts(finding)),
                'figures': {},
                'tables': {},
            }
        )
    for title, rows in diagnosis.tables.items():
        name = title.lower().replace(' ', '_')
        results.append(
            {
                'name': f'table_{name}',
                'title': title,
                'text': f'{count(len(rows), "row")}.',
                'figures': {},
                'tables': {name: rows},
            }
        )
    return render_page('Data check', diagnosis.facts, results)


def _summary(diagnosis: Diagnosis) -> str:
    levels = [f.level for f in diagnosis.findings]
    if not levels:
        return 'No findings'
    return 'Findings: ' + ', '.join(
        count(n, word) for level, word in _WORDS.items() if (n := levels.count(level))
    )


def _title(finding: Finding) -> str:
    return f'{_WORDS[finding.level].capitalize()}, {finding.check} ({finding.where})'


def _parts(finding: Finding) -> list[str]:
    said = {'Found': finding.found, 'Expected': finding.expected, 'Fix': finding.cure}
    return [f'{name}: {text}.' for name, text in said.items() if text]


def _wrap(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [[*rows[0]], *([_cell(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        '  '.join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _cell(value: Any) -> str:
    if value is None:
        return '-'
    return f'{value:.4g}' if isinstance(value, float) else str(value)
