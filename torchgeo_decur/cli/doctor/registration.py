"""Measure the shift between two modalities from many samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2

from .edges import Map
from .findings import Finding, Level
from .observations import Observation

# Smallest number of samples, and largest number of permuted pairings for chance peaks.
_FEWEST, _PERMUTATIONS = 5, 32
# A shift is reported if its peak exceeds the chance peaks by this factor.
_CLEAR, _CLEAR_OF_FEW, _STRONG = 2.0, 3.0, 4.0
_FEW = 8
# Smaller shifts are usual, also between products of Sentinel-1 and Sentinel-2.
_HARMLESS, _HARMFUL = 2.0, 5.0


@dataclass(frozen=True)
class Shift:
    """Position of one modality relative to another.

    Args:
        rows: shift of the second image down, in pixels.
        columns: shift to the right, in pixels.
        ratio: height of the peak, relative to the highest peak of permuted pairs.
        samples: number of samples.
        agrees: whether both halves of the samples have the same shift.
    """

    rows: float
    columns: float
    ratio: float
    samples: int
    agrees: bool

    @property
    def confidence(self) -> str:
        """'high', 'moderate', or 'cannot tell'."""
        needed = _CLEAR_OF_FEW if self.samples < _FEW else _CLEAR
        if self.ratio < needed or not self.agrees:
            return 'cannot tell'
        return 'high' if self.ratio >= _STRONG else 'moderate'

    @property
    def length(self) -> float:
        """Length of the shift in pixels."""
        return float(np.hypot(self.rows, self.columns))


def measure_shift(first: NDArray[np.float32], second: NDArray[np.float32]) -> Shift:
    r"""Measure the shift between two modalities by phase correlation.

    The cross-power spectra of all samples are summed and whitened,

    .. math:: S = \sum_i \bar A_i B_i \,/\, \sqrt{\sum_i |A_i|^2 \sum_i |B_i|^2},

    and the peak of their inverse transform is the shift. As a reference for
    chance, the computation is repeated with the second images of other samples.

    Args:
        first: edge maps of the first modality, shape (N, H, W).
        second: edge maps of the second, same shape.

    Returns:
        The shift of the second modality relative to the first.
    """
    number, *shape = first.shape
    a, b = _spectra(first), _spectra(second)
    whole = _surface(a, b, shape)
    place = np.unravel_index(whole.argmax(), whole.shape)
    halves = [_peak(_surface(a[half], b[half], shape)) for half in _halves(number)]
    rows, columns = _peak(whole)
    chance = max(
        float(_surface(a, np.roll(b, k, 0), shape).max())
        for k in range(1, min(number, _PERMUTATIONS + 1))
    )
    ratio = float(whole[place]) / chance if chance > 0 else 0.0
    agrees = all(np.hypot(y - rows, x - columns) <= _HARMLESS for y, x in halves)
    return Shift(rows, columns, ratio, number, agrees)


def check_shifts(
    observations: Sequence[Observation], names: Sequence[str]
) -> tuple[list[Finding], list[dict[str, Any]]]:
    """Check that the modalities of a sample show the same place.

    Args:
        observations: the examined samples.
        names: names of the modalities.

    Returns:
        The findings, and a row for each pair of modalities.
    """
    findings, rows = [], []
    for first, second in combinations(names, 2):
        maps = [
            (o.edges[first], o.edges[second])
            for o in observations
            if first in o.edges and second in o.edges
        ]
        row: dict[str, Any] = {'pair': f'{first}, {second}', 'samples': len(maps)}
        rows.append(row)
        same = [pair for pair in maps if pair[0].shape == pair[1].shape]
        if len(same) < _FEWEST or min(min(m.shape) for m, _ in same) < 16:
            few = len(maps) < _FEWEST
            reason = f'fewer than {_FEWEST} samples' if few else 'sizes differ'
            row |= {'shift': f'cannot tell ({reason})'}
            continue
        shift = measure_shift(*(_stack([pair[i] for pair in same]) for i in (0, 1)))
        row['peak over chance'] = round(shift.ratio, 2)
        if shift.confidence == 'cannot tell':
            row['shift'] = 'cannot tell'
            continue
        width = _pixel_width(observations, first)
        metres = f' ({width * shift.length:.0f} m)' if width else ''
        row['shift'] = f'{shift.length:.1f} px{metres}'
        row['down'], row['right'] = _round(shift.rows), _round(shift.columns)
        row['confidence'] = shift.confidence
        if shift.length >= _HARMLESS:
            findings.append(
                Finding(
                    Level.ERROR if shift.length >= _HARMFUL else Level.WARNING,
                    'shift',
                    f'{first}, {second}',
                    f'{second} lies {_side(shift.rows, "below", "above")} and '
                    f'{_side(shift.columns, "right of", "left of")} {first}, together '
                    f'{shift.length:.1f} px{metres}, with {shift.confidence} confidence '
                    f'({shift.samples} samples, peak {shift.ratio:.1f} times that of '
                    'permuted pairs)',
                    f'less than {_HARMLESS:g} px',
                    'register the files again; check the corner coordinates and whether '
                    'a coordinate refers to the corner or the centre of a pixel',
                )
            )
    return findings, [_filled(row) for row in rows]


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    keys = (
        *('pair', 'shift', 'down', 'right', 'confidence'),
        *('peak over chance', 'samples'),
    )
    return {key: row.get(key) for key in keys}


def _round(pixels: float) -> float:
    return round(pixels, 1) + 0.0  # no minus before 0


def _side(pixels: float, positive: str, negative: str) -> str:
    return f'{abs(pixels):.1f} px {positive if pixels >= 0 else negative}'


def _halves(number: int) -> list[slice]:
    return [slice(0, None, 2), slice(1, None, 2)] if number >= _FEW else []


def _spectra(maps: NDArray[np.float32]) -> NDArray[np.complex64]:
    spectra = rfft2(maps, workers=1)
    # Content that all samples share, such as a frame, does not show their position.
    spectra -= spectra.mean(0)
    energy = np.sqrt((np.abs(spectra) ** 2).sum((1, 2), keepdims=True))
    return np.asarray(spectra / np.maximum(energy, 1e-12), np.complex64)


def _surface(
    a: NDArray[np.complex64], b: NDArray[np.complex64], shape: Sequence[int]
) -> NDArray[np.float64]:
    """Return the correlation for shifts of up to a quarter of the size."""
    power = np.sqrt((np.abs(a) ** 2).mean(0) * (np.abs(b) ** 2).mean(0))
    cross = (a.conj() * b).mean(0) / np.maximum(power, 1e-3 * power.max() + 1e-30)
    reach = min(shape) // 4
    found = np.roll(irfft2(cross, shape), (reach, reach), (0, 1))
    return np.asarray(found[: 2 * reach + 1, : 2 * reach + 1], np.float64)


def _peak(surface: NDArray[np.float64]) -> tuple[float, float]:
    """Return rows and columns of the peak, interpolated by parabolas."""
    reach = len(surface) // 2
    y, x = (int(i) for i in np.unravel_index(surface.argmax(), surface.shape))
    return (y - reach + _vertex(surface[:, x], y), x - reach + _vertex(surface[y], x))


def _vertex(line: NDArray[np.float64], i: int) -> float:
    if not 0 < i < len(line) - 1:
        return 0.0
    before, top, after = line[i - 1 : i + 2]
    curvature = before - 2 * top + after
    return float((before - after) / (2 * curvature)) if curvature < 0 else 0.0


def _stack(maps: Sequence[Map]) -> NDArray[np.float32]:
    """Stack the centres of maps of different sizes."""
    height, width = (min(m.shape[i] for m in maps) for i in (0, 1))
    out = []
    for m in maps:
        top, left = (m.shape[0] - height) // 2, (m.shape[1] - width) // 2
        out.append(m[top : top + height, left : left + width])
    return np.stack(out)


def _pixel_width(observations: Sequence[Observation], name: str) -> float | None:
    """Return the width of a pixel in metres, if it is known and always the same."""
    widths = {round(w, 3) for o in observations if (w := o.pixel_width(name))}
    return widths.pop() if len(widths) == 1 else None
