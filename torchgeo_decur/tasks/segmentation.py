"""Semantic segmentation from one or more modalities."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torchgeo.datasets.utils import Sample

from ..models import CMXSegmenter, LateFusionSegmenter, Segmenter
from ..models.decoders import Decoder
from ..models.encoder import Weights
from .late_fusion import LateFusionTask


class LateFusionSegmentation(LateFusionTask):
    """Fine-tune pretrained encoders, or train a decoder on them, for maps of classes.

    The feature pyramids of every modality are concatenated level by level, and a decoder
    segments them. Metrics have the names of TorchGeo's ``SemanticSegmentation``;
    ``AverageJaccardIndex`` is the mean intersection over union (mIoU) over the classes
    but ``ignore_index``. All are computed over the whole split.

    A modality may be missing as in
    :class:`~torchgeo_decur.tasks.LateFusionClassification`.

    Args:
        modalities: number of channels of each modality, by name; all on one grid.
        model: the decoder: 'fcn' as in DeCUR's experiments, or 'unet', 'deeplabv3+',
            'upernet', 'segformer' or 'fpn' of segmentation-models-pytorch; or 'cmx',
            which lets two modalities meet after every stage, see
            :class:`~torchgeo_decur.models.CMXSegmenter`.
        backbone: name of a timm model, one for all modalities or one for each.
        weights: start of the encoders, see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.
        bands: names of the bands of the images, by modality, such as ``{s2: [B2, B3, B4,
            B8]}``: the first convolution of weights that name theirs is adapted.
        task: 'binary', 'multiclass' or 'multilabel'.
        num_classes: number of classes of a multiclass task.
        num_labels: number of labels of a multilabel task.
        labels: names of the classes, for the metrics of each.
        loss: 'ce' (multiclass), 'soft_margin' (multilabel), 'bce' (binary and
            multilabel), 'jaccard', 'focal' or 'dice'.
        class_weights: weight of each class in 'ce'.
        ignore_index: class that counts neither in the loss nor in the metrics; not with
            'jaccard'.
        label_key: key of the batch that has the maps, shape (B, H, W) or (B, 1, H, W).
        crop_scale: range of the share of the area that random crops of training images
            keep, such as [0.8, 1.0]; flips come with them, and all modalities
            and the map of a sample are moved as one. By default nothing is augmented.
        vertical_flip: whether the flips are vertical too; not for photographs of rooms
            and streets, which have an upright.
        freeze_backbone: train the decoder alone: encoders get no gradient, and their
            normalisation layers keep their statistics.
        missing: modalities that validation, test and prediction do without.
        modality_dropout: in training, probability that a modality of a sample is left
            out; at least one always stays.
        test_subsets: whether the test also scores every subset of the modalities, and
            prints a table of them.
        optimizer: 'adamw' or 'sgd' with momentum 0.9.
        lr: learning rate.
        lr_backbone: learning rate of the encoders, by default ``lr``.
        layer_decay: rate of each layer of an encoder relative to that of the layer after
            it, in (0, 1]; the last one learns at ``lr_backbone``. By default all do.
        weight_decay: weight decay of all parameters.
        schedule: 'step' divides the rates by 10 after 60 and after 80 % of the epochs,
            'cosine' lets them fall to 0, 'constant' keeps them.

    Raises:
        ValueError: if options contradict each other.

    Example:
        >>> task = LateFusionSegmentation(
        ...     {'rgb': 3, 'dem': 1}, 'fcn', 'resnet18', num_classes=11, ignore_index=0
        ... )
        >>> import torch
        >>> task.eval()({'rgb': torch.rand(2, 3, 50, 50)}).shape
        torch.Size([2, 11, 50, 50])
    """

    shape = (*LateFusionTask.shape, 'backbone')
    model: Segmenter
    summary = ('AverageJaccardIndex', 'OverallAccuracy')

    def __init__(
        self,
        modalities: dict[str, int],
        model: Decoder | Literal['cmx'] = 'fcn',
        backbone: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        bands: dict[str, list[str]] | None = None,
        task: Literal['binary', 'multiclass', 'multilabel'] = 'multiclass',
        num_classes: int | None = None,
        num_labels: int | None = None,
        labels: list[str] | None = None,
        loss: Literal['ce', 'bce', 'soft_margin', 'jaccard', 'focal', 'dice'] = 'ce',
        class_weights: list[float] | None = None,
        ignore_index: int | None = None,
        label_key: str = 'mask',
        crop_scale: Sequence[float] | None = None,
        vertical_flip: bool = True,
        freeze_backbone: bool = False,
        missing: Sequence[str] = (),
        modality_dropout: float = 0.0,
        test_subsets: bool = False,
        optimizer: Literal['adamw', 'sgd'] = 'adamw',
        lr: float = 1e-4,
        lr_backbone: float | None = None,
        layer_decay: float | None = None,
        weight_decay: float = 0.01,
        schedule: Literal['constant', 'step', 'cosine'] = 'constant',
    ) -> None:
        """Initialize a new LateFusionSegmentation instance."""
        self.weights = weights
        self.missing = missing
        self.test_subsets = test_subsets
        super().__init__()

    def configure_models(self) -> None:
        """Build the encoders and the decoder."""
        self._check()
        names = ('modalities', 'backbone', 'bands', 'freeze_backbone')
        options = {name: self.hparams[name] for name in (*names, 'modality_dropout')}
        options |= {'weights': self.weights, 'num_classes': self.num_outputs}
        if self.hparams['model'] == 'cmx':
            self.model = CMXSegmenter(**options)
        else:
            self.model = LateFusionSegmenter(model=self.hparams['model'], **options)

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Compute the probabilities of the classes of each pixel.

        Args:
            batch: images in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.

        Returns:
            ``probabilities``, shape (B, ``num_classes``, H, W), and the ``bounds`` and
            ``transform`` of the batch, shape (B, 9) as TorchGeo has them, for writing
            georeferenced files; None where the data have no place.
        """
        probabilities: Tensor = self._probabilities(batch)
        return {
            'probabilities': probabilities,
            'bounds': batch.get('bounds'),
            'transform': batch.get('transform'),
        }
