"""Check the form of docstrings."""

import ast
import re
from pathlib import Path

import torchgeo_decur

PACKAGE = Path(torchgeo_decur.__file__).parent


def test_first_line_of_returns_has_no_type() -> None:
    # Sphinx reads the text before a colon as a type.
    found = []
    for file in sorted(PACKAGE.rglob('*.py')):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            text = ast.get_docstring(node) or ''
            for line in re.findall(r'(?:Returns|Yields):\n +(.*)', text):
                plain = re.sub(r'(:\w+:)?`+[^`]*`+', '', line)
                if re.search(r':( |$)', plain):
                    found.append(f'{file.name}, {node.name}: {line}')
    assert found == []
