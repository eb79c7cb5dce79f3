"""Losses, metrics and probabilities for class targets."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchgeo.datasets.utils import Sample
from torchgeo.tasks.mixins import ClassificationMixin
from torchmetrics import Metric

from ...models import ClassPredictions
from ...models.encoder import Weights
from .base import LateFusionTask
from .masked_loss import MaskedLoss, target_weights
from .target_guard import LabelGuard
from .training_targets import training_targets

_LOSSES = {
    'binary': ('bce', 'jaccard', 'focal', 'dice'),
    'multiclass': ('ce', 'jaccard', 'focal', 'dice'),
    'multilabel': ('soft_margin', 'bce', 'jaccard', 'focal', 'dice'),
}
_WITH_POS_WEIGHT = ('bce', 'soft_margin')


class ClassTargets(LateFusionTask, ClassificationMixin):
    """Base class of the transfer tasks with class targets and TorchGeo's metrics.

    Args:
        modalities: number of channels of each modality, by name.
        model: see the subclass.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        task: 'binary', 'multiclass' or 'multilabel'.
        num_classes: number of classes of a multiclass task.
        num_labels: number of labels of a multilabel task.
        loss: 'ce' (multiclass), 'soft_margin' (multilabel), 'bce' (binary and
            multilabel), 'jaccard', 'focal' or 'dice'.
        class_weights: weight of each class for the loss 'ce'.
        pos_weight: weight of the positive targets of each label, for 'bce' and
            'soft_margin'. 'balanced' divides the number of negative training targets by
            the number of positive targets. Checkpoints store the result.
        ignore_index: class that the loss and the metrics ignore. It must be None for
            'jaccard'.
        options: other arguments of :class:`~torchgeo_decur.tasks.LateFusionTask`.

    Raises:
        ValueError: if an option is invalid or options contradict each other.
    """

    architecture_hparams = (
        *LateFusionTask.architecture_hparams,
        'num_classes',
        'num_labels',
    )
    output_name = 'probabilities'

    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str],
        weights: Weights | dict[str, Weights] = None,
        *,
        task: Literal['binary', 'multiclass', 'multilabel'] = 'multiclass',
        num_classes: int | None = None,
        num_labels: int | None = None,
        loss: Literal['ce', 'bce', 'soft_margin', 'jaccard', 'focal', 'dice'] = 'ce',
        class_weights: list[float] | None = None,
        pos_weight: Literal['balanced'] | list[float] | None = None,
        ignore_index: int | None = None,
        **options: Any,
    ) -> None:
        """Initialize a new ClassTargets instance."""
        super().__init__(modalities, model, weights, **options)

    @property
    def num_outputs(self) -> int:
        """Number of logits per sample or pixel."""
        return self.hparams['num_classes'] or self.hparams['num_labels'] or 1

    def configure_models(self) -> None:
        """Check the options before a subclass builds the model.

        Raises:
            ValueError: if an option is invalid or options contradict each other.
        """
        options = self.hparams
        task, loss = options['task'], options['loss']
        if task not in _LOSSES:
            raise ValueError(f'task must be one of {list(_LOSSES)}, got {task!r}')
        if loss not in _LOSSES[task]:
            raise ValueError(
                f'loss must be one of {list(_LOSSES[task])} for task {task!r}, got {loss!r}'
            )
        if loss == 'jaccard' and options['ignore_index'] is not None:
            raise ValueError(
                "ignore_index must be None for loss 'jaccard', which includes all pixels, "
                f"got {options['ignore_index']}; use loss 'dice'"
            )
        required = {'multiclass': 'num_classes', 'multilabel': 'num_labels'}
        for kind, name in required.items():
            if (options[name] is not None) != (task == kind):
                raise ValueError(
                    f'{name} must be {"set" if task == kind else "None"} for a '
                    f'{task} task, got {options[name]}'
                )
        self._check_pos_weight(options['pos_weight'], loss)
        super().configure_models()

    def configure_losses(self) -> None:
        """Build the loss, a mean over known targets or one of TorchGeo's losses."""
        loss, multiclass = self.hparams['loss'], self.hparams['task'] == 'multiclass'
        index = self.hparams['ignore_index']
        number = self.hparams['num_classes'] if multiclass else 2
        self.guard = LabelGuard(number, index)
        if loss in ('jaccard', 'dice'):
            ClassificationMixin.configure_losses(self)
            return
        # The multi-label soft margin loss equals binary cross-entropy.
        weights = self.hparams['class_weights'] if loss == 'ce' else None
        gamma = 2.0 if loss == 'focal' else 0.0
        positive, given = None, self.hparams['pos_weight']
        balanced = given == 'balanced'
        if given is not None:
            # The weights are zeros until a fit computes them.
            numbers = [0.0] * self.num_outputs if balanced else given
            positive = torch.tensor(numbers).float()
        # Balanced weights depend on the training labels, so checkpoints store them.
        self.criterion = MaskedLoss(
            multiclass, index, weights, gamma, positive, persistent=balanced
        )

    def on_fit_start(self) -> None:
        """Compute ``pos_weight`` from the training labels if it is 'balanced'.

        Raises:
            ValueError: if a label has only positive or only negative targets.
        """
        super().on_fit_start()
        if self.hparams['pos_weight'] != 'balanced':
            return
        weight = cast(Tensor, self.criterion.pos_weight)
        # A resumed fit keeps the weights of its checkpoint.
        if not weight.any():
            weight.copy_(self._balanced())

    def _balanced(self) -> Tensor:
        """Compute the ratio of negative to positive training targets for each label."""
        counts = torch.zeros(2, self.num_outputs, dtype=torch.long)
        number, index = 0, self.hparams['ignore_index']
        for batch in training_targets(
            self.trainer, self.hparams['label_key'], "pos_weight 'balanced'"
        ):
            y = self._target({self.hparams['label_key']: batch})
            number += len(y)
            y = self._by_label(y)
            known = torch.ones_like(y) if index is None else (y != index).long()
            counts += torch.stack([(known * (y == value)).sum(0) for value in (0, 1)])
        if not counts.all():
            names = self.hparams['labels'] or range(self.num_outputs)
            lost = [n for n, c in zip(names, counts.T, strict=True) if not c.all()]
            raise ValueError(
                f"pos_weight 'balanced' needs positive and negative targets for every "
                f'label, found only one kind for {lost} in {number} training samples; '
                'set pos_weight to a list, or train with more labeled samples'
            )
        weight = counts[0] / counts[1]
        rank_zero_info(
            f'pos_weight from {number} training samples: '
            f'{[float(f"{w:.4g}") for w in weight.tolist()]}'
        )
        return weight

    def _by_label(self, y: Tensor) -> Tensor:
        """Reshape targets to one column per label, shape (N, L)."""
        if self.hparams['task'] == 'multilabel':
            return y.movedim(1, -1).reshape(-1, self.num_outputs)
        return y.reshape(-1, 1)

    def _check_pos_weight(
        self, weight: str | Sequence[float] | None, loss: str
    ) -> None:
        if weight is None:
            return
        if loss not in _WITH_POS_WEIGHT:
            raise ValueError(
                f'pos_weight must be None for loss {loss!r}, got {weight!r}; use one '
                f'of the losses {list(_WITH_POS_WEIGHT)}'
            )
        if weight == 'balanced':
            return
        if isinstance(weight, str) or len(weight) != self.num_outputs:
            raise ValueError(
                f"pos_weight must be 'balanced' or a list of {self.num_outputs} numbers, "
                f'one per label, got {weight!r}'
            )
        if not min(weight) > 0:
            raise ValueError(f'pos_weight must be positive, got {weight}')

    def _metrics(self) -> tuple[dict[str, Metric], dict[str, Metric]]:
        ClassificationMixin.configure_metrics(self)
        # Validating the labels in every step would synchronize with the device.
        for metric in self.train_metrics.modules():
            if hasattr(metric, 'validate_args'):
                metric.validate_args = False  # type: ignore[assignment]
        return dict(self.train_metrics.items(keep_base=True)), self._more_metrics()

    def _more_metrics(self) -> dict[str, Metric]:
        """Return the validation and test metrics that TorchGeo lacks."""
        return {}

    def _target(self, batch: Sample) -> Tensor:
        target = self._stored_target(batch)
        # TorchGeo keeps the channel dimension of single-band rasters.
        return (target.squeeze(1) if target.ndim == 4 else target).long()

    def _decode(self, *args: Any) -> Tensor:
        return super()._decode(*args).squeeze(1)

    def _weight(self, y: Tensor) -> Tensor:
        weights = getattr(self.criterion, 'class_weights', None)
        return target_weights(y, self.hparams['ignore_index'], weights).sum()

    def _shown(self, y_hat: Tensor) -> Tensor:
        if self.hparams['task'] == 'multiclass':
            return y_hat.argmax(1)
        return (y_hat >= 0).long()

    def predictions(self) -> ClassPredictions:
        """Return a module that computes probabilities and classes."""
        return ClassPredictions(self.hparams['task'])
