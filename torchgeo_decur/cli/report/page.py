"""Render a report as one self-contained HTML file."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

#: Maximum number of rows in an unfolded table, and in any table on the page.
FOLDED, LEFT_TO_FILE = 12, 250

_CSS = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0; background: #fff; color: #1a1a1a; font: 1rem/1.55 system-ui, sans-serif }
main, header, nav, footer { max-width: 62rem; margin: 0 auto; padding: 0 1rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1.5rem 0 .5rem }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .8rem; border-top: 1px solid #ccc }
a { color: #00508a } a:focus, summary:focus, .box:focus { outline: 3px solid #e69f00 }
.skip { position: absolute; left: -99rem } .skip:focus { position: static }
p, dd, li { overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0 }
dt { font-weight: 600 } dd { margin: 0; min-width: 0 }
figure.box { margin: 1rem 0 } img { display: block; max-width: max(100%, 36rem); height: auto }
.box { overflow-x: auto; max-width: 100%; margin: .6rem 0 }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
caption { text-align: left; font-weight: 600; padding: .3rem 0 }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid #ddd }
.n { text-align: right } summary { cursor: pointer; font-weight: 600; font-size: .9rem }
@media (max-width: 32rem) { dl { grid-template-columns: 1fr } dd { margin-bottom: .4rem } }
"""
_FOOTER = """<footer><p>The folders next to this page contain the figures as PNG and SVG files and the tables
as CSV and JSON files.</p></footer>
"""


def render_page(
    title: str,
    about: Mapping[str, str],
    results: Sequence[Mapping[str, Any]],
    folder: Path | None = None,
) -> str:
    """Render a report or a data check as an HTML page.

    Args:
        title: page title.
        about: properties shown below the title, by name.
        results: stored results of the analyses in page order; see
            :func:`~torchgeo_decur.cli.report.store.save_result`.
        folder: report folder, with one subfolder per analysis. Without it, results must
            not have figures, and tables have no links to files.

    Returns:
        HTML with embedded figures.
    """
    known = ''.join(
        f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in about.items()
    )
    links = ''.join(
        f'<li><a href="#{f["name"]}">{escape(f["title"])}</a></li>' for f in results
    )
    sections = '\n'.join(_section(result, folder) for result in results)
    footer = _FOOTER if folder is not None else ''
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_CSS}</style>
</head>
<body>
<a class="skip" href="#results">Skip to results</a>
<header><h1>{escape(title)}</h1>
<dl>{known}</dl></header>
<nav aria-label="Contents"><h2>Contents</h2><ol>{links}</ol></nav>
<main id="results" tabindex="-1">
{sections}
</main>
{footer}</body>
</html>
"""


def _section(result: Mapping[str, Any], folder: Path | None) -> str:
    name = result['name']
    said = result['text'].split('\n\n')
    parts = [_paragraph(text) for text in said]
    for figure, alt in result['figures'].items():
        content = (Path(folder or '') / name / f'{figure}.png').read_bytes()
        source = f'data:image/png;base64,{base64.b64encode(content).decode()}'
        parts.append(
            f'<figure class="box" tabindex="0"><img src="{source}" alt="{escape(alt)}"></figure>'
        )
    for table, rows in result['tables'].items():
        file = f'{name}/{table}.csv' if folder is not None else None
        parts.append(_table(table, rows, file))
    heading = f'<h2 id="{name}">{escape(result["title"])}</h2>'
    return (
        f'<section aria-labelledby="{name}">{heading}\n'
        + '\n'.join(parts)
        + '</section>'
    )


def _paragraph(text: str) -> str:
    lines = text.split('\n')
    if not all(line.startswith('- ') for line in lines):
        return f'<p>{escape(text)}</p>'
    items = ''.join(f'<li>{escape(line[2:])}</li>' for line in lines)
    return f'<ul>{items}</ul>'


def _cell(value: Any) -> str:
    if value is None:
        return ''
    return f'{value:.4g}' if isinstance(value, float) else escape(str(value))


def _table(name: str, rows: Sequence[Mapping[str, Any]], file: str | None) -> str:
    words = escape(name.replace('_', ' '))
    link = f'<a href="{escape(file)}">{escape(file)}</a>' if file else ''
    if not rows:
        return ''
    if file and len(rows) > LEFT_TO_FILE:
        return f'<p>Table <b>{words}</b> has {len(rows)} rows: {link}.</p>'
    numeric = {
        column: all(isinstance(row[column], int | float | None) for row in rows)
        for column in rows[0]
    }
    kinds = {
        column: ' class="n"' if number else '' for column, number in numeric.items()
    }
    head = ''.join(
        f'<th scope="col"{kinds[c]}>{escape(c.replace("_", " "))}</th>' for c in rows[0]
    )
    body = ''.join(
        '<tr>' + ''.join(f'<td{kinds[c]}>{_cell(row[c])}</td>' for c in row) + '</tr>'
        for row in rows
    )
    box = (
        f'<div class="box" tabindex="0" role="region" aria-label="Table {words}"><table>'
        f'<caption>{words}{link and f", {link}"}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        '</table></div>'
    )
    if len(rows) <= FOLDED:
        return box
    return f'<details><summary>Table {words}, {len(rows)} rows</summary>{box}</details>'
