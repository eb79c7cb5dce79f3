"""Read pages of the documentation."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.rglob('*.md'))
TUTORIALS = sorted(p for p in (DOCS / 'tutorials').glob('*.md') if p.stem != 'index')
TEXTS = [*PAGES, *(ROOT / f for f in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'))]
TEXTS.append(ROOT / 'experiments' / 'README.md')


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return language and content of each fenced block."""
    found = re.findall(r'^( *)```(\w+)\n(.*?)^\1```$', page.read_text(), re.M | re.S)
    return [(language, inspect.cleandoc(body)) for _, language, body in found]


def cells(page: Path) -> list[tuple[str, str]]:
    """Return the options, in YAML, and the code of each cell of a notebook."""
    cell = r'^```\{code-cell\}\n(?:---\n(.*?)^---\n)?(.*?)^```$'
    return re.findall(cell, page.read_text(), re.M | re.S)


def commands(text: str) -> Iterator[str]:
    """Return the commands of a block, with joined lines and without redirections."""
    joined = re.sub(r'\\\n\s*', '', text)
    for line in joined.splitlines():
        if re.match(r'(\$ )?(torchgeo|torchgeo-decur|python|pytest) ', line):
            yield re.sub(r' > \S+$', '', line.removeprefix('$ '))
