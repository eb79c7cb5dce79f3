"""Semantic segmentation from one or more modalities."""

from .class_targets import ClassTargets
from .maps import MapTask


class LateFusionSegmentation(MapTask, ClassTargets):
    """Semantic segmentation with pretrained encoders, fine-tuned or frozen.

    The feature pyramids of all modalities are concatenated level by level, and a
    decoder predicts the class of each pixel. Metrics have the same names as in
    TorchGeo's ``SemanticSegmentation`` and are computed over the whole split.
    ``AverageJaccardIndex`` is the mean intersection over union (mIoU) of all classes
    except ``ignore_index``.

    For missing modalities, see :class:`~torchgeo_decur.tasks.LateFusionClassification`.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of the decoder; see :class:`~torchgeo_decur.tasks.MapTask`.
        backbone: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        options: other arguments of :class:`~torchgeo_decur.tasks.ClassTargets`
            (``num_classes``, ...), :class:`~torchgeo_decur.tasks.MapTask`
            (``grid``, ...) and :class:`~torchgeo_decur.tasks.LateFusionTask`
            (``freeze_backbone``, ...).

    Raises:
        ValueError: if an option is invalid or options contradict each other.

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
