"""Crop and flip all modalities of a sample together with its mask."""

from collections.abc import Mapping

import kornia.augmentation as K
import torch
from torch import Tensor, nn

from ..modalities import check_grid
from .augmentation_chain import (
    Range,
    crop_axes,
    float32_by_default,
    resample,
    to_device,
)


class PairedCrop(nn.Module):
    """Crop and flip all modalities and the mask of a sample in the same way.

    This is the training augmentation of transfer tasks. Images are resampled bilinearly,
    masks by nearest neighbour. Parameters are drawn on the CPU in float32 and copied in
    one asynchronous transfer.

    Args:
        size: height and width of the result in pixels, by default the size of the image.
        crop_scale: range of the area of the crop, as a fraction of the image.
        crop_ratio: range of the aspect ratio of the crop.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.

    Raises:
        ValueError: if ``crop_scale`` is not a range in (0, 1].

    Example:
        >>> images = {'s1': torch.rand(4, 2, 64, 64), 's2': torch.rand(4, 13, 64, 64)}
        >>> cropped, _ = PairedCrop(size=32)(images)
        >>> cropped['s2'].shape
        torch.Size([4, 13, 32, 32])
    """

    def __init__(
        self,
        size: int | None = None,
        crop_scale: Range = (0.8, 1.0),
        crop_ratio: Range = (0.75, 4 / 3),
        hflip: float = 0.5,
        vflip: float = 0.5,
    ) -> None:
        """Initialize a new PairedCrop instance."""
        super().__init__()
        if len(crop_scale) != 2 or not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise ValueError(
                f'crop_scale must be a range in (0, 1], got {tuple(crop_scale)}'
            )
        self.size = size
        self.crop_scale = (crop_scale[0], crop_scale[1])
        self.crop_ratio = crop_ratio
        self.hflip = hflip
        self.vflip = vflip

    @torch.no_grad()
    def forward(
        self, images: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Crop and flip.

        Args:
            images: images by modality, shape (B, C, H, W), all of the same size.
            mask: classes of the pixels, shape (B, H, W) or (B, 1, H, W).

        Returns:
            The images and the mask, of the new size. Floating-point images and the mask
            keep their dtype; other images become float32.

        Raises:
            ValueError: if the images have different sizes.
        """
        check_grid(images)
        first = next(iter(images.values()))
        shape, extent = first.shape, first.shape[2:]
        height, width = (self.size or length for length in extent)
        crop = K.RandomResizedCrop((height, width), self.crop_scale, self.crop_ratio)
        flips = K.RandomHorizontalFlip(p=self.hflip), K.RandomVerticalFlip(p=self.vflip)
        with float32_by_default():
            box = crop.forward_parameters(shape)['src']
            drawn = [flip.forward_parameters(shape) for flip in flips]
        axes = crop_axes(box, drawn, extent, (height, width))
        columns, rows = to_device(axes, first.device)
        moved = {
            m: resample(x, columns, rows).to(
                x.dtype if x.is_floating_point() else torch.float32
            )
            for m, x in images.items()
        }
        if mask is None:
            return moved, None
        band = mask if mask.ndim == 4 else mask[:, None]
        band = resample(band, columns, rows, 'nearest').to(mask.dtype)
        return moved, band if mask.ndim == 4 else band[:, 0]
