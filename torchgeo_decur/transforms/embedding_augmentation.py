"""Views of an embedding."""

import torch
from torch import Tensor

from ..modalities import EMBEDDING_WIDTH
from .augmentation_chain import Augmentation


class EmbeddingAugmentation(Augmentation):
    """Add noise to an embedding, and replace some of its numbers by their mean.

    Crops and colors are no longer possible once a frozen model has encoded an image.
    Embeddings of several dates or crops of one sample are better views, see ``views`` of
    :class:`~torchgeo_decur.datamodules.PairedEmbeddingsDataModule`.

    Args:
        noise: standard deviation of Gaussian noise, in standard deviations of a feature.
        dropout: probability of replacing a number by the mean of its feature.

    Raises:
        ValueError: if ``noise`` is negative, or ``dropout`` is not in [0, 1).

    Example:
        >>> view = EmbeddingAugmentation(noise=0.0, dropout=0.5)
        >>> view(torch.ones(2, 512, 1, 1)).unique()
        tensor([0.5000, 1.0000])
    """

    def __init__(self, noise: float = 0.1, dropout: float = 0.1) -> None:
        """Initialize a new EmbeddingAugmentation instance."""
        super().__init__()
        if noise < 0:
            raise ValueError(f'noise must not be negative, got {noise}')
        if not 0 <= dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), got {dropout}')
        self.noise = noise
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:
        """Augment embeddings.

        Args:
            input: embeddings in [0, 1], shape (B, D, 1, 1).

        Returns:
            Embeddings in [0, 1], same shape.
        """
        x = input
        if self.noise:
            scale = self.noise / (2 * EMBEDDING_WIDTH)
            x = (x + scale * torch.randn_like(x)).clamp(0, 1)
        if self.dropout:
            x = torch.where(torch.rand_like(x) < self.dropout, 0.5, x)
        return x

    def extra_repr(self) -> str:
        """Return the options as text."""
        return f'noise={self.noise}, dropout={self.dropout}'
