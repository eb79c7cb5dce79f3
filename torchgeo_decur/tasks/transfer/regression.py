"""Regression per scene or per pixel from one or more modalities."""

from .maps import MapTask
from .number_targets import NumberTargets
from .scenes import SceneTask


class LateFusionRegression(SceneTask, NumberTargets):
    """Regression of scene values, such as biomass, with pretrained encoders.

    The encoders are fine-tuned or frozen. The features of all modalities are
    concatenated, or fused by a pretrained fusion head, and one linear layer predicts the
    values. Options, metrics and losses have the same names as in TorchGeo's
    ``Regression``. For missing modalities, see
    :class:`~torchgeo_decur.tasks.LateFusionClassification`.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        options: other arguments of :class:`~torchgeo_decur.tasks.NumberTargets`
            (``num_outputs``, ...), :class:`~torchgeo_decur.tasks.SceneTask`
            (``fusion``, ...) and :class:`~torchgeo_decur.tasks.LateFusionTask`
            (``freeze_backbone``, ...).

    Raises:
        ValueError: if an option is invalid or options contradict each other.

    Example:
        >>> task = LateFusionRegression({'s1': 2, 's2': 13}, 'resnet18', num_outputs=2)
        >>> import torch
        >>> task.eval()({'s2': torch.rand(4, 13, 64, 64)}).shape
        torch.Size([4, 2])
    """


class LateFusionPixelwiseRegression(MapTask, NumberTargets):
    """Regression of pixel values, such as tree height, with pretrained encoders.

    The feature pyramids of all modalities are concatenated level by level, and a
    decoder predicts the values of each pixel. Options, metrics and losses have the same
    names as in TorchGeo's ``PixelwiseRegression``. For missing modalities, see
    :class:`~torchgeo_decur.tasks.LateFusionClassification`.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of the decoder; see :class:`~torchgeo_decur.tasks.MapTask`.
        backbone: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        options: other arguments of :class:`~torchgeo_decur.tasks.NumberTargets`
            (``num_outputs``, ...), :class:`~torchgeo_decur.tasks.MapTask`
            (``grid``, ...) and :class:`~torchgeo_decur.tasks.LateFusionTask`
            (``freeze_backbone``, ...).

    Raises:
        ValueError: if an option is invalid or options contradict each other.

    Example:
        >>> task = LateFusionPixelwiseRegression({'s1': 2, 's2': 13}, 'fcn', 'resnet18')
        >>> import torch
        >>> task.eval()({'s2': torch.rand(2, 13, 50, 50)}).shape
        torch.Size([2, 1, 50, 50])
    """

    architecture_hparams = (*NumberTargets.architecture_hparams, 'backbone')
