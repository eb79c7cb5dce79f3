"""Predict each class by its share of the training labels, for tables/constant_*.yaml."""

from typing import Any

import torch
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample

from torchgeo_decur.tasks import LateFusionClassification, LateFusionSegmentation
from torchgeo_decur.tasks.transfer.base import LateFusionTask


class Constant(LateFusionTask):
    """A task whose classifiers have no weights: a bias is a class's share, counted in a fit."""

    counts: Tensor

    def configure_models(self) -> None:
        """Build the model of the task, and forget what its classifiers would look at."""
        super().configure_models()
        # The FCN has one for each stage, and adds their logits.
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                if len(layer.weight) == self.num_outputs:
                    assert layer.bias is not None
                    nn.init.zeros_(layer.weight)
                    nn.init.zeros_(layer.bias)
                    self.bias = layer.bias
        self.register_buffer('counts', torch.zeros(self.num_outputs))

    def configure_optimizers(self) -> None:
        """Nothing is optimised."""

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        """Count the classes of a batch.

        Args:
            outputs: the loss, which is of no use.
            batch: has the labels of scenes, shape (B, L), or pixels, shape (B, H, W).
            batch_idx: index of the batch.
        """
        labels = self._target(batch)
        if self.hparams['task'] == 'multilabel':
            self.counts += labels.sum(dim=0)
        else:
            ignored = self.hparams['ignore_index']
            valid = labels.flatten() if ignored is None else labels[labels != ignored]
            self.counts += valid.bincount(minlength=len(self.counts))
        share = self.counts / self.counts.sum()
        self.bias.data.copy_(share.clamp(min=1e-6).log())


class Classification(Constant, LateFusionClassification):
    """Scenes of which each has the labels by their share."""


class Segmentation(Constant, LateFusionSegmentation):
    """Pixels that all are of the most frequent class."""
