"""Datamodule of drawn image pairs that share a feature, for controlled comparisons."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..datasets import Trifeatures
from ..datasets.trifeatures.dataset import Pairing
from .base import MultimodalDataModule


class TrifeaturesDataModule(MultimodalDataModule):
    """Datamodule of :class:`~torchgeo_decur.datasets.Trifeatures` image pairs.

    Images are drawn on access and scaled to [0, 1]. Training and validation pairs are
    different drawings of the same combinations of shape, color and texture. The test split
    has held-out combinations and is also the prediction split. With ``label_fraction``,
    training pairs are stratified by ``label_share``. Each worker process caches its
    drawings in memory.

    Args:
        length: number of training pairs.
        val_length: number of pairs in the validation split and in the test split.
        size: height and width of an image in pixels.
        pairing: 'unbiased' to pretrain and probe shared and unique features, 'biased' to
            pretrain synergy, or 'balanced' to probe synergy.
        options: options of :class:`~torchgeo_decur.datamodules.MultimodalDataModule`.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> datamodule = TrifeaturesDataModule(length=8, val_length=4, batch_size=4, size=32)
        >>> datamodule.setup('fit')
        >>> next(iter(datamodule.train_dataloader()))['image_second'].shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(
        self,
        *,
        length: int = 10_000,
        val_length: int = 2_000,
        size: int = 64,
        pairing: Pairing = 'unbiased',
        **options: Any,
    ) -> None:
        """Initialize a new TrifeaturesDataModule instance."""
        super().__init__(Trifeatures.all_modalities, **options)
        self.length = length
        self.val_length = val_length
        self.size = size
        self.pairing: Pairing = pairing

    def setup(self, stage: str) -> None:
        """Create the datasets of all splits.

        Raises:
            ValueError: if a dataset option is invalid.
        """
        options = (self.size, self.seed, self.pairing)
        train = Trifeatures('train', self.length, *options)
        self.train_dataset = train
        if self.label_fraction < 1:
            kept = self.budget(len(train), partial(_labels, train), train.shapes)
            self.train_dataset = Subset(train, kept)
        self.val_dataset = Trifeatures('val', self.val_length, *options)
        self.test_dataset = Trifeatures('test', self.val_length, *options)
        self.predict_dataset = self.test_dataset


def _labels(dataset: Trifeatures) -> Tensor:
    return torch.from_numpy(dataset.pairs[:, 0, 0])
