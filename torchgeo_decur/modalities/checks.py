"""Whether the values of a batch are in the unit, order and layout they should be in."""

import math
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .record import Modality


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


def cure_of_holes(modality: Modality) -> str:
    """Say what to do about NaN and infinite values that do not count as missing.

    Args:
        modality: what the images are. Where it has a nodata value, another would turn
            the pixels that have it into measurements.

    Returns:
        The end of a message.
    """
    if modality.nodata is None:
        return 'fill them, or give the modality a nodata value (nodata: .nan for NaN)'
    return f"fill them with the modality's nodata value, {modality.nodata}"


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
                f'{int((~finite).sum())} NaN or infinite in bands {bad}; '
                f'{cure_of_holes(modality)}'
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
                'are swapped; give bands in the order of the files, or use SelectBands'
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
