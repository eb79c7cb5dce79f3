"""What an augmentation of a modality is, and one made of any module."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Augmentation(nn.Module, ABC):
    """Base of the augmentations: the type that a configuration file may name.

    Each call draws anew for each sample, so that two calls give two views.
    """

    @abstractmethod
    def forward(self, input: Tensor) -> Tensor:
        """Augment images.

        Args:
            input: images in [0, 1], shape (B, C, H, W).

        Returns:
            Images in [0, 1], shape (B, C, ``size``, ``size``).
        """


class ModuleAugmentation(Augmentation):
    """An augmentation that is any other module, such as one of Kornia, in a configuration file.

    Args:
        module: from images in [0, 1], shape (B, C, H, W), to images of one size.

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
        """Augment images.

        Args:
            input: images in [0, 1], shape (B, C, H, W).

        Returns:
            What the module makes of them.
        """
        result: Tensor = self.module(input)
        return result
