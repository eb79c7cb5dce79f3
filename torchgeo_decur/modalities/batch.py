"""Read modalities from a batch, and options that differ per modality."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor


def per_modality(
    name: str, value: Any, modalities: Mapping[str, Any], default: Any = None
) -> dict[str, Any]:
    """Return the value of an option for each modality.

    Args:
        name: name of the option, for the error message.
        value: one value for all modalities, or a mapping by modality.
        modalities: the modalities, by name.
        default: value of a modality that is absent from the mapping. Without a default,
            the mapping must have every modality.

    Returns:
        One value per modality.

    Raises:
        ValueError: if the mapping has an unknown modality or lacks one.

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
    """Return the image of each modality in a batch.

    Args:
        batch: batch with ``image_<m>`` for every modality, shape (B, C, H, W) or
            (B, T, C, H, W), or one ``image`` with the channels of all modalities in order.
        modalities: number of channels of each modality, by name.

    Returns:
        The images by modality; views of ``image`` if the batch has only this.

    Raises:
        ValueError: if an image is absent, has the wrong number of dimensions or channels,
            or the modalities have different numbers of samples.

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
            f'batch must have {[f"image_{m}" for m in missing]}, got only {found}; use '
            'the same names of modalities in task and datamodule'
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
                'set this number in modalities'
            )
    sizes = {m: len(image) for m, image in images.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f'modalities must have the same number of samples, got {sizes}'
        )
    return images


def mark_available(
    modalities: Collection[str], absent: Collection[str]
) -> dict[str, Tensor]:
    """Return the availability of each modality of a sample.

    Args:
        modalities: names of the modalities.
        absent: names of the absent modalities.

    Returns:
        ``available_<m>`` of every modality, Boolean tensors of shape ().

    Example:
        >>> mark_available(['s1', 's2'], ['s1'])
        {'available_s1': tensor(False), 'available_s2': tensor(True)}
    """
    return {f'available_{m}': torch.tensor(m not in absent) for m in modalities}


def get_available(
    batch: Mapping[str, Any], modalities: Collection[str]
) -> dict[str, Tensor]:
    """Return the availability of each modality in a batch.

    Args:
        batch: batch with ``available_<m>``, shape (B,), of incomplete modalities.
        modalities: names of the modalities.

    Returns:
        Boolean tensors by modality, without modalities that all samples have.
    """
    keys = {m: f'available_{m}' for m in modalities}
    return {m: batch[key] for m, key in keys.items() if key in batch}


def drop_absent(
    images: Mapping[str, Tensor], available: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the images of available modalities; this synchronises with the device.

    Args:
        images: images by modality, shape (B, ...); without B for one sample.
        available: result of :func:`get_available`.

    Returns:
        Images by modality, of different numbers of samples. For a single sample, absent
        modalities are left out.

    Example:
        >>> images = {'s1': torch.zeros(3, 2, 4, 4), 's2': torch.zeros(3, 13, 4, 4)}
        >>> there = {'s1': torch.tensor([True, False, True])}
        >>> {m: len(x) for m, x in drop_absent(images, there).items()}
        {'s1': 2, 's2': 3}
    """
    found = {}
    for m, x in images.items():
        mask = available.get(m)
        if mask is None or (mask.ndim == 0 and mask):
            found[m] = x
        elif mask.ndim:
            found[m] = x[mask]
    return found


def check_grid(images: Mapping[str, Tensor], cure: str = '') -> None:
    """Check that images have the same height and width.

    Args:
        images: images by modality, shape (..., H, W).
        cure: what else helps than resampling, for the error message.

    Raises:
        ValueError: if the sizes differ.
    """
    sizes = {m: tuple(x.shape[-2:]) for m, x in images.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f'modalities must share one grid, got images of {sizes}; resample them to '
            f'one size{cure and ", "}{cure}'
        )


def select_date(x: Tensor, date: int | None = None) -> Tensor:
    """Select one of the T dates of each sample.

    Args:
        x: images, shape (B, T, C, H, W) or (B, C, H, W).
        date: index of the date of all samples; by default a random date of each sample.

    Returns:
        Images of one date, shape (B, C, H, W); ``x`` itself if it has no dates.
    """
    if x.ndim == 4:
        return x
    if date is not None:
        return x[:, date]
    batch, dates = x.shape[:2]
    chosen = torch.randint(dates, (batch,)).to(
        x.device, non_blocking=x.device.type == 'cuda'
    )
    return x[torch.arange(batch, device=x.device), chosen]
