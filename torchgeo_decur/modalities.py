"""What a modality is, and the only code that knows batch keys and physical units.

A *modality* is one sensor's image of a place: its bands by name, the unit of its
values and the statistics that map them to the unit interval. In a batch it lives
under the key ``image_<modality>``, shape ``(B, C, H, W)``, or ``(B, T, C, H, W)``
when the dataset delivers T dates.

Notation: B batch, T dates, C channels, H height, W width.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

Kind = Literal['sar', 'multispectral', 'rgb', 'elevation', 'depth']


@dataclass(frozen=True)
class Modality:
    """One sensor's bands, their unit and their statistics.

    Args:
        bands: name of each band, in the order of the channels.
        kind: 'sar', 'multispectral', 'rgb', 'elevation' or 'depth'.
        unit: unit of the values: 'dB' (backscatter), 'DN' (reflectance times
            10,000), 'uint8' (0 to 255), 'm', or any other name.
        mean: mean of each band in ``unit``, or None.
        std: standard deviation of each band in ``unit``, or None.
        nodata: value that marks a missing pixel, or None. NaN is a valid choice.

    Raises:
        ValueError: if ``bands`` is empty or repeats a name, ``kind`` is unknown, or
            ``mean`` and ``std`` do not have one positive-``std`` entry per band.

    Example:
        >>> Modality(bands=('VV', 'VH'), kind='sar', unit='dB').channels
        2
        >>> Modality.of({'bands': ['height'], 'kind': 'elevation', 'unit': 'm'}).bands
        ('height',)
    """

    bands: tuple[str, ...]
    kind: Kind
    unit: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    nodata: float | None = None

    def __post_init__(self) -> None:
        """Check the record: a wrong one would fail far from here."""
        bands: Any = self.bands
        if isinstance(bands, str) or not bands or len(set(bands)) != len(bands):
            raise ValueError(
                f'bands must be one or more different names, got {bands!r}'
            )
        if self.kind not in get_args(Kind):
            raise ValueError(f'kind must be one of {get_args(Kind)}, got {self.kind!r}')
        if (self.mean is None) != (self.std is None):
            raise ValueError('mean and std must be given together, got only one')
        for name, values in (('mean', self.mean), ('std', self.std)):
            if values is not None and len(values) != self.channels:
                raise ValueError(
                    f'{name} must have one value for each of the {self.channels} bands '
                    f'{list(self.bands)}, got {len(values)}'
                )
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f'std must be positive, got {list(self.std)}')

    @property
    def channels(self) -> int:
        """Number of bands."""
        return len(self.bands)

    @property
    def limits(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Lower and upper value of each band that map to 0 and 1.

        Mean - 2 std and mean + 2 std where statistics are known, 0 and 255 for
        ``uint8``, and None where each patch has its own limits.
        """
        if self.mean is not None and self.std is not None:
            pairs = list(zip(self.mean, self.std, strict=True))
            return tuple(m - 2 * s for m, s in pairs), tuple(
                m + 2 * s for m, s in pairs
            )
        if self.unit == 'uint8':
            return (0.0,) * self.channels, (255.0,) * self.channels
        return None

    @classmethod
    def of(cls, value: 'Modality | str | Mapping[str, Any]') -> Self:
        """Make a modality of a known name, of a plain dictionary, or of a modality.

        Args:
            value: a :class:`Modality`, the name of a known one, or a dictionary of
                its fields as a YAML file holds it.

        Returns:
            The modality.

        Raises:
            ValueError: if the name or a field is unknown, or ``bands``, ``kind`` or
                ``unit`` is missing.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            if value not in MODALITIES:
                raise ValueError(
                    f'modality must be one of {sorted(MODALITIES)} or a dictionary '
                    f'with bands, kind and unit, got {value!r}'
                )
            value = MODALITIES[value]
            return cls(**{f.name: getattr(value, f.name) for f in fields(value)})
        if not isinstance(value, Mapping):
            raise ValueError(
                f'modality must be a name or a dictionary, got {type(value).__name__}'
            )
        names = [f.name for f in fields(cls)]
        unknown = sorted(set(value) - set(names))
        missing = [n for n in ('bands', 'kind', 'unit') if n not in value]
        if unknown or missing:
            raise ValueError(
                f'modality must be a dictionary with bands, kind and unit (and mean, std, '
                f'nodata), got unknown {unknown}, missing {missing}'
            )
        lists = {
            k: tuple(v)
            for k, v in value.items()
            if isinstance(v, Sequence | Tensor) and not isinstance(v, str)
        }
        return cls(**{**value, **lists})


MODALITIES: dict[str, Modality] = {
    'sentinel1_grd': Modality(
        bands=('VV', 'VH'),
        kind='sar',
        unit='dB',
        mean=(-12.59, -20.26),
        std=(5.26, 5.91),
    ),
    'sentinel2_l1c': Modality(
        bands=(
            'B1',
            'B2',
            'B3',
            'B4',
            'B5',
            'B6',
            'B7',
            'B8',
            'B8A',
            'B9',
            'B10',
            'B11',
            'B12',
        ),
        kind='multispectral',
        unit='DN',
        mean=(
            1612.9,
            1397.6,
            1322.3,
            1373.1,
            1561.0,
            2108.4,
            2390.7,
            2318.7,
            2581.0,
            837.7,
            22.0,
            2195.2,
            1537.4,
        ),
        std=(
            791.0,
            854.3,
            878.7,
            1144.9,
            1127.5,
            1164.2,
            1276.0,
            1249.5,
            1345.9,
            577.5,
            47.5,
            1340.0,
            1142.9,
        ),
    ),
    # The published weights scale L2A like L1C: same bands without B10.
    'sentinel2_l2a': Modality(
        bands=(
            'B1',
            'B2',
            'B3',
            'B4',
            'B5',
            'B6',
            'B7',
            'B8',
            'B8A',
            'B9',
            'B11',
            'B12',
        ),
        kind='multispectral',
        unit='DN',
        mean=(
            1612.9,
            1397.6,
            1322.3,
            1373.1,
            1561.0,
            2108.4,
            2390.7,
            2318.7,
            2581.0,
            837.7,
            2195.2,
            1537.4,
        ),
        std=(
            791.0,
            854.3,
            878.7,
            1144.9,
            1127.5,
            1164.2,
            1276.0,
            1249.5,
            1345.9,
            577.5,
            1340.0,
            1142.9,
        ),
    ),
    'geonrw_rgb': Modality(bands=('R', 'G', 'B'), kind='rgb', unit='uint8'),
    'geonrw_dem': Modality(bands=('elevation',), kind='elevation', unit='m'),
    'sunrgbd_rgb': Modality(bands=('R', 'G', 'B'), kind='rgb', unit='uint8'),
    'sunrgbd_hha': Modality(
        bands=('disparity', 'height', 'angle'), kind='depth', unit='uint8'
    ),
}
"""The known modalities by name, with the statistics of the published weights."""


def per_modality(
    name: str, value: Any, modalities: Mapping[str, Any], default: Any = None
) -> dict[str, Any]:
    """Spread an option over the modalities: one value for all, or one for each.

    Args:
        name: name of the option, for the error message.
        value: one value for all modalities, or a mapping with their names.
        modalities: the modalities, by name.
        default: value of a modality that the mapping leaves out. Without one, every
            modality must be named.

    Returns:
        One value per modality.

    Raises:
        ValueError: if the mapping names an unknown modality or leaves one out.

    Example:
        >>> per_modality('model', 'resnet18', {'s1': 2, 's2': 13})
        {'s1': 'resnet18', 's2': 'resnet18'}
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(modalities, value)
    unknown = sorted(set(value) - set(modalities))
    missing = [m for m in modalities if m not in value and default is None]
    if unknown or missing:
        raise ValueError(
            f'{name} must be one value or a mapping with the modalities '
            f'{list(modalities)}, got unknown {unknown}, missing {missing}'
        )
    return {m: value.get(m, default) for m in modalities}


def split(batch: Mapping[str, Any], modalities: Mapping[str, int]) -> dict[str, Tensor]:
    """Take the image of each modality out of a batch.

    Args:
        batch: has ``image_<m>`` for every modality, shape (B, C, H, W) or
            (B, T, C, H, W), or one ``image`` with their channels stacked in order.
        modalities: number of channels of each modality, by name.

    Returns:
        The images by modality, as views where the batch holds one stacked ``image``.

    Raises:
        ValueError: if an image is missing, has the wrong number of dimensions or of
            channels, or the modalities do not hold the same number of samples.

    Example:
        >>> images = split({'image': torch.zeros(4, 15, 8, 8)}, {'s1': 2, 's2': 13})
        >>> images['s2'].shape
        torch.Size([4, 13, 8, 8])
    """
    missing = [m for m in modalities if f'image_{m}' not in batch]
    total = sum(modalities.values())
    if not missing:
        images = {m: batch[f'image_{m}'] for m in modalities}
    elif 'image' in batch and len(missing) == len(modalities):
        image = batch['image']
        if image.shape[-3] != total:
            raise ValueError(
                f'image must stack the {total} channels of {dict(modalities)}, '
                f'got {image.shape[-3]}'
            )
        images = dict(
            zip(modalities, image.split(list(modalities.values()), dim=-3), strict=True)
        )
    else:
        found = sorted(k for k in batch if str(k).startswith('image'))
        raise ValueError(
            f'batch must have {[f"image_{m}" for m in missing]}, got only {found}; name '
            'the modalities of the task as the datamodule does'
        )
    for m, image in images.items():
        if image.ndim not in (4, 5):
            raise ValueError(
                f'{m}: image must have shape (B, C, H, W) or (B, T, C, H, W), '
                f'got {tuple(image.shape)}'
            )
        if image.shape[-3] != modalities[m]:
            raise ValueError(
                f'{m}: expected {modalities[m]} channels, found {image.shape[-3]}; '
                'set the number in modalities to that of the data'
            )
    sizes = {m: len(image) for m, image in images.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f'modalities must hold the same samples, got {sizes}')
    return images


def pick_date(x: Tensor, date: int | None = None) -> Tensor:
    """Pick one of the T dates of each sample.

    Args:
        x: images, shape (B, T, C, H, W) or (B, C, H, W).
        date: the date of all samples; by default one at random for each sample, from
            PyTorch's generator.

    Returns:
        Images of one date, shape (B, C, H, W); ``x`` itself when it has no dates.
    """
    if x.ndim == 4:
        return x
    if date is not None:
        return x[:, date]
    batch, dates = x.shape[:2]
    chosen = torch.randint(dates, (batch,)).to(x.device, non_blocking=True)
    return x[torch.arange(batch, device=x.device), chosen]


def invalid_pixels(x: Tensor, nodata: float | None) -> Tensor | None:
    """Where pixels hold no data.

    Args:
        x: images of any shape.
        nodata: the value that marks a missing pixel; NaN is a valid choice.

    Returns:
        Boolean tensor of the shape of ``x``, or None when ``nodata`` is None.
    """
    if nodata is None:
        return None
    return x.isnan() if math.isnan(nodata) else x == nodata


def check(images: Mapping[str, Tensor], modalities: Mapping[str, Modality]) -> None:
    """Look at one batch and refuse data in another unit, order or layout.

    Meant for the first batch of a run: it moves a few numbers to the host.

    Args:
        images: raw images by modality, shape (B, C, H, W) or (B, T, C, H, W), in the
            unit that the modality names.
        modalities: what each modality is.

    Raises:
        ValueError: naming modality, expected, found and cure, for a wrong number of
            channels, NaN or infinite values, backscatter in linear power, swapped
            polarisations, and reflectance that was already scaled.

    Warns:
        UserWarning: if a band is constant over the whole batch.
    """
    for name, modality in modalities.items():
        if name not in images:
            raise ValueError(
                f'{name}: expected image_{name} in the batch, found {sorted(images)}'
            )
        x = images[name]
        if x.shape[-3] != modality.channels:
            raise ValueError(
                f'{name}: expected {modality.channels} bands {list(modality.bands)}, '
                f'found {x.shape[-3]}; select or pad the bands'
            )
        bands = x.detach().double().transpose(-3, 0).flatten(1)
        # Compared in the precision of the data: -3.4028235e38 is no float64 of a float32.
        invalid = invalid_pixels(x, modality.nodata)
        valid = (
            torch.ones_like(bands, dtype=torch.bool)
            if invalid is None
            else ~invalid.transpose(-3, 0).flatten(1)
        )
        if not valid.any():
            warnings.warn(
                f'{name}: the first batch holds nothing but nodata', stacklevel=2
            )
            continue
        finite = bands.isfinite() | ~valid
        if not finite.all():
            bad = [
                b for b, ok in zip(modality.bands, finite.all(1), strict=True) if not ok
            ]
            raise ValueError(
                f'{name}: expected finite values, found '
                f'{int((~finite).sum())} NaN or infinite in bands {bad}; fill them, or '
                'give the modality a nodata value (nodata: .nan for NaN)'
            )
        _check_constant(name, modality, bands, valid)
        if look := _LOOKS.get(modality.unit):
            look(name, modality, bands, valid)


def _check_constant(
    name: str, modality: Modality, bands: Tensor, valid: Tensor
) -> None:
    high = bands.masked_fill(~valid, -torch.inf).amax(1)
    low = bands.masked_fill(~valid, torch.inf).amin(1)
    constant = [b for b, flat in zip(modality.bands, high <= low, strict=True) if flat]
    if constant:
        warnings.warn(
            f'{name}: bands {constant} are constant over the first batch; '
            'they carry no information',
            stacklevel=3,
        )


def _check_decibel(name: str, modality: Modality, bands: Tensor, valid: Tensor) -> None:
    low, high = bands[valid].amin().item(), bands[valid].amax().item()
    if low >= 0:
        raise ValueError(
            f'{name}: expected backscatter in dB (mostly between -30 and 5), found only '
            f'values in [{low:.3g}, {high:.3g}], as in linear power; convert with '
            '10 * log10(x)'
        )
    if {'VV', 'VH'} <= set(modality.bands):
        vv, vh = (modality.bands.index(b) for b in ('VV', 'VH'))
        mean = [bands[i][valid[i]].mean().item() for i in (vv, vh)]
        if mean[0] < mean[1]:
            raise ValueError(
                f'{name}: expected VV brighter than VH (bands {list(modality.bands)}), '
                f'found mean VV {mean[0]:.2f} dB < VH {mean[1]:.2f} dB; the bands '
                'are swapped'
            )


def _check_digital_number(
    name: str, modality: Modality, bands: Tensor, valid: Tensor
) -> None:
    low, high = bands[valid].amin().item(), bands[valid].amax().item()
    if high <= 2:
        raise ValueError(
            f'{name}: expected digital numbers (reflectance times 10,000), found values '
            f'in [{low:.3g}, {high:.3g}], as in reflectance or scaled data; feed the '
            'raw numbers, the datamodule scales them'
        )
    if high <= 255 and low >= 0 and bands.size(1) > 1 and modality.channels > 3:
        raise ValueError(
            f'{name}: expected digital numbers (reflectance times 10,000), found values '
            f'in [{low:.3g}, {high:.3g}], as in 8-bit data; feed the raw numbers'
        )
    if low < -1000 or (bands[valid] < 0).float().mean().item() > 0.25:
        raise ValueError(
            f'{name}: expected digital numbers >= 0, found values in '
            f'[{low:.3g}, {high:.3g}], as in standardised data; feed the raw numbers'
        )


def _check_byte(name: str, modality: Modality, bands: Tensor, valid: Tensor) -> None:
    low, high = bands[valid].amin().item(), bands[valid].amax().item()
    if low < 0 or high > 255 or high <= 1:
        raise ValueError(
            f'{name}: expected values from 0 to 255, found [{low:.3g}, {high:.3g}]; '
            'feed the raw bytes, the datamodule scales them'
        )


_LOOKS: dict[str, Callable[[str, Modality, Tensor, Tensor], None]] = {
    'dB': _check_decibel,
    'DN': _check_digital_number,
    'uint8': _check_byte,
}
