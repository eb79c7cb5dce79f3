"""Sample the values of a modality from a batch, for checks on the CPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from .modality import Modality

# Maximum number of values to copy from a batch to the CPU.
_NUMBERS = 2**21


@dataclass(frozen=True)
class Values:
    """Sampled values of one modality in a batch.

    Args:
        modality: metadata of the modality.
        images: sampled pixels on the CPU, shape (N, C, P). Missing pixels are NaN.
        low: minimum of each band over all valid pixels of the batch, shape (C,).
        high: maximum of each band over all valid pixels of the batch, shape (C,).
    """

    modality: Modality
    images: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(
        cls, x: Tensor, valid: Tensor, modality: Modality, numbers: int = _NUMBERS
    ) -> 'Values':
        """Sample pixels of a batch and copy them to the CPU.

        Args:
            x: images, shape (..., C, H, W).
            valid: boolean mask of valid values, same shape.
            modality: metadata of the modality.
            numbers: maximum number of values to copy. Up to 64 pixels per image are copied
                even if this exceeds the maximum.
        """
        largest = torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).max
        smallest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
        bands = tuple(d for d in range(x.ndim) if d != x.ndim - 3)
        low = x.masked_fill(~valid, largest).amin(bands)
        high = x.masked_fill(~valid, smallest).amax(bands)
        pixels = x.flatten(-2).flatten(0, -3)
        count = pixels.shape[-1]
        most = max(numbers // max(pixels.shape[0] * pixels.shape[1], 1), 64)
        if count > most:
            # Multiples of the golden ratio spread evenly and do not align with columns.
            place = torch.arange(most, dtype=torch.float64) * 0.6180339887498949
            index = (place.frac() * count).long()
            pixels = pixels[..., index.to(x.device)]
            valid = valid.flatten(-2).flatten(0, -3)[..., index.to(x.device)]
        else:
            valid = valid.flatten(-2).flatten(0, -3)
        values = pixels.cpu().double().masked_fill(~valid.cpu(), torch.nan)
        return cls(modality, values, low.cpu().double(), high.cpu().double())

    @classmethod
    def join(cls, parts: 'Sequence[Values]') -> 'Values':
        """Concatenate the values of one modality from several batches.

        Args:
            parts: values from one or more batches.
        """
        most = max(part.images.shape[-1] for part in parts)
        images = [
            pad(part.images, (0, most - part.images.shape[-1]), value=torch.nan)
            for part in parts
        ]
        low = torch.stack([part.low for part in parts]).amin(0)
        high = torch.stack([part.high for part in parts]).amax(0)
        return cls(parts[0].modality, torch.cat(images), low, high)

    @property
    def varying(self) -> Tensor:
        """Boolean mask of the bands that are not constant, shape (C,)."""
        return self.high > self.low

    @cached_property
    def border(self) -> Tensor:
        """Boolean mask of the pixels that are exactly 0 in all bands, shape (N, P)."""
        return (self.images == 0).all(1)

    @cached_property
    def bands(self) -> Tensor:
        """Values of each band, shape (C, M), with NaN for missing and border pixels."""
        inside = self.images.masked_fill(self.border[:, None], torch.nan)
        return inside.transpose(0, 1).flatten(1)

    @cached_property
    def medians(self) -> Tensor:
        """Median of each band outside the border, shape (C,), with NaN for empty bands."""
        return self.bands.nanmedian(1).values

    @cached_property
    def median(self) -> float:
        """Median outside the border, over all bands that are not constant."""
        return float(self.bands[self.varying].nanmedian())

    @property
    def span(self) -> tuple[float, float]:
        """Minimum and maximum outside the border, over all bands that are not constant."""
        values = self.bands[self.varying]
        values = values[~values.isnan()]
        if not values.numel():
            return 0.0, 0.0
        return float(values.min()), float(values.max())

    @property
    def fractional(self) -> bool:
        """True if any value is not an integer."""
        values = self.bands[~self.bands.isnan()]
        return bool((values != values.round()).any())

    def names(self, chosen: Tensor) -> list[str]:
        """Return the names of the bands selected by a boolean mask of shape (C,)."""
        pairs = zip(self.modality.bands, chosen.tolist(), strict=True)
        return [band for band, is_chosen in pairs if is_chosen]
