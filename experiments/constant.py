"""Tasks that predict the class frequencies of the training labels, for tables/constant_*.yaml."""

from typing import Any

import torch
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample

from torchgeo_decur.tasks import LateFusionClassification, LateFusionSegmentation
from torchgeo_decur.tasks.transfer.base import LateFusionTask


class Constant(LateFusionTask):
    """Base class of tasks that predict the frequency of each class in the training labels."""

    counts: Tensor

    def configure_models(self) -> None:
        """Build the model, with zero weights in its classification layers."""
        super().configure_models()
        # The FCN has one classification layer per stage, and sums their logits.
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                if len(layer.weight) == self.num_outputs:
                    assert layer.bias is not None
                    nn.init.zeros_(layer.weight)
                    nn.init.zeros_(layer.bias)
                    self.bias = layer.bias
        self.register_buffer('counts', torch.zeros(self.num_outputs))

    def configure_optimizers(self) -> None:
        """Return no optimizer, because nothing is optimized."""

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        """Count the classes of a batch and set the biases to their log frequencies."""
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
    """Classification task that predicts the frequency of each label."""


class Segmentation(Constant, LateFusionSegmentation):
    """Segmentation task that predicts the most frequent class."""
