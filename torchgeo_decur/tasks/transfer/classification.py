"""Scene classification from one or more modalities."""

from functools import partial

from torchmetrics import Metric
from torchmetrics.classification import MultilabelAveragePrecision

from .class_targets import ClassTargets
from .scenes import SceneTask


class LateFusionClassification(SceneTask, ClassTargets):
    """Scene classification with pretrained encoders, fine-tuned or frozen.

    The features of all modalities are concatenated, or fused by a pretrained fusion
    head, and one linear layer classifies them. Metrics have the same names as in
    TorchGeo's ``Classification`` and are computed over the whole split. In validation
    and test, a multi-label task also logs the average precision, as ``mAP_micro`` and
    ``mAP_macro``.

    There are four options for a missing modality. If it is absent in training, omit it
    from ``modalities``. If it is absent only at test time, set ``missing_modalities``.
    If only some samples lack it, add ``available_<m>``, shape (B,), boolean, to the
    batch. To make a model robust to missing modalities, set ``modality_dropout``.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        options: other arguments of :class:`~torchgeo_decur.tasks.ClassTargets`
            (``num_classes``, ...), :class:`~torchgeo_decur.tasks.SceneTask`
            (``fusion``, ...) and :class:`~torchgeo_decur.tasks.LateFusionTask`
            (``freeze_backbone``, ...).

    Raises:
        ValueError: if an option is invalid or options contradict each other.

    Example:
        >>> task = LateFusionClassification(
        ...     {'s1': 2, 's2': 13}, 'resnet18', task='multilabel', num_labels=19,
        ...     loss='soft_margin'
        ... )
        >>> import torch
        >>> task.eval()({'s2': torch.rand(4, 13, 64, 64)}).shape
        torch.Size([4, 19])
    """

    def configure_metrics(self) -> None:
        """Build TorchGeo's metrics and, for multi-label tasks, the average precision."""
        self.summary = ('OverallAccuracy', 'AverageAccuracy')
        if self.hparams['task'] == 'multilabel':
            self.summary = ('mAP_micro', 'mAP_macro')
        elif self.hparams['task'] == 'binary':
            self.summary = ('OverallAccuracy', 'OverallF1Score')
        super().configure_metrics()

    def _more_metrics(self) -> dict[str, Metric]:
        if self.hparams['task'] != 'multilabel':
            return {}
        average = partial(
            MultilabelAveragePrecision,
            self.hparams['num_labels'],
            ignore_index=self.hparams['ignore_index'],
            validate_args=False,
        )
        return {f'mAP_{kind}': average(average=kind) for kind in ('micro', 'macro')}
