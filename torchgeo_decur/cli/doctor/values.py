"""Check the units, value ranges and bands of the images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...modalities import Modality
from ...modalities.sampled_values import Values
from ...modalities.unit_errors import SHIFTED, Severity, inspect
from .findings import Finding, Level, count, some
from .observations import Observation

_LEVELS = {
    Severity.ERROR: Level.ERROR,
    Severity.SUSPICION: Level.WARNING,
    Severity.NOTE: Level.NOTE,
}
# Start of Sentinel-2 processing baseline 04.00: 2022-01-25, in seconds since 1970.
_BASELINE = 1_643_068_800
_BARS = '▁▂▃▄▅▆▇█'
# Minimum fraction of pixels at 0 or 255 in a saturated band.
_SATURATED = 0.25


def check_values(
    observations: Sequence[Observation], modalities: Mapping[str, Modality]
) -> list[Finding]:
    """Check the values of each modality in each split.

    Args:
        observations: the examined samples.
        modalities: metadata of each modality.
    """
    findings = []
    known = set()
    for split in dict.fromkeys(o.split for o in observations):
        for m, modality in modalities.items():
            some_values = [
                o.values[m] for o in observations if o.split == split and m in o.values
            ]
            if not some_values:
                continue
            values = Values.join(some_values)
            found = _check_signs(values, m, split)
            found += _check_copies(values, m)
            if modality.unit == 'uint8' and modality.kind == 'rgb':
                found += _check_saturation(values, m)
            for finding in found:
                # Report a defect once, not for each split.
                if (finding.check, m) not in known:
                    findings.append(finding)
            known |= {(finding.check, m) for finding in found}
    for m in modalities:
        if mixture := _check_offset_by_date(observations, m):
            findings = [f for f in findings if (f.check, f.where) != ('offset', m)]
            findings.append(mixture)
    return findings


def check_copied_images(observations: Sequence[Observation]) -> list[Finding]:
    """Check that no image occurs in two modalities of a sample."""
    same: dict[tuple[str, str], list[str]] = {}
    for o in observations:
        by_hash: dict[str, str] = {}
        for m, key in o.hashes.items():
            other = by_hash.setdefault(key, m)
            if other != m:
                same.setdefault((other, m), []).append(o.label)
    return [
        Finding(
            Level.ERROR if len(names) > len(observations) / 2 else Level.WARNING,
            'copies',
            ', '.join(pair),
            f'the same image for both modalities in {count(len(names), "sample")}: '
            f'{some(names)}',
            'images from different sensors',
            'check the paths and file patterns of both modalities',
        )
        for pair, names in same.items()
    ]


def summarize_values(
    observations: Sequence[Observation], modalities: Mapping[str, Modality]
) -> list[dict[str, Any]]:
    """Summarize the values of each band.

    Args:
        observations: the examined samples.
        modalities: metadata of each modality.

    Returns:
        One row per band. It contains the value range, the percentages of values that
        scale to 0 and to 1, and a histogram from the 1st to the 99th percentile.
    """
    rows = []
    for m, modality in modalities.items():
        parts = [o.values[m] for o in observations if m in o.values]
        if not parts:
            continue
        values = Values.join(parts)
        for i, band in enumerate(modality.bands):
            pixels = values.images[:, i].flatten()
            x = pixels[~pixels.isnan()].numpy()
            row: dict[str, Any] = {'modality': m, 'band': band, 'unit': modality.unit}
            if x.size:
                first, middle, last = np.quantile(x, (0.01, 0.5, 0.99)).tolist()
                row |= {
                    'min': float(values.low[i]),
                    'median': middle,
                    'max': float(values.high[i]),
                    **_shares(x, modality, i),
                    'histogram': _histogram(x, first, last),
                }
            rows.append(row)
    keys = (
        *('modality', 'band', 'unit', 'min', 'median', 'max'),
        *('% at 0', '% at 1', 'histogram'),
    )
    return [{key: row.get(key) for key in keys} for row in rows]


def _shares(x: Any, modality: Modality, band: int) -> dict[str, float]:
    """Return the percentages of values that scale to 0 and to 1."""
    if modality.limits is None:
        return {}
    low, high = (limit[band] for limit in modality.limits)
    return {
        '% at 0': round(100 * float((x <= low).mean()), 1),
        '% at 1': round(100 * float((x >= high).mean()), 1),
    }


def _histogram(x: Any, low: float, high: float) -> str:
    if high <= low:
        return ''
    counts = np.histogram(x, 12, (low, high))[0]
    places = np.ceil(counts / counts.max() * len(_BARS)).astype(int)
    return ''.join(_BARS[max(i - 1, 0)] for i in places)


def _check_signs(values: Values, name: str, split: str) -> list[Finding]:
    found = []
    for sign in inspect(values):
        # Statistics describe the training split; values of other regions may differ.
        if sign.topic == SHIFTED and split != 'train':
            continue
        level = _LEVELS[sign.severity]
        if sign.topic == 'offset':
            level = max(level, Level.WARNING)
        if sign.topic == 'constant':
            level = Level.WARNING if values.varying.any() else Level.ERROR
        check = 'scale' if sign.topic in (SHIFTED, 'ends') else sign.topic
        message = sign.message.replace('over the batch', f'in all samples of {split}')
        found.append(Finding.of(level, check, name, message))
    return found


def _check_copies(values: Values, name: str) -> list[Finding]:
    """Check that no band is a linear function of another band."""
    places = values.varying.nonzero().flatten()
    bands = values.bands[places]
    known = bands[:, ~bands.isnan().any(0)]
    if len(places) < 2 or known.shape[1] < 16 or (known.std(1) == 0).any():
        return []
    correlation = torch.corrcoef(known)
    equal = (1 - correlation**2 < 1e-6).triu(1).nonzero().tolist()
    names = values.modality.bands
    pairs = [f'{names[places[i]]} and {names[places[j]]}' for i, j in equal]
    if not pairs:
        return []
    return [
        Finding(
            Level.WARNING,
            'copies',
            name,
            f'bands that are linear functions of each other: {some(pairs)}',
            'a different measurement in each band',
            'remove the duplicate bands, or check the band order in the files',
        )
    ]


def _check_saturation(values: Values, name: str) -> list[Finding]:
    x = values.images
    known = (~x.isnan()).sum((0, 2)).clamp(min=1)
    ends = {end: ((x == end).sum((0, 2)) / known).max() for end in (0, 255)}
    return [
        Finding(
            Level.NOTE,
            'saturation',
            name,
            f'{share:.0%} of the pixels in a band are exactly {end}',
            'few saturated or empty pixels',
            'set the option nodata if these pixels are missing, or scale a wider value '
            'range to bytes',
        )
        for end, share in ends.items()
        if share >= _SATURATED
    ]


def _check_offset_by_date(
    observations: Sequence[Observation], name: str
) -> Finding | None:
    """Check whether the Sentinel-2 offset occurs only in the images of some dates."""
    groups: dict[str, list[Values]] = {}
    for o in observations:
        if name not in o.values:
            continue
        values, dates = o.values[name], o.dates.get(name)
        for t in range(len(values.images)):
            if dates is not None and len(dates) == len(values.images):
                group = 'before' if dates[t] < _BASELINE else 'from'
                group = f'{group} 2022-01-25'
            elif len(values.images) > 1:
                group = f'of date {t}'
            else:
                return None
            groups.setdefault(group, []).append(_one(values, t))
    if len(groups) < 2:
        return None
    shifted = {
        group: any(s.topic == 'offset' for s in inspect(Values.join(parts)))
        for group, parts in groups.items()
    }
    if all(shifted.values()) or not any(shifted.values()):
        return None
    having = [f'{group}' for group, has in shifted.items() if has]
    without = [f'{group}' for group, has in shifted.items() if not has]
    return Finding(
        Level.ERROR,
        'offset',
        name,
        f'digital numbers with an offset of 1000 in images {some(having)}, but not in '
        f'images {some(without)}, as in Sentinel-2 processing baseline 04.00',
        'the same conversion from reflectance to digital numbers for all dates',
        'subtract 1000 from the files with the offset; the offset option of the '
        'conversion would apply to all dates',
    )


def _one(values: Values, t: int) -> Values:
    """Return the values of the image at index t."""
    images = values.images[t : t + 1]
    low = images.nan_to_num(torch.inf).amin((0, 2))
    high = images.nan_to_num(-torch.inf).amax((0, 2))
    return Values(values.modality, images, low, high)
