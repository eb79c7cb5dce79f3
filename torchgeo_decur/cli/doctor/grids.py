"""Check image sizes, projections, resolutions and file locations."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from .file_grids import Grid, read_grid
from .findings import Finding, Level, count, some
from .observations import Observation

# Maximum number of files to open for a raster modality.
_MOST = 200


def check_sizes(observations: Sequence[Observation]) -> list[Finding]:
    """Check that images have the same size within and across modalities."""
    findings = []
    sizes: dict[str, Counter[tuple[int, ...]]] = {}
    for o in observations:
        for m, shape in o.shapes.items():
            sizes.setdefault(m, Counter())[shape[-2:]] += 1
    for m, found in sizes.items():
        if len(found) > 1:
            first = found.most_common(1)[0][0]
            other = [o for o in observations if o.shapes.get(m, first)[-2:] != first]
            findings.append(
                Finding(
                    Level.ERROR,
                    'size',
                    m,
                    f'{count(len(found), "image size")}: {_sizes(found)}; the first sample '
                    f'with a different size is {other[0].label}',
                    'images of the same size, because they are stacked into a batch',
                    'set the option size of the datamodule, or resample or crop the files',
                )
            )
    usual = {m: found.most_common(1)[0][0] for m, found in sizes.items()}
    if len(set(usual.values())) > 1:
        text = ', '.join(f'{m} {h} x {w}' for m, (h, w) in usual.items())
        findings.append(
            Finding(
                Level.WARNING,
                'size',
                ', '.join(usual),
                f'different image sizes: {text}',
                'the same pixel grid for all modalities',
                'resample the files to one grid; otherwise, random crops show different '
                'areas',
            )
        )
    return findings


def check_grids(observations: Sequence[Observation]) -> list[Finding]:
    """Check the projection, location and resolution of the files of the samples."""
    findings: list[Finding] = []
    names = list(dict.fromkeys(m for o in observations for m in o.grids))
    for m in names:
        grids = {o.label: o.grids[m] for o in observations if m in o.grids}
        findings += _check_resolution(m, grids)
    for a, b in combinations(names, 2):
        both = [o for o in observations if a in o.grids and b in o.grids]
        other = [o for o in both if o.grids[a].crs != o.grids[b].crs]
        if other:
            first = other[0]
            findings.append(
                Finding(
                    Level.WARNING,
                    'projection',
                    f'{a}, {b}',
                    f'different projections in {len(other)} of {count(len(both), "sample")}'
                    f', such as {first.grids[a].crs} and {first.grids[b].crs} in '
                    f'{first.label}',
                    'the same projection for all files of a sample',
                    'reproject the files to one grid',
                )
            )
        same = [o for o in both if o.grids[a].crs == o.grids[b].crs]
        apart = [o for o in same if _overlap(o.grids[a].bounds, o.grids[b].bounds) <= 0]
        if apart:
            findings.append(
                Finding(
                    Level.ERROR,
                    'place',
                    f'{a}, {b}',
                    f'files of {len(apart)} of {count(len(same), "sample")} do not overlap: '
                    f'{some(o.label for o in apart)}',
                    'files of the same location in each sample',
                    'pair the files by location; check file names and patterns',
                )
            )
        moved = [
            o
            for o in same
            if o not in apart and _corner_shift(o.grids[a], o.grids[b]) > 1
        ]
        if moved:
            pixels = max(_corner_shift(o.grids[a], o.grids[b]) for o in moved)
            findings.append(
                Finding(
                    Level.WARNING,
                    'place',
                    f'{a}, {b}',
                    f'corner coordinates differ in {len(moved)} of '
                    f'{count(len(same), "sample")}, by up to {pixels:.1f} px: '
                    f'{some(o.label for o in moved)}',
                    'the same corners, because the files are paired pixel by pixel',
                    'crop or reproject the files to one grid, or use RasterPairDataModule, '
                    'which joins files by location',
                )
            )
    return findings


def check_leaves(leaves: Mapping[str, Any], footprint: Any) -> list[Finding]:
    """Check the overlap, resolution and projection of raster files joined by location.

    Args:
        leaves: raster dataset of each modality, with a file index.
        footprint: common footprint of all modalities.
    """
    findings = []
    for m, leaf in leaves.items():
        geometry = leaf.index.geometry
        outside = ~geometry.intersects(footprint).to_numpy()
        files = [str(path) for path in leaf.index.filepath]
        lost = [path for path, out in zip(files, outside, strict=True) if out]
        if lost:
            findings.append(
                Finding(
                    Level.WARNING,
                    'pairing',
                    m,
                    f'{len(lost)} of {count(len(files), "file")} lie outside the common '
                    f'footprint: {some(Path(path).name for path in lost)}',
                    'files that overlap files of the other modalities',
                    'add files of the other modalities for these areas, or set '
                    '`footprint: union`',
                )
            )
        paths = files[:: max(1, -(-len(files) // _MOST))]
        grids = {Path(p).name: grid for p in paths if (grid := read_grid(p))}
        findings += _check_resolution(m, grids)
        crs = Counter(grid.crs for grid in grids.values())
        if len(crs) > 1:
            findings.append(
                Finding(
                    Level.WARNING,
                    'projection',
                    m,
                    f'{len(crs)} projections: {_counted(crs)}; files in all but the first '
                    'are reprojected with nearest-neighbor resampling',
                    'the same projection for all files of a modality',
                    'reproject the files in advance',
                )
            )
    return findings


def _check_resolution(name: str, grids: Mapping[str, Grid]) -> Iterable[Finding]:
    """Yield a finding if files with the same unit differ in resolution."""
    widths: dict[str, Counter[str]] = {}
    for grid in grids.values():
        widths.setdefault(grid.unit, Counter())[f'{grid.width:.3g}'] += 1
    for unit, found in widths.items():
        if len(found) > 1:
            yield Finding(
                Level.WARNING,
                'resolution',
                name,
                f'{len(found)} resolutions: {_counted(found)}, in {unit}',
                'the same resolution for all files of a modality',
                'resample the files to one resolution',
            )


def _counted(counter: Counter[str]) -> str:
    return some((f'{key} ({count(n, "file")})' for key, n in counter.most_common()), 5)


def _sizes(counter: Counter[tuple[int, ...]]) -> str:
    pairs = (f'{h} x {w} ({n})' for (h, w), n in counter.most_common())
    return some(pairs, 5)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the area of the intersection of two bounding boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def _corner_shift(a: Grid, b: Grid) -> float:
    """Return the largest corner offset, in pixels of the coarser file."""
    pixel = max(a.width, b.width)
    return max(abs(x - y) for x, y in zip(a.bounds, b.bounds, strict=True)) / pixel
