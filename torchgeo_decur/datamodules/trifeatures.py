"""Pairs of drawn images that share one feature: a controlled comparison of methods."""

from functools import partial

import torch
from torch import Tensor
from torch.utils.data import Subset

from ..datasets import Trifeatures
from ..datasets.trifeatures.dataset import Pairing
from .base import MultimodalDataModule


class TrifeaturesDataModule(MultimodalDataModule):
    """Pairs of :class:`~torchgeo_decur.datasets.Trifeatures`, drawn as they are needed.

    Training and validation have the same combinations of shape, colour and texture, in
    drawings of their own; the test and the predict split have combinations that were
    held out.

    Args:
        length: number of training pairs.
        val_length: number of pairs of the validation, the test and the predict split.
        size: height and width in pixels.
        pairing: 'unbiased' to pretrain for, and to probe, what is shared and what is
            unique; 'biased' to pretrain for synergy; 'balanced' to probe synergy.
        label_fraction: fraction of the training pairs to train with, stratified by
            ``label_share``.
        batch_size: samples of a batch on each device.
        num_workers: worker processes of each data loader; each keeps its own copy of
            the drawings.
        seed: seed of drawings, pairs and shuffle; by default that of
            ``seed_everything``.

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
        label_fraction: float = 1.0,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        """Initialize a new TrifeaturesDataModule instance."""
        known = Trifeatures.all_modalities
        super().__init__(
            known, batch_size, num_workers, seed=seed, label_fraction=label_fraction
        )
        self.length = length
        self.val_length = val_length
        self.size = size
        self.pairing: Pairing = pairing

    def setup(self, stage: str) -> None:
        """Draw the pairs; their images are drawn when they are read.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.

        Raises:
            ValueError: if an option of the dataset is not valid.
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
