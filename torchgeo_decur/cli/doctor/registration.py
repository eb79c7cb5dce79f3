"""Measure the registration shift between two modalities from many samples."""

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

# Minimum number of samples, and maximum number of permutations for the chance peak.
_FEWEST, _PERMUTATIONS = 5, 32
# Minimum ratio of the peak to the chance peak: to report a shift, to report one from few
# samples, and for high confidence.
_CLEAR, _CLEAR_OF_FEW, _STRONG = 2.0, 3.0, 4.0
_FEW = 8
# Thresholds in pixels for a warning and an error. Smaller shifts are common, even between
# Sentinel-1 and Sentinel-2 products.
_HARMLESS, _HARMFUL = 2.0, 5.0


@dataclass(frozen=True)
class Shift:
    """Shift of one modality relative to another.

    Args:
        rows: downward shift of the second modality, in pixels.
        columns: rightward shift of the second modality, in pixels.
        ratio: height of the correlation peak relative to the chance peak, which is the
            highest peak of permuted pairs.
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
        """Confidence in the shift: 'high', 'moderate' or 'cannot tell'."""
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

    .. math:: S = \sum_i \bar A_i B_i \,/\, \sqrt{\sum_i |A_i|^2 \sum_i |B_i|^2}.

    The peak of the inverse Fourier transform of :math:`S` is the shift. To estimate
    chance peaks, the computation is repeated with permuted pairs.

    Args:
        first: edge maps of the first modality, shape (N, H, W).
        second: edge maps of the second modality, same shape.

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
    """Check that the images of a sample are registered.

    Args:
        observations: the examined samples.
        names: names of the modalities.

    Returns:
        Findings, and a table with one row per pair of modalities.
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
            reason = f'fewer than {_FEWEST} samples' if few else 'image sizes differ'
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
                    f'{second} is shifted {_side(shift.rows, "down", "up")} and '
                    f'{_side(shift.columns, "right", "left")} relative to {first}, '
                    f'{shift.length:.1f} px{metres} in total, with {shift.confidence} '
                    f'confidence ({shift.samples} samples, peak {shift.ratio:.1f} times '
                    'the chance peak)',
                    f'a shift of less than {_HARMLESS:g} px',
                    'register the files again; check the corner coordinates and whether '
                    'coordinates refer to the corner or the center of a pixel',
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
    return round(pixels, 1) + 0.0  # avoid -0.0


def _side(pixels: float, positive: str, negative: str) -> str:
    return f'{abs(pixels):.1f} px {positive if pixels >= 0 else negative}'


def _halves(number: int) -> list[slice]:
    return [slice(0, None, 2), slice(1, None, 2)] if number >= _FEW else []


def _spectra(maps: NDArray[np.float32]) -> NDArray[np.complex64]:
    spectra = rfft2(maps, workers=1)
    # Content that all samples share, such as a frame, carries no information on shifts.
    spectra -= spectra.mean(0)
    energy = np.sqrt((np.abs(spectra) ** 2).sum((1, 2), keepdims=True))
    return np.asarray(spectra / np.maximum(energy, 1e-12), np.complex64)


def _surface(
    a: NDArray[np.complex64], b: NDArray[np.complex64], shape: Sequence[int]
) -> NDArray[np.float64]:
    """Return the correlation for shifts up to a quarter of the image size."""
    power = np.sqrt((np.abs(a) ** 2).mean(0) * (np.abs(b) ** 2).mean(0))
    cross = (a.conj() * b).mean(0) / np.maximum(power, 1e-3 * power.max() + 1e-30)
    reach = min(shape) // 4
    found = np.roll(irfft2(cross, shape), (reach, reach), (0, 1))
    return np.asarray(found[: 2 * reach + 1, : 2 * reach + 1], np.float64)


def _peak(surface: NDArray[np.float64]) -> tuple[float, float]:
    """Return the row and column shift of the peak, refined by fitting parabolas."""
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
    """Crop the maps around their centers to a common size and stack them."""
    height, width = (min(m.shape[i] for m in maps) for i in (0, 1))
    out = []
    for m in maps:
        top, left = (m.shape[0] - height) // 2, (m.shape[1] - width) // 2
        out.append(m[top : top + height, left : left + width])
    return np.stack(out)


def _pixel_width(observations: Sequence[Observation], name: str) -> float | None:
    """Return the pixel width in meters, or None if it is unknown or varies."""
    widths = {round(w, 3) for o in observations if (w := o.pixel_width(name))}
    return widths.pop() if len(widths) == 1 else None
