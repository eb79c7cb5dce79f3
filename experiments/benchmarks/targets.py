"""Compare benchmark results on two CPU cores with their targets."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmarks.record import FOLDER


@dataclass(frozen=True)
class Target:
    """Bounds of a benchmark result.

    Args:
        says: description of the target.
        benchmark: name of the benchmark, which is part of the results file name.
        case: regular expression that selects rows; all of them must be within the bounds.
        at_least: lower bound, or None.
        at_most: upper bound, or None.
    """

    says: str
    benchmark: str
    case: str
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        """Check whether a measured number is within the bounds."""
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)


TARGETS = (
    Target(
        'loss, N = 256, D = 8192: time of the D x D form / ours',
        'loss',
        r'N=256 D=8192 .*what=matrices / DeCUR$',
        at_least=30,
    ),
    Target(
        'loss, N = 256, D = 8192: memory of the D x D form / ours',
        'loss',
        r'N=256 D=8192 .*what=matrices / DeCUR, memory$',
        at_least=3,
    ),
    Target(
        'loss, any size: time of the D x D form / ours',
        'loss',
        r'what=matrices / DeCUR$',
        at_least=1,
    ),
    Target(
        'loss, any size: time of Barlow Twins or VICReg / DeCUR',
        'loss',
        r'what=(BarlowTwins|VICReg) / DeCUR$',
        at_most=1.3,
    ),
    Target(
        'loss, any size: memory of Barlow Twins or VICReg / DeCUR',
        'loss',
        r'what=(BarlowTwins|VICReg) / DeCUR, memory$',
        at_most=1.3,
    ),
    Target(
        'loss, any size: time of a contrastive loss / DeCUR',
        'loss',
        r'what=(SimCLR|CLIP|CoMM|COrAL|InfMasking|FactorCL) / DeCUR$',
        at_most=1.3,
    ),
    Target(
        'loss, any size: time with partly paired / complete samples',
        'loss',
        r'what=\w+-partly / \w+$',
        at_most=2.5,
    ),
    Target(
        "loss, any size: time of lightly's Barlow Twins, VICReg or SimCLR / ours",
        'loss',
        r'what=lightly-.* / \w+$',
        at_least=1,
    ),
    Target(
        'augmentation, 13 bands: images/s of our presets / plain Kornia',
        'augmentation',
        r'bands=13 .*what=ours / kornia$',
        at_least=3,
    ),
    Target(
        'step, bfloat16: images/s of our step / published step',
        'step',
        r'compile=False what=ours bf16 / published$',
        at_least=2.5,
    ),
    Target(
        'step, float32: images/s of our step / published step',
        'step',
        r'compile=False what=ours float32 / published$',
        at_least=1.5,
    ),
    Target(
        'data, one worker: samples/s of packed bytes / GeoTIFF folder',
        'data',
        r'what=worker uint8 / worker folder',
        at_least=10,
    ),
    Target(
        'data, one worker: samples/s of packed raw values / GeoTIFF folder',
        'data',
        r'what=worker raw / worker folder',
        at_least=10,
    ),
    Target(
        'chips, 10,000 of two modalities: setup time in seconds',
        'chips',
        r'chips=10000 .*what=setup$',
        at_most=30,
    ),
    Target(
        'chips, any number: windows drawn per second',
        'chips',
        r'what=draw$',
        at_least=5000,
    ),
)


def render_targets(targets: Sequence[Target] = TARGETS, folder: Path = FOLDER) -> str:
    """Compare the latest results with the targets.

    Args:
        targets: targets to check.
        folder: folder of the results files.

    Returns:
        A Markdown table with the worst result for each target.
    """
    lines = ['| target | required | measured | result |', '|---|---:|---:|---|']
    for target in targets:
        asked = (
            f'at least {target.at_least:.3g}'
            if target.at_least is not None
            else f'at most {target.at_most:.3g}'
        )
        found = _measured(target, folder / f'results_{target.benchmark}.csv')
        if found is None:
            lines.append(f'| {target.says} | {asked} | not measured | |')
            continue
        says = 'met' if target.met(found) else 'missed'
        lines.append(f'| {target.says} | {asked} | {found:.3g} | {says} |')
    return '\n'.join(lines)


def _measured(target: Target, path: Path) -> float | None:
    """Return the worst result at the last commit in a file, or None."""
    if not path.exists():
        return None
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    values = [
        float(row['value'])
        for row in rows
        if row['commit'] == rows[-1]['commit'] and re.search(target.case, row['case'])
    ]
    worst = min if target.at_least is not None else max
    return worst(values, default=None)
