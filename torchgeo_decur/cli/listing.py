"""List the configs and weights of this package without importing torch."""

from pathlib import Path

from ..config import find_experiments, summarize
from ..published_weights import LICENCE, PUBLISHED, cached_file, urls_of

_BANDS = {
    's1': 'VV VH',
    's2': 'B1 to B12',
    'rgb': 'R G B',
    'dem': 'elevation',
    'hha': 'disparity height angle',
}


def config(name: str | None = None, out: Path | None = None) -> None:
    """Print a config for `torchgeo fit --config`; without a name, list all configs.

    Args:
        name: config name, such as quickstart.
        out: destination folder for copies of all configs.
    """
    files = find_experiments()
    if out is not None:
        if name is not None:
            raise ValueError(
                f'name must not be set with --out, which copies all configs, got {name!r}; '
                'omit one of them'
            )
        copies = {
            (out / known).with_suffix('.yaml'): file.read_text()
            for known, file in files.items()
        }
        for copy, text in copies.items():
            if copy.exists() and copy.read_text() != text:
                raise ValueError(
                    f'{copy} exists and differs from the config in this package; move it '
                    'or choose another folder with --out'
                )
        for copy, text in copies.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text)
        print(f'{len(files)} configs in {out}')
    elif name is None:
        width = max(map(len, files))
        for known, file in files.items():
            print(f'{known:<{width}}  {summarize(file.read_text())}')
    elif name in files:
        print(files[name].read_text(), end='')
    else:
        raise ValueError(f'name must be one of {list(files)}, got {name!r}')


def weights() -> None:
    """List the published weights and show which are cached."""
    rows = [['name', 'modality', 'bands', 'size', 'license', 'cached']]
    rows += [_row(name) for name in PUBLISHED]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print('  '.join(cells).rstrip())


def _row(name: str) -> list[str]:
    modalities = PUBLISHED[name].sensors
    files = [cached_file(url) for url in urls_of(name)]
    cached = all(file.exists() for file in files)
    size = sum(file.stat().st_size for file in files) / 1e6 if cached else 0
    return [
        name,
        '+'.join(modalities),
        ' + '.join(_BANDS[m] for m in modalities),
        f'{size:.0f} MB' if cached else '-',
        LICENCE,
        'yes' if cached else 'no',
    ]
