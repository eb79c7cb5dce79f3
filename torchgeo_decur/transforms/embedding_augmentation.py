"""Augment embeddings of frozen models."""

import torch
from torch import Tensor

from ..modalities import EMBEDDING_WIDTH
from .augmentation_chain import Augmentation


class EmbeddingAugmentation(Augmentation):
    """Augmentation that adds noise to embeddings and sets random values to the mean.

    Embeddings cannot be cropped or recolored like images. To use embeddings of several
    dates or crops as views instead, see the option ``views`` of
    :class:`~torchgeo_decur.datamodules.PairedEmbeddingsDataModule`.

    Args:
        noise: standard deviation of Gaussian noise, relative to the standard deviation of
            each dimension.
        dropout: probability of replacing a value with the mean of its dimension.

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
