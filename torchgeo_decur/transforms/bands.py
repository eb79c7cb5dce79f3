"""Rename images by modality and select or pad their bands."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..modalities import check_names


class ToModalities:
    """Transform that renames ``image`` to ``image_<modality>``.

    In an intersection ``dataset1 & dataset2``, pass one instance to each dataset as
    ``transforms=``. The joined sample then has one key per modality.

    Args:
        modality: name of the modality.

    Example:
        >>> import torch
        >>> sorted(ToModalities('s1')({'image': torch.zeros(2, 4, 4)}))
        ['image_s1']
    """

    def __init__(self, modality: str) -> None:
        """Initialize a new ToModalities instance."""
        self.modality = modality

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Rename the image key.

        Args:
            sample: sample with ``image``, shape (C, H, W).

        Returns:
            A new sample with ``image_<modality>`` instead of ``image``.

        Raises:
            ValueError: if the sample has no ``image``.
        """
        if 'image' not in sample:
            raise ValueError(
                f"{self.modality}: expected a sample with the key 'image', found "
                f'{sorted(sample)}; apply this transform once per dataset'
            )
        rest = {k: v for k, v in sample.items() if k != 'image'}
        return {**rest, f'image_{self.modality}': sample['image']}


class PerModality(nn.Module):
    """Transform that applies one module per modality to the images of a batch.

    Args:
        modules: modules by modality. Other modalities are unchanged.

    Raises:
        ValueError: if a modality name is invalid.

    Example:
        >>> import torch
        >>> double = PerModality({'s1': nn.Upsample(scale_factor=2)})
        >>> double({'image_s1': torch.zeros(1, 2, 4, 4)})['image_s1'].shape
        torch.Size([1, 2, 8, 8])
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        """Initialize a new PerModality instance."""
        super().__init__()
        check_names(modules)
        self.per_modality = nn.ModuleDict(dict(modules))

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Apply the modules to a batch.

        Args:
            batch: batch with ``image_<m>`` for some modalities, and any other keys.

        Returns:
            A new batch. Values without a module are unchanged.
        """
        changed = {
            f'image_{m}': module(batch[f'image_{m}'])
            for m, module in self.per_modality.items()
            if f'image_{m}' in batch
        }
        return {**batch, **changed}


class SelectBands(nn.Module):
    """Transform that selects bands by name.

    Args:
        bands: names of the input bands, in order.
        select: names of the output bands, in order.

    Raises:
        ValueError: if a selected band is not among ``bands``.

    Example:
        >>> import torch
        >>> SelectBands(['VH', 'VV'], ['VV', 'VH'])(torch.tensor([[[1.0]], [[2.0]]]))[0]
        tensor([[2.]])
    """

    def __init__(self, bands: Sequence[str], select: Sequence[str]) -> None:
        """Initialize a new SelectBands instance."""
        super().__init__()
        unknown = [b for b in select if b not in bands]
        if unknown:
            raise ValueError(
                f'select must only have bands from {list(bands)}, got {unknown}'
            )
        self.index = [list(bands).index(b) for b in select]

    def forward(self, x: Tensor) -> Tensor:
        """Select the bands.

        Args:
            x: images, shape (..., C, H, W).

        Returns:
            Images with the selected bands, shape (..., C', H, W).
        """
        return x[..., self.index, :, :]


class PadBands(nn.Module):
    """Transform that inserts constant bands to fit an encoder with more bands.

    Args:
        bands: names of the input bands, in order.
        target: names of the output bands, in order. Missing bands are inserted.
        value: value of the inserted bands.

    Raises:
        ValueError: if ``target`` lacks an input band.

    Example:
        >>> import torch
        >>> PadBands(['B9', 'B11'], ['B9', 'B10', 'B11'])(torch.ones(2, 1, 1)).squeeze()
        tensor([1., 0., 1.])
    """

    def __init__(
        self, bands: Sequence[str], target: Sequence[str], value: float = 0.0
    ) -> None:
        """Initialize a new PadBands instance."""
        super().__init__()
        lost = [b for b in bands if b not in target]
        if lost:
            raise ValueError(
                f'target must contain all input bands {list(bands)}, but lacks {lost}'
            )
        self.index = [list(target).index(b) for b in bands]
        self.channels = len(target)
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """Insert the missing bands.

        Args:
            x: images, shape (..., C, H, W).

        Returns:
            Images with the ``target`` bands, shape (..., C', H, W).
        """
        shape = (*x.shape[:-3], self.channels, *x.shape[-2:])
        out = x.new_full(shape, self.value)
        out[..., self.index, :, :] = x
        return out
