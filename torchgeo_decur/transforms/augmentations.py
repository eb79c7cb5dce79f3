"""Augmentations for pretraining, with one class for each kind of modality.

The classes augment batches of images in [0, 1] on the device. The defaults are from the
DeCUR paper (Wang et al., ECCV 2024), with one exception. SAR, elevation and depth are
measurements, so their brightness and contrast never change.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import kornia.augmentation as K
from torch import Tensor, nn

from ..deprecation import renamed_arguments
from ..modalities import per_modality
from .augmentation_chain import (
    Augmentation,
    AugmentationChain,
    RandomBandMean,
    RandomColorJitter,
    Range,
)
from .embedding_augmentation import EmbeddingAugmentation


class DeCURAugmentation(AugmentationChain):
    """DeCUR augmentation: crop, color jitter, band mean, blur, solarization and flips.

    Subclasses fix the options that do not suit their kind of modality. Neither Python nor
    a config can set a fixed option.

    Args:
        size: height and width of the result in pixels.
        crop_scale: range of the crop area, as a fraction of the image area.
        crop_ratio: range of the aspect ratio of the crop.
        brightness: maximum relative change b of the brightness. Its factor is drawn from
            [1 - b, 1 + b].
        contrast: maximum relative change of the distance to the mean of each band.
        saturation: maximum relative change of the distance to the grayscale image, which
            must be 0 except for RGB images.
        hue: maximum rotation of the hue, as a fraction of the color circle of at most 0.5,
            which must be 0 except for RGB images.
        jitter: probability of changing brightness, contrast, saturation and hue, or None
            to remove the operation.
        grayscale: probability of replacing all bands by their mean, or None to remove the
            operation.
        blur: probability of a Gaussian blur, or None to remove the operation.
        blur_sigma: range of the standard deviation of the blur in pixels.
        blur_kernel: width of the blur kernel in pixels, which must be odd.
        solarize: probability of inverting values above 0.5, or None to remove the
            operation.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.
    """

    @renamed_arguments(grey='grayscale')
    def __init__(
        self,
        size: int = 224,
        crop_scale: Range = (0.2, 1.0),
        crop_ratio: Range = (0.75, 4 / 3),
        *,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.0,
        hue: float = 0.0,
        jitter: float | None = 0.8,
        grayscale: float | None = 0.2,
        blur: float | None = 0.5,
        blur_sigma: Range = (0.1, 2.0),
        blur_kernel: int = 9,
        solarize: float | None = 0.2,
        hflip: float = 0.5,
        vflip: float = 0.5,
    ) -> None:
        """Initialize a new DeCURAugmentation instance."""
        # Keep operations with probability 0: Kornia draws random numbers for them, and the
        # other draws for a seed must not change.
        steps: list[K.IntensityAugmentationBase2D] = []
        if jitter is not None:
            # Skip hue if it is 0, because Kornia would convert to HSV and back.
            order = (0, 1, *[2] * (saturation > 0), *[3] * (hue > 0))
            factors = (brightness, contrast, saturation, hue)
            steps.append(RandomColorJitter(*factors, p=jitter, order=order))
        if grayscale is not None:
            steps.append(RandomBandMean(p=grayscale))
        if blur is not None:
            kernel = (blur_kernel, blur_kernel)
            steps.append(K.RandomGaussianBlur(kernel, blur_sigma, p=blur))
        if solarize is not None:
            threshold, addition = (0.5, 0.5), (0.0, 0.0)
            steps.append(K.RandomSolarize(threshold, addition, p=solarize))
        crop = K.RandomResizedCrop(
            (size, size),
            tuple(crop_scale),
            tuple(crop_ratio),
            # 'resample' processes the whole batch at once; 'slice' loops over samples.
            cropping_mode='resample',
        )
        super().__init__(crop, steps, hflip, vflip)


class ElevationAugmentation(DeCURAugmentation):
    """Augmentation for elevation and unknown modalities, which only crops and flips.

    Args:
        size: height and width of the result in pixels.
        options: ``crop_scale``, ``crop_ratio``, ``hflip`` and ``vflip``, as in
            :class:`DeCURAugmentation`.

    Example:
        >>> import torch
        >>> ElevationAugmentation(size=32)(torch.rand(4, 1, 64, 64)).shape
        torch.Size([4, 1, 32, 32])
    """

    def __init__(self, size: int = 224, **options: Any) -> None:
        """Initialize a new ElevationAugmentation instance."""
        super().__init__(
            size,
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
            hue=0.0,
            jitter=None,
            grayscale=None,
            blur=None,
            blur_sigma=(0.0, 0.0),
            blur_kernel=1,
            solarize=None,
            **options,
        )


class DepthAugmentation(ElevationAugmentation):
    """Augmentation for depth images, which only crops and flips horizontally.

    Args:
        size: height and width of the result in pixels.
        crop_scale: range of the crop area, as a fraction of the image area.
        options: ``crop_ratio`` and ``hflip``, as in :class:`DeCURAugmentation`.
    """

    def __init__(
        self, size: int = 224, crop_scale: Range = (0.5, 1.0), **options: Any
    ) -> None:
        """Initialize a new DepthAugmentation instance."""
        super().__init__(size, crop_scale=crop_scale, vflip=0.0, **options)


class SARAugmentation(DeCURAugmentation):
    """Augmentation for SAR, without color jitter and solarization.

    Args:
        size: height and width of the result in pixels.
        options: ``crop_scale``, ``crop_ratio``, ``grayscale``, ``blur``, ``blur_sigma``,
            ``blur_kernel``, ``hflip`` and ``vflip``, as in :class:`DeCURAugmentation`.
    """

    def __init__(self, size: int = 224, **options: Any) -> None:
        """Initialize a new SARAugmentation instance."""
        super().__init__(
            size,
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
            hue=0.0,
            jitter=None,
            solarize=None,
            **options,
        )


class OpticalAugmentation(DeCURAugmentation):
    """Augmentation for multispectral images, without changes of saturation and hue.

    Args:
        size: height and width of the result in pixels.
        options: options of :class:`DeCURAugmentation`, except ``saturation`` and ``hue``.
    """

    def __init__(self, size: int = 224, **options: Any) -> None:
        """Initialize a new OpticalAugmentation instance."""
        super().__init__(size, saturation=0.0, hue=0.0, **options)


class RGBAugmentation(DeCURAugmentation):
    """Augmentation for overhead color images, such as aerial photographs.

    It has all options of :class:`DeCURAugmentation`. For photographs of rooms and streets,
    see :class:`UprightRGBAugmentation`. For the SimCLR augmentation, set
    ``crop_scale: [0.08, 1.0], saturation: 0.4, hue: 0.1, solarize: 0.0, vflip: 0.0``.
    """


class UprightRGBAugmentation(DeCURAugmentation):
    """Augmentation for photographs of rooms and streets.

    Crops are larger than in :class:`RGBAugmentation`, and images are neither solarized nor
    flipped vertically.

    Args:
        size: height and width of the result in pixels.
        crop_scale: range of the crop area, as a fraction of the image area.
        options: options of :class:`DeCURAugmentation`, except ``saturation``, ``hue``,
            ``solarize`` and ``vflip``.
    """

    def __init__(
        self, size: int = 224, crop_scale: Range = (0.5, 1.0), **options: Any
    ) -> None:
        """Initialize a new UprightRGBAugmentation instance."""
        super().__init__(
            size,
            crop_scale,
            saturation=0.0,
            hue=0.0,
            solarize=0.0,
            vflip=0.0,
            **options,
        )


class ModuleAugmentation(Augmentation):
    """Wrapper that makes any module, such as one from Kornia, usable as an augmentation.

    Args:
        module: module that maps images in [0, 1], shape (B, C, H, W), to images of a fixed
            size.

    Example:
        >>> import torch
        >>> ModuleAugmentation(nn.AvgPool2d(2))(torch.rand(4, 2, 64, 64)).shape
        torch.Size([4, 2, 32, 32])
    """

    def __init__(self, module: nn.Module) -> None:
        """Initialize a new ModuleAugmentation instance."""
        super().__init__()
        self.module = module

    def forward(self, input: Tensor) -> Tensor:
        """Apply the module to images.

        Returns:
            The output of the module.
        """
        result: Tensor = self.module(input)
        return result


PRESETS: dict[str, Callable[..., Augmentation]] = {
    's1': SARAugmentation,
    's2': OpticalAugmentation,
    'rgb': RGBAugmentation,
    'dem': ElevationAugmentation,
    'depth': DepthAugmentation,
    'hha': DepthAugmentation,
    'disparity': DepthAugmentation,
}
"""Default augmentation for each modality name.

If another modality uses :class:`DepthAugmentation`, ``rgb`` uses
:class:`UprightRGBAugmentation` instead.
"""


def default_augmentations(
    modalities: Mapping[str, Any],
    size: int | Mapping[str, int],
    embeddings: Collection[str] = (),
) -> nn.ModuleDict:
    """Build the default augmentation of each modality.

    Args:
        modalities: mapping whose keys are the modality names. Names that are not in
            :data:`PRESETS` get :class:`ElevationAugmentation`.
        size: height and width of the result in pixels, one value for all modalities or one
            per modality.
        embeddings: names of the modalities that contain embeddings of frozen models.

    Returns:
        Augmentations by modality.
    """
    chosen = {m: PRESETS.get(m, ElevationAugmentation) for m in modalities}
    if DepthAugmentation in chosen.values() and 'rgb' in chosen:
        chosen['rgb'] = UprightRGBAugmentation
    sizes = per_modality('size', size, modalities)
    return nn.ModuleDict(
        {
            m: EmbeddingAugmentation() if m in embeddings else make(size=sizes[m])
            for m, make in chosen.items()
        }
    )
