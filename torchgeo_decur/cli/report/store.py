"""Read and write the files of a report."""

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import save_file

from ...analysis import AnalysisResult, Embeddings, figure_style
from ...files import atomic_write, write_csv
from ...resumable_parts import read_json, write_json

#: Name of the file with the result of an analysis. It is written last.
MARKER = 'result.json'
# Name of this file in release 0.1.
_OLD_MARKER = 'finding.json'
#: Name of the file that marks a report folder.
REPORT = 'report.json'
_MARK = {'torchgeo_decur': 'report'}


def claim(folder: Path, names: Collection[str]) -> None:
    """Mark a folder as a report folder, unless it contains other files.

    Args:
        folder: new or empty folder, or the folder of an earlier report.
        names: names of all analyses.

    Raises:
        ValueError: if the folder contains files that are not from a report.
    """
    mark = folder / REPORT
    if mark.is_file() and read_json(mark).get('torchgeo_decur') == 'report':
        return
    # Older reports have no mark, only stored results.
    ours = any('key' in _stored(folder / name) for name in names)
    if folder.exists() and not ours and (found := sorted(folder.iterdir())):
        raise ValueError(
            f'out must be new, empty or the folder of an earlier report, but {folder} '
            f'contains files such as {[f.name for f in found[:3]]}; choose another folder with '
            '--out'
        )
    write_json(mark, _MARK)


def save_embeddings(file: Path, embeddings: Embeddings, key: str) -> None:
    """Store embeddings so that an interrupted report can resume.

    Args:
        file: output file.
        embeddings: the embeddings.
        key: hash of the parameters, data and options.
    """
    tensors = {f'z/{m}': x for m, x in embeddings.z.items()}
    tensors |= {f'h/{m}': x for m, x in embeddings.h.items()}
    tensors |= {f'label/{name}': y for name, y in embeddings.labels.items()}
    tensors |= {f'available/{m}': there for m, there in embeddings.available.items()}
    pairs = list(embeddings.diagonals)
    tensors |= {f'pair/{i}': embeddings.diagonals[p] for i, p in enumerate(pairs)}
    about = {
        'key': key,
        'names': list(tensors),
        'pairs': pairs,
        'pair_numbers': [embeddings.pair_numbers.get(p) for p in pairs],
        'modalities': embeddings.modalities,
        'common_dim': embeddings.common_dim,
        'number': embeddings.number,
    }
    stored = {name: x.contiguous() for name, x in tensors.items()}
    text = {'torchgeo_decur': json.dumps(about)}
    atomic_write(file, lambda path: save_file(stored, path, text))


def load_embeddings(file: Path, key: str) -> Embeddings | None:
    """Load stored embeddings if they match the current run.

    Args:
        file: the file.
        key: expected hash.

    Returns:
        The embeddings, or None if the file is missing or has a different hash.
    """
    if not file.exists():
        return None
    with safe_open(file, 'pt') as opened:
        about = json.loads(opened.metadata()['torchgeo_decur'])
        if about['key'] != key:
            return None
        # Restore the order of the modalities, because safetensors does not keep it.
        tensors = {name: opened.get_tensor(name) for name in about['names']}

    def of(kind: str) -> dict[str, Any]:
        found = {n: x for n, x in tensors.items() if n.startswith(f'{kind}/')}
        return {n.removeprefix(f'{kind}/'): x for n, x in found.items()}

    pairs = [(m, n) for m, n in about['pairs']]
    return Embeddings(
        z=of('z'),
        h=of('h'),
        labels=of('label'),
        diagonals=dict(zip(pairs, of('pair').values(), strict=True)),
        modalities=tuple(about['modalities']),
        common_dim=about['common_dim'],
        number=about['number'],
        available=of('available'),
        pair_numbers={
            pair: number
            # Reports of earlier versions have no such numbers.
            for pair, number in zip(pairs, about.get('pair_numbers', ()), strict=False)
            if number is not None
        },
    )


def save_result(folder: Path, result: AnalysisResult, key: str) -> None:
    """Write the figures, tables and text of an analysis and close its figures.

    Files from an earlier run of the analysis are deleted; other files are kept.

    Args:
        folder: output folder of the analysis.
        result: result to write.
        key: hash of the parameters, data and options.
    """
    partial = folder.with_name(f'.{folder.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with figure_style():
            for name, figure in result.figures.items():
                figure.savefig(partial / f'{name}.png')
                figure.savefig(partial / f'{name}.svg', metadata={'Date': None})
        for name, rows in result.tables.items():
            write_csv(partial / f'{name}.csv', rows)
        content = {
            'key': key,
            'name': result.name,
            'title': result.title,
            'text': result.text,
            'figures': {n: alternative_text(f, n) for n, f in result.figures.items()},
            'tables': {n: list(rows) for n, rows in result.tables.items()},
        }
        folder.mkdir(exist_ok=True)
        for name in _files(_stored(folder)):
            (folder / name).unlink(missing_ok=True)
        for written in partial.iterdir():
            os.replace(written, folder / written.name)
        # Write this file last, because it marks the analysis as complete.
        write_json(folder / MARKER, content, indent=1)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for figure in result.figures.values():
            plt.close(figure)


def load_result(folder: Path, key: str) -> dict[str, Any] | None:
    """Load the stored result of an analysis if it matches the current run.

    Args:
        folder: output folder of the analysis.
        key: expected hash.

    Returns:
        Content of the result file, or None if it is missing or has a different hash.
    """
    content = _stored(folder)
    return content if content.get('key') == key else None


def _stored(folder: Path) -> dict[str, Any]:
    """Read the result file of an analysis by its current or old name."""
    return read_json(folder / MARKER) or read_json(folder / _OLD_MARKER)


def _files(content: dict[str, Any]) -> list[str]:
    """Return the names of the files that belong to a stored result."""
    pictures = [
        f'{n}.{end}' for n in content.get('figures', ()) for end in ('png', 'svg')
    ]
    return [
        MARKER,
        _OLD_MARKER,
        *pictures,
        *(f'{n}.csv' for n in content.get('tables', ())),
    ]


def alternative_text(figure: Figure, name: str) -> str:
    """Describe a figure in text for screen readers.

    Args:
        figure: the figure.
        name: name of the figure.

    Returns:
        Panel titles, axis labels and legend entries.
    """
    said: list[str] = []
    legend: list[str] = []
    for axis in figure.axes:
        named = (axis.get_title(loc='left') or axis.get_title(), '')
        across = (axis.get_xlabel(), 'x-axis: ')
        up = (axis.get_ylabel(), 'y-axis: ')
        words = [f'{lead}{text}' for text, lead in (named, across, up) if text]
        if words:
            said.append(', '.join(words))
        legend += axis.get_legend_handles_labels()[1]
    shown = f' Legend: {", ".join(dict.fromkeys(legend))}.' if legend else ''
    panels = '; '.join(dict.fromkeys(said))
    text = f'Figure {name.replace("_", " ")}. {panels}.{shown}'
    # Remove dollar signs and line breaks for screen readers.
    return ' '.join(text.replace('$', '').split())
