"""Simulate sensors that observe a synthetic ground: backscatter, reflectance and height.

Every function has its own random streams, such as ``_state`` for the unique factor of a
sensor and ``_date`` for changes between dates. A change of one factor therefore does not
affect the pixels of other sensors.

``common`` and ``unique`` scale the contrast of the common factor and of a sensor's unique
factor.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .landscapes import COVERS, CROP, SOIL, Fields, Floats, Place, Streams

RADAR_STATES = tuple(
    f'{texture} in {band}'
    for texture in ('rows', 'moist patches', 'scatterers')
    for band in ('VV', 'VH')
)
# Groups of Sentinel-2 bands that a vegetation state brightens or darkens.
_GROUPS = {
    'visible': (1, 2, 3),
    'red edge': (4, 5),
    'near infrared': (6, 7, 8, 9),
    'short-wave infrared': (11, 12),
}
_STATES = (
    ('visible', 'red edge'),
    ('near infrared', 'visible'),
    ('visible', 'short-wave infrared'),
    ('red edge', 'near infrared'),
    ('short-wave infrared', 'red edge'),
    ('near infrared', 'short-wave infrared'),
)
OPTICAL_STATES = tuple(f'{up} up, {down} down' for up, down in _STATES)

# The following tables have the order of COVERS. Mean backscatter in dB: VV, VH.
_BACKSCATTER = np.array(
    [
        (-19.5, -27.5),
        (-8.5, -14.5),
        (-13.5, -21.0),
        (-9.0, -16.0),
        (-18.0, -26.0),
        (-11.0, -19.0),
        (-5.0, -12.5),
        (-16.5, -24.5),
    ]
)
# Top-of-atmosphere reflectance in digital numbers: B1 to B8, B8A, B9 to B12.
_SPECTRA = np.array(
    [
        (1250, 950, 750, 500, 450, 400, 380, 330, 300, 150, 12, 180, 110),
        (1300, 1000, 850, 600, 950, 2000, 2500, 2450, 2700, 850, 15, 1400, 650),
        (1400, 1150, 1150, 950, 1500, 2300, 2600, 2550, 2800, 900, 18, 2400, 1300),
        (1400, 1150, 1200, 850, 1500, 2900, 3500, 3400, 3750, 1100, 20, 2200, 1150),
        (1700, 1650, 1850, 2300, 2500, 2600, 2750, 2700, 2900, 900, 22, 3600, 3000),
        (1350, 1050, 950, 850, 1100, 1600, 1850, 1750, 1950, 650, 16, 1300, 700),
        (2000, 2000, 2100, 2300, 2400, 2500, 2600, 2550, 2700, 850, 25, 2700, 2400),
        (1750, 1600, 1550, 1600, 1650, 1700, 1750, 1700, 1800, 650, 20, 1900, 1700),
    ],
    dtype=np.float64,
)
BANDS = _SPECTRA.shape[1]
# Spectra of haze and clouds.
_HAZE = np.array(
    (900, 800, 620, 460, 400, 320, 280, 250, 220, 120, 6, 80, 50), np.float32
)
_CLOUD = np.array(
    (4900, 4800, 4700, 4900, 5000, 5100, 5200, 5100, 5300, 2400, 130, 3400, 2500),
    np.float32,
)
# Relative change of green covers in midsummer; the opposite applies in midwinter.
_SUMMER = np.array((0, -0.05, 0, -0.25, -0.1, 0.2, 0.3, 0.3, 0.3, 0.2, 0, -0.1, -0.25))
_GREEN = np.array((0, 1, 1, 1, 0, 1, 0, 0))
# Strength of the unique radar factor and of the unique optical factor on each cover.
_ROUGHNESS = np.array((0.7, 0.8, 1, 1, 1, 1, 0.7, 0.8))
_VEGETATION = np.array((0.3, 1, 1, 1, 1, 1, 0.6, 0.3))
# Height above the ground in m.
_HEIGHT = np.array((0, 18, 0.2, 1, 0, 0.8, 9, 0))
# Atmospheric path radiance in blue, green and red, which aerial images do not contain.
_SKY = np.array((650, 450, 300), np.float32)


def _contrast(table: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """Scale the contrast between land covers. With strength 0, all values are equal."""
    middle = table[CROP : SOIL + 1].mean(0)
    return np.asarray(middle + strength * (table - middle))


def _paint(table: NDArray[np.float64], place: Place) -> Floats:
    """Look up the values of each pixel by its land cover, shape (C, H, W)."""
    bands = np.ascontiguousarray(table.T, dtype=np.float32)
    # np.take keeps bands first in memory, unlike indexing, which speeds up later steps.
    out: Floats = np.take(bands, place.cover, axis=1, mode='clip')
    return out


def sentinel1(
    place: Place,
    fields: Fields,
    streams: Streams,
    state: int,
    date: int = 0,
    common: float = 1.0,
    unique: float = 1.0,
) -> Floats:
    """Simulate radar backscatter for one date.

    The backscatter depends on land cover, parcel, slope toward the radar, the unique
    texture in one polarization, a random offset of the date, and gamma speckle.

    Args:
        place: terrain, land cover and parcels of the scene.
        fields: generator of random fields with the size of the scene.
        streams: function that returns the random number generator for a name and date.
        state: index into ``RADAR_STATES``.
        date: index of the date.
        common: contrast between land covers.
        unique: contrast of the unique texture.

    Returns:
        VV and VH in dB, shape (2, H, W).
    """
    stable, rng = streams('s1'), streams('s1_date', date)
    table = _BACKSCATTER + stable.normal(0, 0.8, (len(COVERS), 1))
    table = _contrast(table + rng.normal(0, 0.5, table.shape), common)
    table += rng.normal(0, 3.2) + rng.normal(0, 0.6, 2)
    image = _paint(table, place)
    jitter = stable.normal(0, 0.7 * common, place.parcels).astype(np.float32)
    tilt = np.float32(rng.choice((-4.0, 4.0)))
    image += jitter[place.parcel] + np.clip(tilt * place.slope[1], -4, 4)
    texture = _TEXTURES[state // 2](fields, streams('s1_state', date))
    weight = unique * _contrast(_ROUGHNESS, min(common, 1.0))
    image[state % 2] += texture * weight.astype(np.float32)[place.cover]
    looks = np.float32(rng.uniform(5, 10))
    speckle = rng.standard_gamma(looks, image.shape, dtype=np.float32)
    np.maximum(speckle, 1e-2, out=speckle)
    np.log10(speckle, out=speckle)
    speckle -= np.log10(looks)
    speckle *= 10
    image += speckle
    return image


def sentinel2(
    place: Place,
    fields: Fields,
    streams: Streams,
    state: int,
    grain: Floats,
    season: float = 0.0,
    date: int = 0,
    common: float = 1.0,
    unique: float = 1.0,
) -> Floats:
    """Simulate top-of-atmosphere reflectance for one date.

    Args:
        place: terrain, land cover and parcels of the scene.
        fields: generator of random fields with the size of the scene.
        streams: function that returns the random number generator for a name and date.
        state: index into ``OPTICAL_STATES``.
        grain: sensor noise as a flat array longer than the image. Each image uses a
            section at a random offset.
        season: time since the first date in years, in [0, 1).
        date: index of the date.
        common: contrast between land covers.
        unique: contrast of the vegetation state.

    Returns:
        Digital numbers of 13 bands, rounded to integers, shape (13, H, W).
    """
    rng = streams('s2_date', date)
    image = _reflectance(
        place, fields, streams, rng, state, season, date, common, unique
    )
    haze, cloud = fields.draw(rng, 'smooth', 'cloud')
    haze = np.maximum(np.float32(rng.uniform(0, 0.9)) + np.float32(0.2) * haze, 0)
    image += _HAZE[:, None, None] * haze
    share = rng.uniform(-1.2, 0.3)
    if share > 0:
        alpha = np.clip((cloud - np.float32(1.4 - 2.5 * share)) * 2, 0, 1)
        shadow = np.roll(alpha, tuple(rng.integers(3, 8, 2)), (0, 1))
        image *= 1 - np.float32(0.5) * shadow
        image += alpha * (_CLOUD[:, None, None] - image)
    start = int(rng.integers(len(grain) - image.size))
    image += grain[start : start + image.size].reshape(image.shape)
    np.rint(image, out=image)
    np.clip(image, 1, 16000, out=image)
    return image


def aerial(
    place: Place,
    fields: Fields,
    streams: Streams,
    state: int,
    season: float = 0.0,
    date: int = 0,
    common: float = 1.0,
    unique: float = 1.0,
) -> Floats:
    """Simulate a color image from below the clouds for one date.

    Args:
        place: terrain, land cover and parcels of the scene.
        fields: generator of random fields with the size of the scene.
        streams: function that returns the random number generator for a name and date.
        state: index into ``OPTICAL_STATES``.
        season: time since the first date in years, in [0, 1).
        date: index of the date.
        common: contrast between land covers.
        unique: contrast of the vegetation state.

    Returns:
        Red, green and blue as integers from 0 to 255, shape (3, H, W).
    """
    rng = streams('rgb_date', date)
    image = _reflectance(
        place, fields, streams, rng, state, season, date, common, unique
    )[1:4]
    image = (image - _SKY[:, None, None])[::-1] / np.float32(8)
    image += 4 * rng.standard_normal(image.shape, dtype=np.float32)
    out: Floats = np.clip(np.rint(image), 0, 255)
    return np.ascontiguousarray(out)


def surface_model(place: Place, streams: Streams, common: float = 1.0) -> Floats:
    """Simulate a surface model that includes trees and buildings.

    Args:
        place: terrain, land cover and parcels of the scene.
        streams: function that returns the random number generator for a name.
        common: contrast between land covers.

    Returns:
        Height in m, shape (1, H, W).
    """
    rng = streams('dem')
    height = (_HEIGHT * common * rng.uniform(0.6, 1.4)).astype(np.float32)[place.cover]
    rough = rng.standard_normal(height.shape, dtype=np.float32)
    jitter = rng.normal(1, 0.15, place.parcels).astype(np.float32)[place.parcel]
    out: Floats = place.elevation + height * (jitter + np.float32(0.15) * rough)
    out += np.float32(0.1) * rough
    return out[None]


def _reflectance(
    place: Place,
    fields: Fields,
    streams: Streams,
    rng: np.random.Generator,
    state: int,
    season: float,
    date: int,
    common: float,
    unique: float,
) -> Floats:
    """Compute the reflectance without haze, clouds and noise, shape (13, H, W)."""
    stable = streams('s2')
    change = stable.normal(0, 0.08, (len(COVERS), 1))
    change = change + stable.normal(0, 0.1, change.shape) * np.linspace(-1, 1, BANDS)
    summer = np.sin(2 * np.pi * (stable.random() + season))
    jitter = stable.normal(1, 0.06 * common, place.parcels)
    change += rng.normal(0, 0.05, (len(COVERS), 1))
    change += rng.normal(0, 0.04, change.shape)
    table = _SPECTRA * np.exp(change) * (1 + summer * _GREEN[:, None] * _SUMMER)
    image = _paint(_contrast(table, common), place)
    (stress,) = fields.draw(streams('s2_state', date), 'patches')
    stress = np.clip(np.float32(1.5) * stress + np.float32(0.2), 0, 1)
    weight = 0.3 * unique * _contrast(_VEGETATION, min(common, 1.0))
    stress *= weight.astype(np.float32)[place.cover]
    for name, sign in zip(_STATES[state], (1, -1), strict=True):
        for band in _GROUPS[name]:
            image[band] *= 1 + sign * stress
    height, azimuth = rng.uniform(0.6, 1.1), rng.uniform(0, 2 * np.pi)
    shade = np.float32(np.cos(azimuth) / np.tan(height)) * place.slope[0]
    shade += np.float32(np.sin(azimuth) / np.tan(height)) * place.slope[1]
    light = (rng.uniform(0.65, 1.3) * jitter).astype(np.float32)[place.parcel]
    image *= np.clip(1 + shade, 0.5, 1.5) * light
    return image


def _rows(fields: Fields, rng: np.random.Generator) -> Floats:
    """Draw tillage rows."""
    angle, phase, period = rng.uniform((0, 0, 5), (np.pi, 2 * np.pi, 7))
    wave = 2 * np.pi / period
    across = np.float32(wave * np.cos(angle)) * fields.x
    across += np.float32(wave * np.sin(angle)) * fields.y
    out: Floats = np.float32(2.0) * np.sin(across + np.float32(phase))
    return out


def _patches(fields: Fields, rng: np.random.Generator) -> Floats:
    """Draw wet and dry patches."""
    out: Floats = np.float32(1.3) * fields.draw(rng, 'patches')[0]
    return out


def _scatterers(fields: Fields, rng: np.random.Generator) -> Floats:
    """Draw sparse strong scatterers."""
    shape = (fields.size, fields.size)
    out: Floats = (rng.random(shape, dtype=np.float32) < 0.025).astype(np.float32) * 6
    out[1:] += np.float32(0.6) * out[:-1]
    out[:, 1:] += np.float32(0.6) * out[:, :-1]
    return out


_TEXTURES: tuple[Callable[[Fields, np.random.Generator], Floats], ...] = (
    _rows,
    _patches,
    _scatterers,
)
