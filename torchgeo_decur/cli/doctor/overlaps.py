"""Find duplicate images, and samples or locations that occur in several splits."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import shapely

from .findings import Finding, Level, count, some
from .observations import Observation

_LEAK = 'disjoint splits, because scores on training images are too high'


def check_names(names: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Check that no sample is in two splits.

    Args:
        names: names of all samples of each split.
    """
    findings = []
    for a, b in combinations(names, 2):
        first, second = set(names[a]), set(names[b])
        shared = sorted(first & second)
        # Without test data, the test stage uses the validation split.
        if shared and first != second:
            findings.append(
                Finding(
                    Level.ERROR,
                    'shared samples',
                    f'{a}, {b}',
                    f'{count(len(shared), "sample")} in both splits: {some(shared)}',
                    _LEAK,
                    'choose other splits, or remove these samples from one split',
                )
            )
    return findings


def check_duplicates(
    observations: Sequence[Observation], names: Sequence[str]
) -> list[Finding]:
    """Check by pixel hashes that no sample and no image occurs twice.

    Args:
        observations: the examined samples.
        names: names of the modalities.
    """
    whole = [
        (' '.join(o.hashes.get(m, '') for m in names), o)
        for o in observations
        if o.hashes and o.hashes.keys() == o.shapes.keys()
    ]
    findings = _find_equal(whole, ', '.join(names), Level.ERROR, Level.WARNING)
    found = {finding.check for finding in findings}
    for m in names if len(names) > 1 else ():
        single = [(o.hashes[m], o) for o in observations if m in o.hashes]
        # Equal samples also have equal images, so report them only once.
        findings += [
            finding
            for finding in _find_equal(single, m, Level.WARNING, Level.NOTE)
            if finding.check not in found
        ]
    return findings


def _find_equal(
    keys: Sequence[tuple[str, Observation]], name: str, across: Level, within: Level
) -> list[Finding]:
    same: dict[str, list[Observation]] = defaultdict(list)
    for key, o in keys:
        same[key].append(o)
    by_splits: dict[tuple[str, ...], list[list[Observation]]] = defaultdict(list)
    for group in same.values():
        if len(group) > 1:
            by_splits[tuple(dict.fromkeys(o.split for o in group))].append(group)
    findings = []
    for splits, groups in by_splits.items():
        leak = len(splits) > 1
        number = sum(map(len, groups)) - len(groups)
        examples = some((o.label for o in groups[0]), 2)
        findings.append(
            Finding(
                across if leak else within,
                'overlap' if leak else 'duplicates',
                f'{name}: {", ".join(splits)}',
                f'{count(number, "sample")} with the same pixels as another sample, such '
                f'as {examples}',
                _LEAK if leak else 'no duplicate images',
                'remove the duplicates'
                + ('' if leak else ', or check how the files are paired'),
            )
        )
    return findings


def check_places(observations: Sequence[Observation]) -> list[Finding]:
    """Check that georeferenced samples of different splits do not overlap."""
    boxes: dict[tuple[str, str], list[tuple[str, tuple[float, ...]]]] = defaultdict(
        list
    )
    for o in observations:
        if o.bounds is not None:
            boxes['', o.split].append((o.label, o.bounds))
        elif o.grids:
            grid = next(iter(o.grids.values()))
            # Use the file bounds only if the sample covers the whole file.
            if o.pixel_width(next(iter(o.grids))):
                boxes[grid.crs, o.split].append((o.label, grid.bounds))
    findings = []
    for (crs, a), (other, b) in combinations(boxes, 2):
        if crs != other:
            continue
        first, second = boxes[crs, a], boxes[crs, b]
        if {x for _, x in first} == {x for _, x in second}:
            continue
        left, right = (
            shapely.box(*np.array([x for _, x in part]).T) for part in (first, second)
        )
        i, j = shapely.STRtree(right).query(left, predicate='intersects')
        share = shapely.area(shapely.intersection(left[i], right[j]))
        share /= np.minimum(shapely.area(left[i]), shapely.area(right[j]))
        found = np.flatnonzero(share > 0.01)
        if found.size:
            pairs = (f'{first[i[k]][0]} and {second[j[k]][0]}' for k in found)
            findings.append(
                Finding(
                    Level.WARNING,
                    'shared places',
                    f'{a}, {b}',
                    f'{count(len(set(j[found].tolist())), "sample")} of {b} in the area of '
                    f'samples of {a}: {some(pairs, 2)}',
                    'different locations in each split',
                    'split by location so that all images of a location are in one split',
                )
            )
    return findings
