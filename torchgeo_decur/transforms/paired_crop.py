"""Joint crop and flip of all modalities and the mask of a sample."""

from collections.abc import Mapping

import kornia.augmentation as K
import torch
from torch import Tensor, nn

from ..modalities import per_modality
from .augmentation_chain import (
    Grid,
    Range,
    crop_axes,
    float32_by_default,
    resample,
    to_device,
)


class PairedCrop(nn.Module):
    """Augmentation that crops and flips all modalities and the mask in the same way.

    Transfer tasks use this augmentation for training. Images and mask must cover the same
    area but may differ in size. The crop is drawn in pixels of the largest image. Images
    are resampled bilinearly, and masks with nearest-neighbor interpolation. Parameters are
    drawn on the CPU in float32 and copied in one asynchronous transfer.

    Args:
        size: height and width of the result in pixels, one value for all images and the
            mask or one per modality. With one per modality, the mask keeps its size. None,
            the default, keeps all sizes.
        crop_scale: range of the crop area, as a fraction of the image area.
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
        size: int | Mapping[str, int | None] | None = None,
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
        """Crop and flip images and mask.

        Args:
            images: images of the same area by modality, shape (B, C, H, W).
            mask: pixel classes, shape (B, H, W) or (B, 1, H, W).

        Returns:
            The cropped images and mask. Floating-point images and the mask keep their
            dtype; other images become float32.
        """
        largest = max(images.values(), key=lambda x: x.shape[-2] * x.shape[-1])
        shape, extent = largest.shape, largest.shape[2:]
        crop = K.RandomResizedCrop(tuple(extent), self.crop_scale, self.crop_ratio)
        flips = K.RandomHorizontalFlip(p=self.hflip), K.RandomVerticalFlip(p=self.vflip)
        with float32_by_default():
            box = crop.forward_parameters(shape)['src']
            drawn = [flip.forward_parameters(shape) for flip in flips]
        sizes = per_modality('size', self.size, images, default=0)
        grids = {m: _grid(x, sizes[m]) for m, x in images.items()}
        reference = next(m for m, x in images.items() if x is largest)
        if mask is not None:
            grids[''] = _grid(mask, self.size if isinstance(self.size, int) else None)
        axes = [
            axis
            for grid in grids.values()
            for axis in crop_axes(box, drawn, *grids[reference], grid)
        ]
        moved = to_device(axes, largest.device)
        places = dict(
            zip(grids, zip(moved[::2], moved[1::2], strict=True), strict=True)
        )
        cropped = {
            m: resample(x, *places[m]).to(
                x.dtype if x.is_floating_point() else torch.float32
            )
            for m, x in images.items()
        }
        if mask is None:
            return cropped, None
        band = mask if mask.ndim == 4 else mask[:, None]
        band = resample(band, *places[''], 'nearest').to(mask.dtype)
        return cropped, band if mask.ndim == 4 else band[:, 0]


def _grid(x: Tensor, size: int | None) -> Grid:
    """Return the height and width of an image before and after the crop."""
    height, width = x.shape[-2:]
    return (height, width), (size or height, size or width)
