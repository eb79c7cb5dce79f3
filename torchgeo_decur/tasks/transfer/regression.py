"""Regression of scenes and of pixels from one or more modalities."""

from .maps import MapTask
from .number_targets import NumberTargets
from .scenes import SceneTask


class LateFusionRegression(SceneTask, NumberTargets):
    """Fine-tune or probe pretrained encoders to predict numbers of scenes, such as biomass.

    Features of all modalities are concatenated, or fused by a pretrained fusion head,
    and one linear layer predicts the numbers. Options, metrics and losses have the names
    of TorchGeo's ``Regression``. For missing modalities see
    :class:`~torchgeo_decur.tasks.LateFusionClassification`.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of a timm model, one for all modalities or one for each.
        weights: initial weights, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        options: of :class:`~torchgeo_decur.tasks.NumberTargets`: ``num_outputs``,
            ``loss``, ``standardize_targets`` and ``nodata``; of
            :class:`~torchgeo_decur.tasks.SceneTask`: ``fusion``, ``size`` and
            ``cache_features``; and of :class:`~torchgeo_decur.tasks.LateFusionTask`:
            ``freeze_backbone``, ``missing_modalities``, ...

    Raises:
        ValueError: if options contradict each other.

    Example:
        >>> task = LateFusionRegression({'s1': 2, 's2': 13}, 'resnet18', num_outputs=2)
        >>> import torch
        >>> task.eval()({'s2': torch.rand(4, 13, 64, 64)}).shape
        torch.Size([4, 2])
    """


class LateFusionPixelwiseRegression(MapTask, NumberTargets):
    """Fine-tune pretrained encoders to predict a number per pixel, such as tree height.

    The feature pyramids of all modalities are concatenated level by level, and a decoder
    predicts the numbers of each pixel. Options, metrics and losses have the names of
    TorchGeo's ``PixelwiseRegression``. For missing modalities see
    :class:`~torchgeo_decur.tasks.LateFusionClassification`.

    Args:
        modalities: number of channels of each modality, by name.
        model: the decoder, see :class:`~torchgeo_decur.tasks.MapTask`.
        backbone: name of a timm model, one for all modalities or one for each.
        weights: initial weights, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        options: of :class:`~torchgeo_decur.tasks.NumberTargets`: ``num_outputs``,
            ``loss``, ``standardize_targets`` and ``nodata``; of
            :class:`~torchgeo_decur.tasks.MapTask`: ``grid``, ...; and of
            :class:`~torchgeo_decur.tasks.LateFusionTask`: ``freeze_backbone``,
            ``missing_modalities``, ...

    Raises:
        ValueError: if options contradict each other.

    Example:
        >>> task = LateFusionPixelwiseRegression({'s1': 2, 's2': 13}, 'fcn', 'resnet18')
        >>> import torch
        >>> task.eval()({'s2': torch.rand(2, 13, 50, 50)}).shape
        torch.Size([2, 1, 50, 50])
    """

    architecture_hparams = (*NumberTargets.architecture_hparams, 'backbone')
