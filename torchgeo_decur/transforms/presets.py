"""Augmentations for pretraining, one class per kind of modality.

All work on a batch on its device with Kornia's operations, on images in [0, 1]. Every call draws anew for each sample, so calling one twice gives two views.
The defaults are those of the DeCUR paper (Wang et al., ECCV 2024), except that values
of SAR and elevation are never recoloured: they are measurements, not appearance.
"""

from collections.abc import Callable, Mapping
from typing import Any

import kornia.augmentation as K
from torch import nn

from .augmentation import Augmentation
from .steps import AugmentationChain, RandomBandMean, RandomColorJitter

Range = tuple[float, float]


class ElevationAugmentation(AugmentationChain):
    """Crop and flips: values are moved, never changed. Also for unknown modalities.

    Args:
        size: height and width of the result in pixels.
        crop_scale: range of the share of the area that the crop keeps.
        crop_ratio: range of the aspect ratio of the crop.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.

    Example:
        >>> import torch
        >>> ElevationAugmentation(size=32)(torch.rand(4, 1, 64, 64)).shape
        torch.Size([4, 1, 32, 32])
    """

    def __init__(
        self,
        size: int = 224,
        crop_scale: Range = (0.2, 1.0),
        crop_ratio: Range = (0.75, 4 / 3),
        hflip: float = 0.5,
        vflip: float = 0.5,
    ) -> None:
        """Initialize a new ElevationAugmentation instance."""
        super().__init__(_crop(size, crop_scale, crop_ratio), [], hflip, vflip)


class DepthAugmentation(ElevationAugmentation):
    """Crop and horizontal flip: indoor scenes have an upright.

    Args:
        size: height and width of the result in pixels.
        crop_scale: range of the share of the area that the crop keeps.
        crop_ratio: range of the aspect ratio of the crop.
        hflip: probability of a horizontal flip.
    """

    def __init__(
        self,
        size: int = 224,
        crop_scale: Range = (0.5, 1.0),
        crop_ratio: Range = (0.75, 4 / 3),
        hflip: float = 0.5,
    ) -> None:
        """Initialize a new DepthAugmentation instance."""
        super().__init__(size, crop_scale, crop_ratio, hflip, vflip=0.0)


class SARAugmentation(AugmentationChain):
    """Crop, band mean, blur and flips: no backscatter is brightened or inverted.

    Args:
        size: height and width of the result in pixels.
        crop_scale: range of the share of the area that the crop keeps.
        crop_ratio: range of the aspect ratio of the crop.
        grey: probability of replacing all bands by their mean.
        blur: probability of a Gaussian blur.
        blur_sigma: range of the blur's standard deviation in pixels.
        blur_kernel: width of the blur's kernel in pixels, odd.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.
    """

    def __init__(
        self,
        size: int = 224,
        crop_scale: Range = (0.2, 1.0),
        crop_ratio: Range = (0.75, 4 / 3),
        grey: float = 0.2,
        blur: float = 0.5,
        blur_sigma: Range = (0.1, 2.0),
        blur_kernel: int = 9,
        hflip: float = 0.5,
        vflip: float = 0.5,
    ) -> None:
        """Initialize a new SARAugmentation instance."""
        super().__init__(
            _crop(size, crop_scale, crop_ratio),
            [
                RandomBandMean(p=grey),
                K.RandomGaussianBlur((blur_kernel, blur_kernel), blur_sigma, p=blur),
            ],
            hflip,
            vflip,
        )


class OpticalAugmentation(AugmentationChain):
    """Crop, brightness and contrast, band mean, blur, solarisation and flips.

    Args:
        size: height and width of the result in pixels.
        crop_scale: range of the share of the area that the crop keeps.
        crop_ratio: range of the aspect ratio of the crop.
        brightness: brightness is multiplied by a factor in 1 - this to 1 + this.
        contrast: so is the distance to the mean of each band.
        jitter: probability of brightness and contrast, drawn together.
        grey: probability of replacing all bands by their mean.
        blur: probability of a Gaussian blur.
        blur_sigma: range of the blur's standard deviation in pixels.
        blur_kernel: width of the blur's kernel in pixels, odd.
        solarize: probability of inverting values above 0.5.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.
    """

    def __init__(
        self,
        size: int = 224,
        crop_scale: Range = (0.2, 1.0),
        crop_ratio: Range = (0.75, 4 / 3),
        brightness: float = 0.4,
        contrast: float = 0.4,
        jitter: float = 0.8,
        grey: float = 0.2,
        blur: float = 0.5,
        blur_sigma: Range = (0.1, 2.0),
        blur_kernel: int = 9,
        solarize: float = 0.2,
        hflip: float = 0.5,
        vflip: float = 0.5,
    ) -> None:
        """Initialize a new OpticalAugmentation instance."""
        super().__init__(
            _crop(size, crop_scale, crop_ratio),
            [
                RandomColorJitter(brightness, contrast, p=jitter, order=(0, 1)),
                RandomBandMean(p=grey),
                K.RandomGaussianBlur((blur_kernel, blur_kernel), blur_sigma, p=blur),
                K.RandomSolarize((0.5, 0.5), additions=(0.0, 0.0), p=solarize),
            ],
            hflip,
            vflip,
        )


class RGBAugmentation(OpticalAugmentation):
    """The augmentation of multispectral images, for colour images.

    Photographs of rooms and streets have an upright: see
    :class:`UprightRGBAugmentation`.
    SimCLR's augmentation: ``crop_scale: [0.08, 1.0], saturation: 0.4, hue: 0.1,
    solarize: 0.0, vflip: 0.0``.

    Args:
        size: height and width of the result in pixels.
        crop_scale: range of the share of the area that the crop keeps.
        crop_ratio: range of the aspect ratio of the crop.
        brightness: brightness is multiplied by a factor in 1 - this to 1 + this.
        contrast: so is the distance to the mean of each band.
        saturation: so is the distance to grey; images must be red, green, blue.
        hue: hue is turned by up to this share of the circle, at most 0.5; likewise.
        jitter: probability of brightness, contrast, saturation and hue, drawn together.
        grey: probability of replacing all bands by their mean.
        blur: probability of a Gaussian blur.
        blur_sigma: range of the blur's standard deviation in pixels.
        blur_kernel: width of the blur's kernel in pixels, odd.
        solarize: probability of inverting values above 0.5.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.
    """

    def __init__(
        self,
        size: int = 224,
        crop_scale: Range = (0.2, 1.0),
        crop_ratio: Range = (0.75, 4 / 3),
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.0,
        hue: float = 0.0,
        jitter: float = 0.8,
        grey: float = 0.2,
        blur: float = 0.5,
        blur_sigma: Range = (0.1, 2.0),
        blur_kernel: int = 9,
        solarize: float = 0.2,
        hflip: float = 0.5,
        vflip: float = 0.5,
    ) -> None:
        """Initialize a new RGBAugmentation instance."""
        super().__init__(
            size,
            crop_scale,
            crop_ratio,
            brightness,
            contrast,
            jitter,
            grey,
            blur,
            blur_sigma,
            blur_kernel,
            solarize,
            hflip,
            vflip,
        )
        # Steps that do nothing are left out: they would cost a turn through hue.
        order = (0, 1, *[2] * (saturation > 0), *[3] * (hue > 0))
        self[1] = RandomColorJitter(
            brightness, contrast, saturation, hue, p=jitter, order=order
        )


class UprightRGBAugmentation(RGBAugmentation):
    """Milder crop, brightness and contrast, grey, blur and horizontal flip.

    For photographs of rooms and streets, which have an upright and keep their tones.

    Args:
        size: height and width of the result in pixels.
        crop_scale: range of the share of the area that the crop keeps.
        crop_ratio: range of the aspect ratio of the crop.
        brightness: brightness is multiplied by a factor in 1 - this to 1 + this.
        contrast: so is the distance to the mean of each band.
        jitter: probability of brightness and contrast, drawn together.
        grey: probability of replacing all bands by their mean.
        blur: probability of a Gaussian blur.
        blur_sigma: range of the blur's standard deviation in pixels.
        blur_kernel: width of the blur's kernel in pixels, odd.
        hflip: probability of a horizontal flip.
    """

    def __init__(
        self,
        size: int = 224,
        crop_scale: Range = (0.5, 1.0),
        crop_ratio: Range = (0.75, 4 / 3),
        brightness: float = 0.4,
        contrast: float = 0.4,
        jitter: float = 0.8,
        grey: float = 0.2,
        blur: float = 0.5,
        blur_sigma: Range = (0.1, 2.0),
        blur_kernel: int = 9,
        hflip: float = 0.5,
    ) -> None:
        """Initialize a new UprightRGBAugmentation instance."""
        super().__init__(
            size=size,
            crop_scale=crop_scale,
            crop_ratio=crop_ratio,
            brightness=brightness,
            contrast=contrast,
            jitter=jitter,
            grey=grey,
            blur=blur,
            blur_sigma=blur_sigma,
            blur_kernel=blur_kernel,
            solarize=0.0,
            hflip=hflip,
            vflip=0.0,
        )


PRESETS: dict[str, Callable[..., Augmentation]] = {
    's1': SARAugmentation,
    's2': OpticalAugmentation,
    'rgb': RGBAugmentation,
    'dem': ElevationAugmentation,
    'depth': DepthAugmentation,
    'hha': DepthAugmentation,
    'disparity': DepthAugmentation,
}
"""Augmentation that a modality of this name gets when none is given.

Beside one with :class:`DepthAugmentation`, ``rgb`` is taken for a photograph of a room or
street and gets :class:`UprightRGBAugmentation`.
"""


def default_augmentations(modalities: Mapping[str, Any], size: int) -> nn.ModuleDict:
    """Make the augmentation of each modality by its name.

    Args:
        modalities: the modalities, by name. A name that is not in :data:`PRESETS` gets
            crop and flips alone, which suit any measurement.
        size: height and width of the result in pixels.

    Returns:
        One augmentation per modality.
    """
    chosen = {m: PRESETS.get(m, ElevationAugmentation) for m in modalities}
    if DepthAugmentation in chosen.values() and 'rgb' in chosen:
        chosen['rgb'] = UprightRGBAugmentation
    return nn.ModuleDict({m: make(size=size) for m, make in chosen.items()})


def _crop(size: int, scale: Range, ratio: Range) -> K.RandomResizedCrop:
    # 'resample' moves the whole batch at once, 'slice' loops over its samples.
    return K.RandomResizedCrop(
        (size, size), tuple(scale), tuple(ratio), cropping_mode='resample'
    )
