"""Base class of the transfer tasks."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, takewhile
from typing import Any, Literal, cast

import matplotlib.pyplot as plt
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchgeo.datamodules import BaseDataModule
from torchgeo.datasets.utils import Sample
from torchmetrics import Metric, MetricCollection

from ...deprecation import renamed_arguments
from ...modalities import get_available, per_modality, select_date, split
from ...models import LateFusion, WholeModel
from ...models.encoder import Weights
from ...transforms import PairedCrop
from ..base import CheckedTask
from ..optimizers import EpochShare, build_transfer_optimizer, reset_lr_schedule
from .modality_subsets import SubsetMetrics, collect
from .target_guard import TargetGuard

# Number of validation batches per epoch for which a figure is logged.
_MAX_FIGURES = 10


class LateFusionTask(CheckedTask):
    """Base class of the transfer tasks: training loop, missing modalities and optimizers.

    A task has two base classes. :class:`ClassTargets` or :class:`NumberTargets` defines
    loss, metrics and predictions. :class:`SceneTask` or :class:`MapTask` builds
    ``self.model``, a :class:`~torchgeo_decur.models.LateFusion`. Metrics are computed
    over all predictions of a split, not averaged over batches.

    Args:
        modalities: number of channels of each modality, by name.
        model: see the subclass.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        bands: names of the image bands, by modality, such as
            ``{s2: [B2, B3, B4, B8]}``. If the weights name their bands, the first
            convolution is adapted to the image bands.
        labels: names of the classes or outputs, used to name their metrics.
        label_key: key of the target in the batch.
        crop_scale: range of the area of random training crops as a fraction of the
            image, such as [0.8, 1.0]. Random flips follow. All modalities and the mask
            of a sample get the same crop and flips. By default, there is no
            augmentation.
        freeze_backbone: whether to freeze the encoders, including the statistics of
            their normalization layers.
        missing_modalities: modalities to omit in validation, test and prediction.
        modality_dropout: probability of dropping a modality of a training sample. At
            least one modality is kept.
        test_modality_subsets: whether the test also prints the scores for every subset
            of the modalities.
        optimizer: 'adamw', or 'sgd' with momentum 0.9.
        lr: learning rate.
        lr_backbone: learning rate of the encoders, by default ``lr``.
        layer_decay: factor in (0, 1] by which the learning rate decreases from each
            encoder layer to the layer before it; the last layer uses ``lr_backbone``.
            By default, all layers use the same rate.
        weight_decay: weight decay of all parameters.
        lr_schedule: learning rate schedule: 'constant', 'cosine' decay to 0, or 'step',
            which divides the rates by 10 after 60 % and after 80 % of the epochs.
        grad_checkpointing: whether the backward pass recomputes the activations of the
            encoders. This saves memory at the cost of one more forward pass, without
            changing loss or gradient.

    Raises:
        ValueError: if an option is invalid or options contradict each other.
    """

    architecture_hparams: tuple[str, ...] = ('modalities', 'model')
    model: LateFusion
    criterion: nn.Module
    #: Names of the metrics in the table of modality subsets.
    summary: tuple[str, ...] = ()
    #: Name of the predictions in the output of ``predict_step``.
    output_name: str
    #: Whether the table shows its metrics in percent.
    percent: bool = True
    #: Check that records and replaces invalid targets.
    guard: TargetGuard
    train_metrics: MetricCollection
    val_metrics: MetricCollection
    test_metrics: MetricCollection

    @renamed_arguments(
        missing='missing_modalities',
        test_subsets='test_modality_subsets',
        schedule='lr_schedule',
    )
    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str],
        weights: Weights | dict[str, Weights] = None,
        *,
        bands: dict[str, list[str]] | None = None,
        labels: list[str] | None = None,
        label_key: str = 'label',
        crop_scale: Sequence[float] | None = None,
        freeze_backbone: bool = False,
        missing_modalities: Sequence[str] = (),
        modality_dropout: float = 0.0,
        test_modality_subsets: bool = False,
        optimizer: Literal['adamw', 'sgd'] = 'adamw',
        lr: float = 1e-3,
        lr_backbone: float | None = None,
        layer_decay: float | None = None,
        weight_decay: float = 0.0,
        lr_schedule: Literal['constant', 'step', 'cosine'] = 'constant',
        grad_checkpointing: bool = False,
    ) -> None:
        """Initialize a new LateFusionTask instance."""
        self.weights = weights
        super().__init__()
        if grad_checkpointing:
            self.set_grad_checkpointing()

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Number of model outputs per sample or pixel."""

    @abstractmethod
    def predictions(self) -> nn.Module:
        """Return a module that converts model outputs to named predictions."""

    def whole_model(self) -> WholeModel:
        """Return the model with its predictions, for example for ``save_onnx``.

        Returns:
            Model with the inputs of all modalities except ``missing_modalities``.
        """
        sizes = {m: size for m, size in self._sizes().items() if size}
        return WholeModel(self.model, self.predictions(), self._present(), sizes)

    def configure_models(self) -> None:
        """Check the options before a subclass builds the model.

        Raises:
            ValueError: if an option is invalid or options contradict each other.
        """
        known = list(self.hparams['modalities'])
        missing = self.hparams['missing_modalities']
        if not set(missing) < set(known):
            raise ValueError(
                f'missing_modalities must name some but not all of {known}, '
                f'got {list(missing)}; keep at least one of these modalities'
            )

    def configure_metrics(self) -> None:
        """Build the metrics of each split and of each modality subset."""
        base, more = self._metrics()
        every = {**base, **more}
        self.train_metrics = collect(base, 'train')
        self.val_metrics = collect(every, 'val')
        self.test_metrics = collect(every, 'test')
        chosen = {name: every[name] for name in self.summary}
        present = self._present() if self.hparams['test_modality_subsets'] else []
        self.subset_metrics = SubsetMetrics(chosen, present, self.percent)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build an optimizer and a schedule for all parameters that are not frozen.

        Returns:
            The optimizer, and a scheduler with one step per epoch.
        """
        schedule = self._schedule()
        return {'optimizer': schedule.optimizer, 'lr_scheduler': schedule}

    def on_fit_start(self) -> None:
        """Hide Lightning's warning about modules in eval mode for frozen encoders."""
        if self.hparams['freeze_backbone']:
            warnings.filterwarnings('ignore', r'Found \d+ module\(s\) in eval mode')

    def on_train_start(self) -> None:
        """Set the learning rates to the options of this run, not of its checkpoint."""
        schedule = self.lr_schedulers()
        if isinstance(schedule, EpochShare):
            reset_lr_schedule(schedule, self._schedule().optimizer)

    def forward(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Compute the outputs of the model.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).
            available: whether each sample has a modality, shape (B,), boolean, by
                modality.

        Returns:
            Logits of classes, or predicted values.
        """
        logits: Tensor = self.model(images, available)
        return logits

    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the loss and update the metrics for a training batch."""
        batch = self._augment(batch)
        y = self._checked_target(batch)
        with _explain_single_sample(len(y)):
            features, size = self._encode(batch, 'train')
            y_hat = self._decode(features, size, batch)
        loss = self._loss(y_hat, y)
        self._update(self.train_metrics, y_hat.detach(), y)
        if self._should_log(batch_idx):
            self.guard.check(self.hparams['label_key'])
            # A batch without known targets has no meaningful loss.
            if self._weight(y) > 0:
                shown = loss.detach().cpu()
                self.log('train_loss', shown, batch_size=len(y), prog_bar=True)
        return loss

    def validation_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compute the loss and metrics of a validation batch."""
        features, size = self._encode(batch, 'val')
        y_hat = self._decode(features, size, batch)
        y = self._evaluate(batch, batch_idx, y_hat, 'val_loss')
        self._update(self.val_metrics, y_hat, y)
        if batch_idx < _MAX_FIGURES:
            self._draw(batch, y_hat, batch_idx)

    def test_step(self, batch: Sample, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Compute the loss of a test batch and the metrics of all modality subsets.

        The encoders run once for all subsets.
        """
        features, size = self._encode(batch, 'test')
        y_hat = self._decode(features, size, batch)
        y = self._evaluate(batch, batch_idx, y_hat, 'test_loss')
        self._update(self.test_metrics, y_hat, y)
        for names, metrics in self.subset_metrics.items():
            some = {m: features[m] for m in names}
            self._update(metrics, self._decode(some, size, batch), y)

    def on_train_epoch_end(self) -> None:
        """Log the training metrics."""
        self._log_metrics(self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        """Check the recorded targets and log the validation metrics."""
        self.guard.check(self.hparams['label_key'])
        self._log_metrics(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics and, if requested, print a table of modality subsets."""
        self.guard.check(self.hparams['label_key'])
        if values := self.subset_metrics.compute():
            self.log_dict(values)
            whole = self.test_metrics.compute()
            rank_zero_info(self.subset_metrics.table({**values, **whole}))
        self._log_metrics(self.test_metrics)

    @abstractmethod
    def _metrics(self) -> tuple[dict[str, Metric], dict[str, Metric]]:
        """Return the metrics of all splits and more metrics for validation and test."""

    @abstractmethod
    def _target(self, batch: Sample) -> Tensor:
        """Return the unchecked targets of a batch."""

    @abstractmethod
    def _weight(self, y: Tensor) -> Tensor:
        """Return the weight of a batch in the mean loss of a split."""

    @abstractmethod
    def _shown(self, y_hat: Tensor) -> Tensor:
        """Convert model outputs to predictions for a figure."""

    def _outputs(self, batch: Sample) -> Tensor:
        """Compute the predictions of a batch, as returned to the user."""
        outputs = self.model.decode(*self._encode(batch, 'predict'))
        found: Tensor = self.predictions()(outputs)[self.output_name]
        return found

    def _checked_target(self, batch: Sample) -> Tensor:
        return self.guard.replace(self._target(batch))

    def _decode(
        self,
        features: Mapping[str, Sequence[Tensor]],
        size: Sequence[int],
        batch: Sample,
    ) -> Tensor:
        """Decode features to outputs with the shape of the targets."""
        outputs: Tensor = self.model.decode(features, size)
        return outputs

    def _update(self, metrics: MetricCollection, y_hat: Tensor, y: Tensor) -> None:
        metrics.update(y_hat, y)

    def _log_metrics(self, metrics: MetricCollection) -> None:
        self.log_dict(metrics.compute())
        metrics.reset()

    def _schedule(self) -> EpochShare:
        names = ('optimizer', 'lr', 'lr_backbone', 'layer_decay', 'weight_decay')
        options = {name: self.hparams[name] for name in (*names, 'lr_schedule')}
        return build_transfer_optimizer(
            self.model,
            **options,
            epochs=self.trainer.max_epochs,
            fused=self._can_fuse_optimizer(),
        )[1]

    def _present(self) -> list[str]:
        missing = self.hparams['missing_modalities']
        return [m for m in self.hparams['modalities'] if m not in missing]

    def _encode(
        self, batch: Sample, stage: str, first_date: bool = False
    ) -> tuple[dict[str, list[Tensor]], Sequence[int]]:
        """Return the features of each modality and the size that the decoder needs."""
        modalities: dict[str, int] = self.hparams['modalities']
        wanted = list(modalities) if stage == 'train' else self._present()
        stacked = 'image' in batch and not any(f'image_{m}' in batch for m in wanted)
        # Datamodules leave these small masks on the CPU.
        available = {
            m: x.to(self.device, non_blocking=self.device.type == 'cuda')
            for m, x in get_available(batch, wanted).items()
        }
        cached = {
            m: [batch[k] for k in takewhile(batch.__contains__, _cached(m))]
            for m in wanted
            if f'features_{m}_0' in batch
        }
        if cached:
            return self.model.mask(cached, available), ()
        found = split(
            batch, {m: modalities[m] for m in modalities if stacked or m in wanted}
        )
        date = None if stage == 'train' and not first_date else 0
        images = {m: select_date(found[m], date) for m in wanted}
        sizes = self._sizes()
        images = {m: _resize(x, sizes[m]) for m, x in images.items()}
        return self._run_encoders(images, available, batch)

    def _run_encoders(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor],
        batch: Sample,
    ) -> tuple[dict[str, list[Tensor]], Sequence[int]]:
        """Compute the features of each modality and the size that the decoder needs."""
        return self.model.encode(images, available), ()

    def _augment(self, batch: Sample) -> Sample:
        """Crop and flip the images and the mask if ``crop_scale`` is set."""
        keys = [f'image_{m}' for m in self.hparams['modalities']]
        found = [k for k in [*keys, 'image'] if k in batch]
        if self.hparams['crop_scale'] is None or not found:
            return batch
        sizes = {f'image_{m}': size for m, size in self._sizes().items()}
        sizes['image'] = next(iter(sizes.values()))
        crop = PairedCrop(
            {k: sizes[k] for k in found},
            self.hparams['crop_scale'],
            vflip=0.5 if self.hparams.get('vertical_flip', True) else 0.0,
        )
        key = self.hparams['label_key']
        target = self._target(batch)
        with torch.autocast(self.device.type, enabled=False):
            images, mask = crop(
                {k: select_date(batch[k]) for k in found},
                target if target.ndim > 2 else None,
            )
        moved = {**batch, **images}
        return moved if mask is None else {**moved, key: mask}

    def _sizes(self) -> dict[str, int | None]:
        """Return the size to which the images of each modality are resized, if any."""
        # A mapping may omit modalities, which then keep their size.
        modalities, size = self.hparams['modalities'], self.hparams.get('size')
        return per_modality('size', size, modalities, default=0)

    def _stored_target(self, batch: Sample) -> Tensor:
        key = self.hparams['label_key']
        if key not in batch:
            raise ValueError(
                f'batch must have the target {key!r}, got only '
                f'{sorted(map(str, batch))}; set label_key to the key of the target'
            )
        target: Tensor = batch[key]
        return target

    def _loss(self, y_hat: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self.criterion(y_hat, y)
        return loss

    def _evaluate(
        self, batch: Sample, batch_idx: int, y_hat: Tensor, name: str
    ) -> Tensor:
        """Log the loss over known targets and return the targets."""
        y = self._checked_target(batch)
        if batch_idx == 0 or self.device.type == 'cpu':
            self.guard.check(self.hparams['label_key'])
        # Lightning also accepts a tensor as weight, which avoids synchronization.
        weight = cast(int, self._weight(y))
        self.log(name, self._loss(y_hat, y), batch_size=weight, sync_dist=True)
        return y

    def _draw(self, batch: Sample, y_hat: Tensor, number: int) -> None:
        """Log a figure of the first sample in a batch if the logger accepts figures."""
        experiment = getattr(self.logger, 'experiment', None)
        datamodule = getattr(self.trainer, 'datamodule', None)
        if not hasattr(experiment, 'add_figure') or not isinstance(
            datamodule, BaseDataModule
        ):
            return
        prediction = self._shown(y_hat[:1])
        sample = {str(k): v[0].cpu() for k, v in batch.items() if isinstance(v, Tensor)}
        figure = datamodule.plot({**sample, 'prediction': prediction[0].cpu()})
        if figure is not None:
            cast(Any, experiment).add_figure(
                f'image/{number}', figure, global_step=self.global_step
            )
            plt.close(figure)


@contextmanager
def _explain_single_sample(size: int) -> Iterator[None]:
    """Explain the error that BatchNorm raises for a training batch with one sample."""
    try:
        yield
    except ValueError as error:
        if size > 1:
            raise
        raise ValueError(
            'a training batch must have at least two samples for a model with BatchNorm, '
            f'got {size}; drop the last, smaller batch (drop_last=True), or change '
            'batch_size'
        ) from error


def _cached(modality: str) -> Iterator[str]:
    """Yield the keys of a modality's cached features, level by level."""
    return (f'features_{modality}_{level}' for level in count())


def _resize(x: Tensor, size: int | None) -> Tensor:
    if not size or x.shape[-2:] == (size, size):
        return x
    return interpolate(x, size=(size, size), mode='bilinear', antialias=True)
