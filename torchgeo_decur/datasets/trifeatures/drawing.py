"""Draw a shape with a color and a texture on a gray background."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.floating]
type Bools = NDArray[np.bool_]
type Bytes = NDArray[np.uint8]

COLOURS: dict[str, tuple[int, int, int]] = {
    'red': (225, 25, 30),
    'orange': (250, 130, 10),
    'yellow': (245, 230, 20),
    'green': (30, 170, 45),
    'cyan': (20, 215, 225),
    'blue': (30, 60, 225),
    'purple': (115, 20, 165),
    'magenta': (240, 40, 215),
    'pink': (255, 165, 195),
    'white': (255, 255, 255),
}
"""Red, green and blue values of each color."""

# In the paper, the canvas is 224 pixels wide and the shape 128 pixels.
_SHARE = 128 / 224
_GREY = 127.5
# Samples per pixel and axis for antialiasing, and brightness of the dark texture tone.
_RAYS, _DARK = 3, np.float32(0.2)
# Period of a texture, in half widths of a shape.
_PERIOD = 0.35


def _regular(corners: int) -> list[tuple[float, float]]:
    angles = 2 * np.pi * np.arange(corners) / corners
    return list(zip(np.sin(angles).tolist(), (-np.cos(angles)).tolist(), strict=True))


def _star() -> list[tuple[float, float]]:
    outer = _regular(10)
    return [
        (x, y) if i % 2 == 0 else (0.48 * x, 0.48 * y) for i, (x, y) in enumerate(outer)
    ]


# Corners (x, y) from -1 to 1, with y pointing down.
_POLYGONS: dict[str, list[tuple[float, float]]] = {
    'triangle': [(0, -1), (1, 0.8), (-1, 0.8)],
    'square': [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    'rhombus': [(0, -1), (0.6, 0), (0, 1), (-0.6, 0)],
    'trapezoid': [(-0.4, -0.6), (0.4, -0.6), (1, 0.6), (-1, 0.6)],
    'pentagon': _regular(5),
    'star': _star(),
    'plus': [
        *((-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33)),
        *(
            (0.33, 1),
            (-0.33, 1),
            (-0.33, 0.33),
            (-1, 0.33),
            (-1, -0.33),
            (-0.33, -0.33),
        ),
    ],
    'tee': [
        *((-1, -1), (1, -1), (1, -0.4), (0.3, -0.4)),
        *((0.3, 1), (-0.3, 1), (-0.3, -0.4), (-1, -0.4)),
    ],
}
_ROUND: dict[str, Callable[[Floats], Bools]] = {
    'circle': lambda radius: radius < 0.95,
    'ring': lambda radius: (radius < 1) & (radius > 0.5),
}

SHAPES: tuple[str, ...] = (*_ROUND, *_POLYGONS)
"""Shape names. No shape is a rotated or mirrored version of another."""


def _phase(x: Floats, period: float = _PERIOD) -> Floats:
    """Return the position within a period, in [0, 1)."""
    turns = x / np.float32(period)
    passed: Floats = turns - np.floor(turns)
    return passed


def _dots(u: Floats, v: Floats, bits: Bools) -> Bools:
    # Shift every other row by half a period.
    odd = np.floor(v / _PERIOD) % 2
    x, y = _phase(u + odd * np.float32(_PERIOD / 2)), _phase(v)
    return (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.35**2


def _checkers(u: Floats, v: Floats, bits: Bools) -> Bools:
    return (_phase(u, 2 * _PERIOD) < 0.5) ^ (_phase(v, 2 * _PERIOD) < 0.5)


def _zigzags(u: Floats, v: Floats, bits: Bools) -> Bools:
    slope = np.abs(_phase(u, 2 * _PERIOD) - 0.5) * np.float32(2 * _PERIOD)
    return _phase(v + slope) < 0.5


def _dashes(u: Floats, v: Floats, bits: Bools) -> Bools:
    odd = np.floor(u / _PERIOD) % 2
    along = _phase(v + odd * np.float32(_PERIOD), 2 * _PERIOD)
    return (_phase(u) < 0.5) & (along < 0.55)


def _noise(u: Floats, v: Floats, bits: Bools) -> Bools:
    rows, columns = (
        np.clip((x + 1.5) / 3 * len(bits), 0, len(bits) - 1).astype(np.intp)
        for x in (v, u)
    )
    return bits[rows, columns]


_TEXTURES: dict[str, Callable[[Floats, Floats, Bools], Bools]] = {
    'solid': lambda u, v, bits: np.ones_like(u, dtype=np.bool_),
    'stripes': lambda u, v, bits: _phase(v) < 0.5,
    'grid': lambda u, v, bits: (_phase(u) < 0.35) | (_phase(v) < 0.35),
    'checkers': _checkers,
    'dots': _dots,
    'zigzags': _zigzags,
    'dashes': _dashes,
    'rings': lambda u, v, bits: _phase(np.hypot(u, v)) < 0.5,
    'rays': lambda u, v, bits: _phase(np.arctan2(v, u), np.pi / 6) < 0.5,
    'noise': _noise,
}

TEXTURES: tuple[str, ...] = tuple(_TEXTURES)
"""Texture names. A texture is a pattern of a color and a darker tone of it."""


def draw(
    shape: str, colour: str, texture: str, size: int, rng: np.random.Generator
) -> Bytes:
    """Draw a shape at a random position and angle on a gray background.

    The shape has a width of 128 / 224 of the canvas and lies completely inside it. Shape
    and texture are rotated together by up to 45 degrees.

    Args:
        shape: one of :data:`SHAPES`.
        colour: one of :data:`COLOURS`.
        texture: one of :data:`TEXTURES`.
        size: height and width of the canvas in pixels.
        rng: random number generator for the angle, position and noise texture.

    Returns:
        Image with red, green and blue from 0 to 255, shape (3, ``size``, ``size``).

    Example:
        >>> image = draw('star', 'red', 'dots', 32, np.random.default_rng(0))
        >>> image.shape, image[:, 0, 0].tolist()
        ((3, 32, 32), [128, 128, 128])
    """
    angle = rng.uniform(-np.pi / 4, np.pi / 4)
    place = rng.uniform(size=2)
    # Random cells of half a period, on a square that contains the shape at any angle.
    cells = rng.integers(2, size=(round(3 / (_PERIOD / 2)),) * 2).astype(np.bool_)
    half = size * _SHARE / 2
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    reach = half * float(np.abs(cos) + np.abs(sin))
    x0, y0 = reach + place * (size - 2 * reach)
    # Compute only the square around the shape; the rest is gray.
    rows, columns = _around(y0, reach, size), _around(x0, reach, size)
    dy = (_rays(rows) - np.float32(y0))[:, None] / np.float32(half)
    dx = (_rays(columns) - np.float32(x0))[None, :] / np.float32(half)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    mask = np.where(_inside(shape, u, v), np.float32(1), np.float32(0))
    tone = np.where(_TEXTURES[texture](u, v, cells), np.float32(1), _DARK)
    cover, light = _average(mask), _average(mask * tone)
    painted = np.array(COLOURS[colour], np.float32)[:, None, None]
    image = np.full((3, size, size), np.rint(_GREY), np.uint8)
    box = (slice(None), slice(*rows), slice(*columns))
    image[box] = np.rint((1 - cover) * np.float32(_GREY) + light * painted)
    return image


def _inside(shape: str, u: Floats, v: Floats) -> Bools:
    """Return a mask of the points inside a shape by counting the edges above each."""
    if shape in _ROUND:
        return _ROUND[shape](np.hypot(u, v))
    corners = np.array(_POLYGONS[shape], np.float32)
    odd = np.zeros(u.shape, np.bool_)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if x1 != x2:
            between = (u < x1) != (u < x2)
            odd ^= between & (v > y1 + (u - x1) * ((y2 - y1) / (x2 - x1)))
    return odd


def _around(centre: float, reach: float, size: int) -> tuple[int, int]:
    first, last = int(np.floor(centre - reach)), int(np.ceil(centre + reach))
    return max(first, 0), min(last, size)


def _rays(pixels: tuple[int, int]) -> Floats:
    """Return the sample coordinates for a range of pixels."""
    first, last = pixels
    number = _RAYS * (last - first)
    return first + (np.arange(number, dtype=np.float32) + np.float32(0.5)) / _RAYS


def _average(x: Floats) -> Floats:
    """Compute the mean over the samples of each pixel."""
    height, width = (n // _RAYS for n in x.shape)
    mean: Floats = x.reshape(height, _RAYS, width, _RAYS).mean(axis=(1, 3))
    return mean
