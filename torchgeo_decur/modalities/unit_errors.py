"""Detect a wrong unit, band order or scale from the values of a batch."""

from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from .band_names import normalize_band
from .sampled_values import Values

#: Topic of values outside the range of the statistics, which can be natural elsewhere.
SHIFTED = 'shifted'
# Usual nodata values.
_FILLS = (-32768.0, -32767.0, -9999.0, -99999.0)
_HIGH_FILLS = (32767.0, 65535.0)
# NetCDF, Esri and other formats use nodata values near the limits of float32.
_BEYOND = 1e20
# Offset in Sentinel-2 products since processing baseline 04.00, in digital numbers.
_OFFSET = 1000
_OFFSET_CURE = (
    'Sentinel-2 products since processing baseline 04.00 (January 2022) add 1000 to all '
    'digital numbers; set `offset: -1000`'
)


class Severity(IntEnum):
    """Certainty of a possible error."""

    #: A warning, because natural images can have such values.
    NOTE = 0
    #: A warning, and an error if several training batches agree.
    SUSPICION = 1
    #: An error, because it is almost certain.
    ERROR = 2


class Sign(NamedTuple):
    """Sign of a possible error in the values of a modality.

    Args:
        topic: kind of error, identical for all batches.
        severity: certainty of the error.
        message: expected values, found values and remedy.
    """

    topic: str
    severity: Severity
    message: str


def inspect(values: Values) -> list[Sign]:
    """Find signs of a wrong unit, band order, scale or nodata, most certain first."""
    # Many features of a network are zero for a whole batch.
    signs = [] if values.modality.kind == 'embedding' else list(_constant(values))
    if values.varying.any():
        for look in _LOOKS:
            signs += look(values)
        # A wrong unit also explains a wrong band order and scale.
        if not any(s.severity is Severity.ERROR for s in signs):
            signs += _order(values)
            signs += _ends(values)
    return sorted(signs, key=lambda sign: -sign.severity)


def _constant(values: Values) -> Iterator[Sign]:
    # A single image may have a constant band.
    if not values.varying.all() and (
        len(values.images) > 1 or not values.varying.any()
    ):
        names = values.names(~values.varying)
        yield Sign(
            'constant',
            Severity.NOTE,
            f'bands {names} are constant over the batch and carry no information; check '
            'the files, or remove these bands',
        )


def _fills(values: Values) -> Iterator[Sign]:
    """Detect undeclared nodata values."""
    digital = values.modality.unit == 'DN'
    for i, band in enumerate(values.modality.bands):
        found = values.images[:, i]
        for fill, end in ((values.low[i], -1), (values.high[i], 1)):
            value = float(fill)
            known = value in (_FILLS if end < 0 else _HIGH_FILLS)
            # Saturated pixels of optical sensors also have the value 65535.
            if not (abs(value) >= _BEYOND or (known and not (digital and end > 0))):
                continue
            rest = found[~found.isnan() & (found != value)]
            if not rest.numel():
                continue
            low, high = float(rest.min()), float(rest.max())
            gap = low - value if end < 0 else value - high
            if gap > (high - low) / 2 and gap > 0:
                share = float((found == value).double().mean())
                yield Sign(
                    'nodata',
                    Severity.ERROR,
                    f'expected measurements, found {value:g} in {share:.1%} of the '
                    f'pixels of band {band}, far outside the other values [{low:.4g}, '
                    f'{high:.4g}], as is typical of missing pixels; set `nodata: {value:g}`',
                )
                return


def _borders(values: Values) -> Iterator[Sign]:
    """Detect zeros at the borders of scenes, which are not measurements."""
    decibel = values.modality.unit == 'dB'
    share = float(values.border.double().mean())
    several = values.modality.channels > 1
    if (decibel and share >= 0.01) or (
        several and values.modality.unit == 'DN' and share >= 0.3
    ):
        brightest = ', a very high backscatter in dB' if decibel else ''
        yield Sign(
            'border',
            Severity.NOTE,
            f'{share:.0%} of the pixels are exactly 0 in all bands{brightest}, as is '
            'typical of scene borders; if these pixels are missing, set `nodata: 0`',
        )


def _decibel(values: Values) -> Iterator[Sign]:
    if values.modality.unit != 'dB':
        return
    (low, high), median = values.span, values.median
    start = 'expected backscatter in dB (mostly between -30 and 5), found '
    spread = f'values in [{low:.4g}, {high:.4g}], '
    if median > 60_000:
        yield Sign(
            'unit',
            Severity.ERROR,
            f'{start}{spread}as in negative numbers stored as uint16; rewrite the files '
            'as float32 or int16',
        )
    elif median > 40:
        yield Sign(
            'unit',
            Severity.ERROR,
            f'{start}{spread}as in amplitudes or digital numbers of an uncalibrated '
            'product; calibrate the product, and convert power with 10 * log10(x)',
        )
    elif low >= 0:
        yield Sign(
            'unit',
            Severity.ERROR if 0 < median <= 1.5 else Severity.SUSPICION,
            f'{start}only {spread}as in linear power; convert with 10 * log10(x)',
        )
    elif median < -60:
        factor = 100 if median < -300 else 10
        yield Sign(
            'unit',
            Severity.ERROR,
            f'{start}{spread}with a median of {median:.4g}, as in integers that store dB '
            f'times {factor}; set `scale: {1 / factor:g}`',
        )
    else:
        below = (values.bands < -36).double().sum(1)
        below = below / (~values.bands.isnan()).sum(1).clamp(min=1)
        if (below >= 0.3).any():
            yield Sign(
                'unit',
                Severity.NOTE,
                f'{below.max():.0%} of the pixels of band '
                f'{values.modality.bands[int(below.argmax())]} are below -36 dB, the '
                'noise floor of the sensors; if values are 20 * log10 of power, set '
                '`scale: 0.5`, or the option nodata if they are logarithms of zeros',
            )


def _digital(values: Values) -> Iterator[Sign]:
    if values.modality.unit != 'DN':
        return
    low, high = values.span
    start = 'expected digital numbers (reflectance times 10,000), found '
    spread = f'values in [{low:.4g}, {high:.4g}], '
    known = values.bands[~values.bands.isnan()]
    negative = float((known < 0).double().mean()) if known.numel() else 0.0
    full = int((values.high == 255).sum())
    if high <= 2 and values.fractional:
        yield Sign(
            'unit',
            Severity.ERROR,
            f'{start}{spread}as in reflectance or scaled data; use raw digital numbers, '
            'which the datamodule scales, or set `scale: 10000`',
        )
    elif low < -1100 or (negative > 0.25 and high <= 50 and values.fractional):
        yield Sign(
            'unit',
            Severity.ERROR,
            f'{start}{spread}as in standardized data; use raw digital numbers',
        )
    elif high <= 255 and low >= 0 and values.modality.channels > 3:
        if full >= 3 or values.median >= 64:
            yield Sign(
                'unit',
                Severity.ERROR if full >= 3 else Severity.SUSPICION,
                f'{start}{spread}as in 8-bit data; use raw digital numbers',
            )
    elif negative > 0.25:
        yield Sign(
            'unit',
            Severity.SUSPICION,
            f'{start}{negative:.0%} negative values; check whether an offset was '
            'subtracted twice',
        )
    yield from _offset(values)


def _offset(values: Values) -> Iterator[Sign]:
    """Detect the Sentinel-2 offset in bands that are dark in every scene."""
    names = [normalize_band(b) for b in values.modality.bands]
    if 'b10' in names:
        # The atmosphere absorbs light at 1375 nm: values are below 100 except in clouds.
        cirrus = values.images[:, names.index('b10')]
        cirrus = cirrus.masked_fill(cirrus == 0, torch.nan)
        low = cirrus.nanquantile(0.05, dim=1)
        middle = cirrus.nanmedian(1).values
        # High clouds reflect some light, but unevenly.
        even = cirrus.nanquantile(0.95, dim=1) - low < 250
        cloud = torch.zeros_like(even)
        for band in {'b2', 'b3', 'b4'} & set(names):
            bright = values.images[:, names.index(band)].nanmedian(1).values >= 6000
            cloud = cloud | (bright & ~even)
        looked_at = ~middle.isnan() & ~cloud
        shifted = (low >= _OFFSET - 50) & (middle <= 1.5 * _OFFSET) & looked_at
        known = int(looked_at.sum())
        count = int(shifted.sum())
        if count and count >= known / 10:
            every = count == known
            found = (
                f'expected digital numbers near 0 in band B10, found {_OFFSET} or more'
            )
            yield Sign(
                'offset',
                Severity.ERROR if every else Severity.NOTE,
                f'{found} in every image; {_OFFSET_CURE}'
                if every
                else f'{found} in {count} of {known} images; {_OFFSET_CURE} if this applies '
                'to all images, or subtract 1000 in the affected files',
            )
    elif {'b11', 'b12'} & set(names) and {'b1', 'b2', 'b3', 'b4'} & set(names):
        positive = values.bands[values.bands > 0]
        floor, dark = (_lowest(positive, share) for share in (0.001, 0.1))
        # Water, shadow and forest are just above the offset; bright deserts are far above.
        if 0.99 * _OFFSET <= floor <= 1.3 * _OFFSET and dark <= 1.5 * _OFFSET:
            yield Sign(
                'offset',
                Severity.NOTE,
                f'no pixel is darker than {floor:.0f} in any band, even in water, shadow '
                f'or forest; {_OFFSET_CURE}',
            )


def _lowest(x: Tensor, share: float) -> float:
    """Return a quantile of the values, or 0 if there are none."""
    place = int(share * x.numel()) + 1
    return float(x.kthvalue(place).values) if x.numel() else 0.0


def _byte(values: Values) -> Iterator[Sign]:
    if values.modality.unit != 'uint8':
        return
    low, high = float(values.low.min()), float(values.high.max())
    if low < 0 or high > 255 or (high <= 1 and values.fractional):
        yield Sign(
            'unit',
            Severity.ERROR,
            f'expected values from 0 to 255, found values in [{low:.3g}, {high:.3g}]; use '
            'raw bytes, which the datamodule scales',
        )


def _order(values: Values) -> Iterator[Sign]:
    """Check that co-polarized backscatter is stronger than cross-polarized backscatter."""
    names = [normalize_band(b) for b in values.modality.bands]
    for co, cross in (('vv', 'vh'), ('hh', 'hv')):
        if names.count(co) != 1 or names.count(cross) != 1:
            continue
        pair = [names.index(co), names.index(cross)]
        if not values.varying[pair].all():
            continue
        first, second = values.bands[pair].nanmean(1).tolist()
        if values.modality.unit == 'dB' or values.span[0] < 0:
            difference = first - second
        else:
            ratio = torch.tensor(first / second if second else 1.0)
            difference = float(10 * ratio.clamp(min=1e-9).log10())
        # Over calm water, both contain only noise of similar strength.
        if difference < -1.5:
            a, b = (values.modality.bands[i] for i in pair)
            yield Sign(
                'order',
                Severity.ERROR if difference < -3 else Severity.SUSPICION,
                f'expected {a} brighter than {b} (bands '
                f'{list(values.modality.bands)}), found mean {a} {first:.4g} < {b} '
                f'{second:.4g}, as in swapped bands; list the bands in the order of the '
                'files, or use SelectBands',
            )


def _ends(values: Values) -> Iterator[Sign]:
    """Detect bands in which scaling clips many values to 0 or 1."""
    modality = values.modality
    plain = modality.unit == 'uint8' and modality.mean is None
    if modality.limits is None or plain:
        return
    low, high = (torch.tensor(v, dtype=torch.float64) for v in modality.limits)
    known = (~values.bands.isnan()).sum(1).clamp(min=1)
    below = (values.bands <= low[:, None]).sum(1) / known
    above = (values.bands >= high[:, None]).sum(1) / known
    middle = values.medians
    distance = torch.maximum(low - middle, middle - high) / (high - low)
    inside = torch.zeros_like(middle, dtype=torch.bool)
    if natural := _NATURAL.get(modality.unit):
        inside = (middle >= natural[0]) & (middle <= natural[1])
    # Snow can exceed the statistics of farmland by several times their range, not by 50.
    most = 5.0 if natural else 50.0
    far = distance > torch.where(inside, 50.0, most)
    nearly = torch.maximum(below, above) >= 0.95
    b10 = torch.tensor([normalize_band(b) == 'b10' for b in modality.bands])
    dark = b10 & (below >= 0.95) & (low > _OFFSET / 2)
    cure = (
        'compare mean and std with the values in the files; if the files have another '
        'unit, set the option scale, offset or nodata'
    )
    if dark.any():
        cure = (
            f'the statistics include the offset of {_OFFSET} from processing baseline '
            f'04.00, which these images do not have; {cure}'
        )
    if dark.any() or (nearly & ~inside).all() or (nearly & far).all():
        chosen = dark if dark.any() else nearly
        certain = bool(dark.any() or far.all())
        yield Sign(
            'ends' if certain else SHIFTED,
            Severity.ERROR if certain else Severity.SUSPICION,
            f'expected values that mean and std scale to [0, 1], found bands '
            f'{values.names(chosen)} with nearly all values clipped to 0 or 1 (medians '
            f'{[float(f"{v:.4g}") for v in middle[chosen].tolist()]}); {cure}',
        )
        return
    clipped = (torch.maximum(below, above) >= 0.3) & ~inside
    if clipped.any():
        shares = torch.maximum(below, above)[clipped]
        names = values.names(clipped)
        yield Sign(
            SHIFTED,
            Severity.NOTE,
            f'scaling clips many values of bands {names} to 0 or 1, up to '
            f'{shares.max():.0%} in {names[int(shares.argmax())]}; {cure}',
        )


# Plausible range of medians, including water, snow, desert, cities and mountains.
_NATURAL: Mapping[str, tuple[float, float]] = {
    'dB': (-36, 15),
    'DN': (0, 16_000),
    'm': (-12_000, 9000),
}
_LOOKS: tuple[Callable[[Values], Iterator[Sign]], ...] = (
    _fills,
    _borders,
    _decibel,
    _digital,
    _byte,
)
