"""Generate the ground of a synthetic scene: terrain, land cover and parcels.

All sensors observe the same ground. A *landscape* defines the shapes of the parcels and
their land cover. Its type does not change when the image is cropped, flipped or scaled.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Streams = Callable[..., np.random.Generator]

COVERS = (
    'water',
    'forest',
    'grassland',
    'cropland',
    'bare soil',
    'wetland',
    'built-up',
    'road',
)
WATER, FOREST, GRASS, CROP, SOIL, WETLAND, BUILT, ROAD = range(len(COVERS))

_PHASES = np.exp(2j * np.pi * np.arange(256) / 256).astype(np.complex64)
# Spectral slope of each field, and wavelength of its strongest waves in pixels.
_FIELDS = {
    'terrain': (2.2, 60),
    'cloud': (1.9, 35),
    'smooth': (3.0, 40),
    'blobs': (1.9, 26),
    'lines': (3.5, 22),
    'lakes': (3.0, 14),
    'patches': (3.0, 9),
}


class Place(NamedTuple):
    """Ground of a scene, which is the same for all dates.

    Args:
        elevation: ground elevation in m, shape (H, W).
        slope: slope toward the south and toward the east, shape (2, H, W).
        cover: land cover as index into ``COVERS``, shape (H, W).
        parcel: parcel index, shape (H, W).
        parcels: number of parcels.
    """

    elevation: Floats
    slope: Floats
    cover: Ints
    parcel: Ints
    parcels: int


class Fields:
    r"""Generator of random fields with unit variance that filters waves of random phase.

    The amplitude at frequency :math:`f` (cycles per pixel) is proportional to
    :math:`f / f_0` up to :math:`f_0`, and to :math:`(f / f_0)^{-\beta}` above it.

    Args:
        size: height and width in pixels.

    Example:
        >>> fields = Fields(64)
        >>> fields.draw(np.random.default_rng(0), 'terrain', 'cloud').shape
        (2, 64, 64)
    """

    def __init__(self, size: int) -> None:
        """Initialize a new Fields instance."""
        self.size = size
        frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
        self.filters = {}
        for name, (slope, wavelength) in _FIELDS.items():
            ratio = np.where(frequency > 0, frequency * wavelength, np.inf)
            gain = np.where(ratio < 1, ratio, ratio**-slope)
            gain /= np.sqrt((gain**2).mean())
            self.filters[name] = gain.astype(np.float32)
        self.y, self.x = np.mgrid[:size, :size].astype(np.float32)

    def draw(self, rng: np.random.Generator, *names: str) -> Floats:
        """Draw one field per name.

        Args:
            rng: random number generator.
            names: types of the fields.

        Returns:
            Fields, shape (N, H, W).
        """
        shape = (len(names), *self.filters[names[0]].shape)
        phase = np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8)
        waves = np.take(_PHASES, phase, mode='clip').reshape(shape)
        for wave, name in zip(waves, names, strict=True):
            wave *= self.filters[name]
        out: Floats = np.fft.irfft2(waves, s=(self.size, self.size), norm='ortho')
        return out


class _Draw(NamedTuple):
    """Input of a landscape, with rotated and slightly distorted pixel coordinates."""

    rng: np.random.Generator
    fields: Fields
    u: Floats
    v: Floats
    scale: float


def make_place(kind: int, fields: Fields, streams: Streams) -> Place:
    """Generate the ground of a scene.

    Args:
        kind: index into ``LANDSCAPES``.
        fields: generator of random fields with the size of the scene.
        streams: function that returns the random number generator for a name.

    Returns:
        The ground.
    """
    rng = streams('ground')
    terrain, bend = fields.draw(rng, 'terrain', 'smooth')
    base, relief = np.float32(rng.uniform(50, 600)), np.float32(rng.uniform(2, 20))
    elevation = np.asarray(base + relief * terrain, dtype=np.float32)
    south, east = np.gradient(elevation, 10)
    slope = np.stack((south, east)).astype(np.float32)
    rng = streams('layout')
    angle = rng.uniform(0, np.pi)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    bend *= np.float32(1.5)
    u = c * fields.x + s * fields.y + bend
    v = c * fields.y - s * fields.x + bend
    landscape = list(LANDSCAPES.values())[kind]
    cover, parcel = landscape(_Draw(rng, fields, u, v, rng.uniform(0.8, 1.25)))
    return Place(elevation, slope, cover, parcel, int(parcel.max()) + 1)


def _cells(d: _Draw, width: float, height: float) -> tuple[Ints, Ints, Floats, Floats]:
    """Return the row and column of each pixel's grid cell and its position in the cell."""
    a, b = d.u / np.float32(width * d.scale), d.v / np.float32(height * d.scale)
    i, j = np.floor(a), np.floor(b)
    a -= i
    b -= j
    rows, columns = i.astype(np.int64), j.astype(np.int64)
    return rows - rows.min(), columns - columns.min(), a, b


def _number(i: Ints, j: Ints) -> Ints:
    """Convert rows and columns to unique cell indices."""
    return i * (int(j.max()) + 1) + j


def _voronoi(d: _Draw, width: float) -> tuple[Ints, Floats]:
    """Compute a Voronoi diagram with one random point per grid cell.

    The result is the nearest point of each pixel and the distance to the border in pixels.
    Only the points in the nine cells around a pixel are compared.
    """
    i, j, a, b = _cells(d, width, width)
    columns = int(j.max()) + 3
    seeds = d.rng.uniform(0.12, 0.88, (2, (int(i.max()) + 3) * columns))
    down, right = seeds.astype(np.float32)
    middle = (i + 1) * columns + j + 1
    best = np.full(a.shape, np.inf, np.float32)
    second, cell = best, middle
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            at = middle + (di * columns + dj)
            distance = (down[at] + np.float32(di) - a) ** 2
            distance += (right[at] + np.float32(dj) - b) ** 2
            cell = np.where(distance < best, at, cell)
            second = np.minimum(second, np.maximum(best, distance))
            best = np.minimum(best, distance)
    border = (np.sqrt(second) - np.sqrt(best)) * np.float32(width * d.scale / 2)
    return cell, border


def _colour(d: _Draw, cell: Ints, *covers: int) -> Ints:
    """Assign one of the land covers to each parcel at random."""
    table = np.array(covers)[d.rng.integers(len(covers), size=int(cell.max()) + 1)]
    out: Ints = table[cell]
    return out


def _parcels(d: _Draw) -> tuple[Ints, Ints]:
    cell, _ = _voronoi(d, 13)
    return _colour(d, cell, CROP, GRASS, SOIL), cell


def _strips(d: _Draw) -> tuple[Ints, Ints]:
    i, j, _, _ = _cells(d, 5.5, 60)
    cell = _number(i, j)
    odd = _colour(d, cell, CROP, CROP, GRASS)
    even = _colour(d, cell, SOIL, SOIL, GRASS)
    return np.where(i % 2 == 0, even, odd), cell


def _pivots(d: _Draw) -> tuple[Ints, Ints]:
    i, j, a, b = _cells(d, 14, 14)
    cell = _number(i, j)
    number = int(cell.max()) + 1
    radius = d.rng.uniform(0.38, 0.47, number) * (d.rng.random(number) < 0.9)
    disc = (a - 0.5) ** 2 + (b - 0.5) ** 2 < (radius**2)[cell]
    return np.where(disc, CROP, SOIL), np.where(disc, cell + 1, 0)


def _woodland(d: _Draw) -> tuple[Ints, Ints]:
    (field,) = d.fields.draw(d.rng, 'blobs')
    inside = field > d.rng.uniform(-0.6, 0.0)
    return np.where(inside, FOREST, GRASS), inside.astype(np.int64)


def _rivers(d: _Draw) -> tuple[Ints, Ints]:
    (field,) = d.fields.draw(d.rng, 'lines')
    inside = np.abs(field) < d.rng.uniform(0.25, 0.4)
    banks = (CROP, GRASS, WETLAND)[int(d.rng.integers(3))]
    return np.where(inside, WATER, banks), inside.astype(np.int64)


def _town(d: _Draw) -> tuple[Ints, Ints]:
    i, j, a, b = _cells(d, 13, 10)
    cell = _number(i, j)
    street = (a < 0.16) | (b < 0.2)
    blocks = _colour(d, cell, BUILT, BUILT, BUILT, GRASS)
    return np.where(street, ROAD, blocks), np.where(street, 0, cell + 1)


def _lakes(d: _Draw) -> tuple[Ints, Ints]:
    (field,) = d.fields.draw(d.rng, 'lakes')
    inside = field > d.rng.uniform(0.6, 0.9)
    return np.where(inside, WATER, FOREST), inside.astype(np.int64)


def _hedgerows(d: _Draw) -> tuple[Ints, Ints]:
    cell, border = _voronoi(d, 16)
    hedge = border < 1.4
    inside = _colour(d, cell, GRASS, GRASS, SOIL)
    return np.where(hedge, FOREST, inside), np.where(hedge, 0, cell + 1)


LANDSCAPES: dict[str, Callable[[_Draw], tuple[Ints, Ints]]] = {
    'parcels': _parcels,
    'strips': _strips,
    'pivots': _pivots,
    'woodland': _woodland,
    'rivers': _rivers,
    'town': _town,
    'lakes': _lakes,
    'hedgerows': _hedgerows,
}
