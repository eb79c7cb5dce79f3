"""Check sizes, projections, resolutions and positions of files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from .file_grids import Grid, read_grid
from .findings import Finding, Level, count, some
from .observations import Observation

# Largest number of files of a raster modality to open.
_MOST = 200


def check_sizes(observations: Sequence[Observation]) -> list[Finding]:
    """Check that images have one size, and modalities the same height and width."""
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
                    f'{count(len(found), "size")}: {_sizes(found)}; the first sample of '
                    f'another size is {other[0].label}',
                    'images of one size, because a batch is one tensor',
                    'set size of the datamodule, or resample or cut the files',
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
                f'different sizes: {text}',
                'modalities on one grid',
                'resample the files to one grid; random crops otherwise cover different '
                'places',
            )
        )
    return findings


def check_grids(observations: Sequence[Observation]) -> list[Finding]:
    """Check that the files of a sample have one projection and place."""
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
                    'one projection of all files of a sample',
                    'warp the files to one grid',
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
                    'files of one place in each sample',
                    'pair the files by place; check the names and the patterns',
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
                    f'corner coordinates of {len(moved)} of {count(len(same), "sample")} '
                    f'differ, by up to {pixels:.1f} px: {some(o.label for o in moved)}',
                    'the same corners, because these files are paired pixel by pixel',
                    'cut or warp the files to one grid, or use RasterPairDataModule, which '
                    'joins them by location',
                )
            )
    return findings


def check_leaves(leaves: Mapping[str, Any], footprint: Any) -> list[Finding]:
    """Check the files of rasters that are joined by location.

    Args:
        leaves: dataset of each modality, with an index of files.
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
                    'files that pair with the other modalities',
                    'add files of the other modalities there, or set footprint: union',
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
                    f'{len(crs)} projections: {_counted(crs)}; files of all but the first '
                    'are warped by nearest neighbour',
                    'one projection of all files of a modality',
                    'warp the files beforehand',
                )
            )
    return findings


def _check_resolution(name: str, grids: Mapping[str, Grid]) -> Iterable[Finding]:
    """Yield a finding if the files of one projection differ in resolution."""
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
                'one resolution of all files of a modality',
                'resample the files to one resolution',
            )


def _counted(counter: Counter[str]) -> str:
    return some((f'{key} ({n} files)' for key, n in counter.most_common()), 5)


def _sizes(counter: Counter[tuple[int, ...]]) -> str:
    pairs = (f'{h} x {w} ({n})' for (h, w), n in counter.most_common())
    return some(pairs, 5)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the common area of two bounding boxes, or 0."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def _corner_shift(a: Grid, b: Grid) -> float:
    """Return the largest difference of corners, in pixels of the coarser file."""
    pixel = max(a.width, b.width)
    return max(abs(x - y) for x, y in zip(a.bounds, b.bounds, strict=True)) / pixel
