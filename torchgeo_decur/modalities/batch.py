"""Split batches by modality and read options that may differ between modalities."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor


def per_modality(
    name: str, value: Any, modalities: Mapping[str, Any], default: Any = None
) -> dict[str, Any]:
    """Expand an option to one value per modality.

    Args:
        name: name of the option, for the error message.
        value: one value for all modalities, or a mapping from modality to value.
        modalities: mapping whose keys are the modalities.
        default: value for modalities that are absent from the mapping. Without a default,
            the mapping must contain every modality.

    Returns:
        The value for each modality.

    Raises:
        ValueError: if the mapping contains an unknown modality or lacks one.

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


def split(
    batch: Mapping[str, Any], modalities: Mapping[str, int], date: int | None = None
) -> dict[str, Tensor]:
    """Split a batch into the images of each modality.

    Args:
        batch: batch with ``image_<m>`` for every modality, shape (B, C, H, W) or
            (B, T, C, H, W). Alternatively, ``image`` has the channels of all modalities in
            order.
        modalities: number of channels by modality.
        date: index of the date to select. By default, images keep all dates.

    Returns:
        Images by modality. They are views of ``image`` if the batch has no other image.

    Raises:
        ValueError: if an image is absent or has the wrong number of dimensions or channels,
            or if the modalities have different numbers of samples.

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
                f'image must contain the {total} channels of {dict(modalities)}, '
                f'got {image.shape[-3]} channels; correct the numbers in modalities'
            )
        images = dict(
            zip(modalities, image.split(list(modalities.values()), dim=-3), strict=True)
        )
    else:
        found = sorted(k for k in batch if str(k).startswith('image'))
        raise ValueError(
            f'batch must have {[f"image_{m}" for m in missing]}, got only {found}; use '
            'the same modality names in the task and the datamodule'
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
                'correct the number of channels in modalities'
            )
    sizes = {m: len(image) for m, image in images.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f'modalities must have the same number of samples, got {sizes}'
        )
    if date is None:
        return images
    return {m: select_date(x, date) for m, x in images.items()}


def mark_available(
    modalities: Collection[str], absent: Collection[str]
) -> dict[str, Tensor]:
    """Create the availability flags of a sample.

    Args:
        modalities: names of all modalities.
        absent: names of the absent modalities.

    Returns:
        Boolean tensors of shape () with the keys ``available_<m>``.

    Example:
        >>> mark_available(['s1', 's2'], ['s1'])
        {'available_s1': tensor(False), 'available_s2': tensor(True)}
    """
    return {f'available_{m}': torch.tensor(m not in absent) for m in modalities}


def get_available(
    batch: Mapping[str, Any], modalities: Collection[str]
) -> dict[str, Tensor]:
    """Return the availability masks in a batch.

    Args:
        batch: batch with ``available_<m>``, shape (B,), for each modality that some
            samples may lack.
        modalities: names of the modalities.

    Returns:
        Boolean masks by modality. Modalities without a mask are present in all samples.
    """
    keys = {m: f'available_{m}' for m in modalities}
    return {m: batch[key] for m, key in keys.items() if key in batch}


def drop_absent(
    images: Mapping[str, Tensor], available: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Drop the images of absent modalities, which synchronizes the device.

    Args:
        images: images by modality, shape (B, ...), or without B for a single sample.
        available: result of :func:`get_available`.

    Returns:
        Images by modality. In a batch, modalities may keep different numbers of samples. A
        single sample keeps only its available modalities.

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


def drop_incomplete(
    images: Mapping[str, Tensor], available: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Select the images of the samples that have all modalities.

    Masks on a device are copied to the CPU, which synchronizes with the device.

    Args:
        images: images by modality, shape (B, ...).
        available: result of :func:`get_available`.

    Returns:
        Images by modality, all with the same number of samples, which can be 0.

    Example:
        >>> images = {'s1': torch.zeros(3, 2, 4, 4), 's2': torch.zeros(3, 13, 4, 4)}
        >>> there = {'s1': torch.tensor([True, False, True])}
        >>> {m: len(x) for m, x in drop_incomplete(images, there).items()}
        {'s1': 2, 's2': 2}
    """
    if not available:
        return dict(images)
    complete = torch.stack([x.cpu() for x in available.values()]).all(dim=0)
    return {m: x[complete.to(x.device)] for m, x in images.items()}


def check_grid(images: Mapping[str, Tensor], cure: str = '') -> None:
    """Check that images have the same height and width.

    Args:
        images: images by modality, shape (..., H, W).
        cure: alternative to resampling, for the error message.

    Raises:
        ValueError: if sizes differ.
    """
    sizes = {m: tuple(x.shape[-2:]) for m, x in images.items()}
    first = next(iter(sizes.values()), ())
    if any(size != first for size in sizes.values()):
        raise ValueError(
            f'modalities must have the same height and width, got {sizes}; resample them '
            f'to one size{cure and ", "}{cure}'
        )


def select_date(x: Tensor, date: int | None = None) -> Tensor:
    """Select one of the T dates of each sample.

    Args:
        x: images, shape (B, T, C, H, W) or (B, C, H, W).
        date: index of the date for all samples. By default, each sample gets a random date.

    Returns:
        Images of one date, shape (B, C, H, W). Images without dates are unchanged.
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
