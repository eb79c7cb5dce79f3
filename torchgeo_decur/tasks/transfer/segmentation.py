"""Semantic segmentation from one or more modalities."""

from .class_targets import ClassTargets
from .maps import MapTask


class LateFusionSegmentation(MapTask, ClassTargets):
    """Fine-tune or probe pretrained encoders for semantic segmentation.

    A decoder segments the feature pyramids of all modalities, concatenated level by
    level. Metrics have the names of TorchGeo's ``SemanticSegmentation`` and are computed
    over the whole split. ``AverageJaccardIndex`` is the mean intersection over union
    (mIoU) of all classes except ``ignore_index``.

    For missing modalities see :class:`~torchgeo_decur.tasks.LateFusionClassification`.

    Args:
        modalities: number of channels of each modality, by name.
        model: the decoder, see :class:`~torchgeo_decur.tasks.MapTask`.
        backbone: name of a timm model, one for all modalities or one for each.
        weights: initial weights, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        options: of :class:`~torchgeo_decur.tasks.ClassTargets`: ``task``,
            ``num_classes``, ``loss``, ``ignore_index``, ...; of
            :class:`~torchgeo_decur.tasks.MapTask`: ``grid``, ``vertical_flip``, ...; and of
            :class:`~torchgeo_decur.tasks.LateFusionTask`: ``freeze_backbone``,
            ``missing_modalities``, ...

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

    architecture_hparams = (*ClassTargets.architecture_hparams, 'backbone')
    summary = ('AverageJaccardIndex', 'OverallAccuracy')
