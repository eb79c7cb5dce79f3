"""The one self-supervised training step that all objectives share."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample

from ..deprecation import renamed_arguments
from ..losses import display_names
from ..losses.functional import effective_rank, feature_std, standardize
from ..modalities import per_modality, pick_date, split
from ..models import MultimodalEncoder, build_projectors
from ..models.encoder import Weights
from ..transforms import Augmentation, default_augmentations
from .base import FiniteGuard, ResumableTask
from .distributed import gather_embeddings
from .gradient_cache import apply_in_micro_batches
from .optimizers import WarmupCosine, build_optimizer, reset_lr_schedule, warmup_steps

NUM_VIEWS = 2  #: Views of each modality in a step.


class MultimodalPretraining(ResumableTask):
    """Base of the self-supervised tasks: encoders, projectors and the training step.

    A subclass sets ``self.criterion`` in ``configure_losses``. In each step every
    modality is seen in two views, each with its own random date and augmentation; all
    embeddings are gathered from all devices, with gradient, and the criterion computes
    the loss as on one device. Random draws of a step depend on the seed of the run, the
    epoch, the batch and the device alone, so a resumed fit repeats none and misses none.

    Logged: the loss and its parts (``train_loss``, ``train_<part>``) in the steps that
    loggers get, and on the validation split (``val_loss``, ``val_<part>``); the learning
    rate; and at the end of each epoch, from its last batch, the signs of collapse
    ``std_<m>`` (1 when features spread over all directions, 0 when all are one) and
    ``rank_<m>`` (effective rank of the embeddings), and the cross-modal ``alignment_*``
    (mean correlation of a dimension with itself in the other modality).

    Args:
        modalities: number of channels of each modality, by name.
        model: name of a timm model, one for all modalities or one for each.
        weights: start of the encoders, see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: width of each layer of the projectors; the last is the number of
            dimensions D of the embeddings. Without a layer, features are embeddings.
        size: height and width in pixels of the views of the default augmentations.
        augmentations: augmentation of a modality, on images in [0, 1]; where none is
            given, that of :data:`~torchgeo_decur.transforms.PRESETS`.
        optimizer: 'adamw' or 'lars'. By default 'lars' for a plain ResNet, as Barlow
            Twins, and 'adamw' for others.
        lr: learning rate; by default 1e-4 for AdamW and 0.05 for LARS.
        lr_biases: learning rate of biases and normalisation parameters; by default
            ``lr`` for AdamW and 0.096 ``lr`` for LARS.
        weight_decay: of all other parameters; by default 0.01 for AdamW and 1e-6 for
            LARS.
        warmup_epochs: epochs of linear warm-up, before a cosine to 0 over the fit.
        micro_batch_size: samples of a view whose activations are in memory at one time; the
            loss and its gradient stay those of the whole batch, and BatchNorm sees a
            chunk. By default the batch.
        compile: whether encoders, projectors and loss are compiled by ``torch.compile``.
            The first step then takes minutes; checkpoints do not change.

    Raises:
        ValueError: if an option is out of range or does not name the modalities.
    """

    ignore = ('weights', 'augmentations')
    monitor = 'val_loss'
    architecture_hparams: tuple[str, ...] = ('modalities', 'model', 'projector')
    criterion: nn.Module

    @renamed_arguments(chunk_size='micro_batch_size')
    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (8192, 8192, 8192),
        size: int = 224,
        augmentations: dict[str, Augmentation] | None = None,
        optimizer: Literal['adamw', 'lars'] | None = None,
        lr: float | None = None,
        lr_biases: float | None = None,
        weight_decay: float | None = None,
        warmup_epochs: float = 0,
        micro_batch_size: int | None = None,
        compile: bool = False,
    ) -> None:
        """Initialize a new MultimodalPretraining instance."""
        if optimizer not in ('adamw', 'lars', None):
            raise ValueError(f"optimizer must be 'adamw' or 'lars', got {optimizer!r}")
        if micro_batch_size is not None and micro_batch_size < 2:
            raise ValueError(
                'micro_batch_size must be at least 2, as BatchNorm compares the samples of a '
                f'chunk, got {micro_batch_size}'
            )
        self.weights = weights
        super().__init__()
        if compile:
            self.compile_parts()
        self.augmentations = default_augmentations(modalities, size)
        given = per_modality('augmentations', augmentations or {}, modalities, False)
        self.augmentations.update({m: a for m, a in given.items() if a is not False})

    def configure_models(self) -> None:
        """Build one encoder and one projector per modality."""
        self.encoders = MultimodalEncoder(
            self.hparams['modalities'], self.hparams['model'], self.weights
        ).to(memory_format=torch.channels_last)
        self.projectors = build_projectors(
            self.projector_in_features(), self.hparams['projector']
        )

    @property
    def model(self) -> MultimodalEncoder:
        """The encoders, under the name that TorchGeo gives what a task trains."""
        return self.encoders

    def projector_in_features(self) -> dict[str, int]:
        """Say what is projected.

        Returns:
            Number of features that each projector takes, by name.
        """
        return self.encoders.num_features

    def compile_parts(self) -> None:
        """Compile what a step computes with, in place: names of weights stay."""
        parts = (self.encoders.encoders, self.projectors)
        for module in (*(m for part in parts for m in part.values()), self.criterion):
            module.compile()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimiser and its schedule; :meth:`on_train_start` sets its length.

        Returns:
            Optimiser, and scheduler stepped with every optimiser step.
        """
        schedule = self._schedule()
        return {
            'optimizer': schedule.optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }

    def on_train_start(self) -> None:
        """Lay warm-up and cosine over all steps of the fit; without an end, no cosine.

        Asking for the number of steps any earlier would make Lightning begin to load
        data before a checkpoint has said where to go on. A schedule that a callback put
        in the place of the task's own is left as it is.

        Raises:
            ValueError: if the warm-up is longer than the fit, or an epoch has no length.
        """
        schedule = self.lr_schedulers()
        if not isinstance(schedule, WarmupCosine):
            if type(schedule).__module__ == 'lightning.pytorch.tuner.lr_finder':
                # It tries rates until the loss diverges, and then puts the weights back.
                self._guard = FiniteGuard(patience=math.inf)
            return
        trainer, steps = self.trainer, self.total_steps()
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        epochs, most = self.hparams['warmup_epochs'], trainer.max_epochs or 1
        schedule.warmup_epochs = warmup_steps(epochs, steps, batches, most)
        schedule.max_epochs = steps
        reset_lr_schedule(schedule, self._schedule().optimizer)

    def total_steps(self) -> float:
        """Count the optimiser steps of the fit.

        Returns:
            The number; infinity where nothing but time ends it.
        """
        steps = self.trainer.estimated_stepping_batches
        # What Lightning says of data without a length.
        return math.inf if steps < 0 else steps

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute features.

        Args:
            images: images of some or all modalities in [0, 1], shape (B, C, H, W).

        Returns:
            Features of each modality given, shape (B, ``num_features``).
        """
        features: dict[str, Tensor] = self.encoders(images)
        return features

    def encode_and_project(
        self, images: Mapping[str, Tensor], view: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute features and embeddings: the step that an objective may override.

        Args:
            images: images of some or all modalities in [0, 1], shape (B, C, H, W).
            view: number of the view in the step, from 0; None outside a step.

        Returns:
            Features by name, shape (B, F), and embeddings by name, shape (B, D).
        """
        features = self(images)
        return features, {m: self.projectors[m](h) for m, h in features.items()}

    def embed(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute embeddings.

        Args:
            images: images of some or all modalities in [0, 1], shape (B, C, H, W).

        Returns:
            Embeddings of each modality given, shape (B, D).
        """
        return self.encode_and_project(images)[1]

    def compute_loss(
        self, images: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Compute the loss of a batch: views, embeddings, gathering, criterion.

        Args:
            images: images of every modality in [0, 1], shape (B, C, H, W) or
                (B, T, C, H, W).

        Returns:
            The loss and its parts, scalars; the features of the first view on this
            device, shape (B, F); and all embeddings, shape (V, N, D), float32
            or, where the model is, float64.
        """
        first: dict[str, Tensor] = {}
        z: dict[str, list[Tensor]] = {}
        device = next(iter(images.values())).device.type
        micro_batch_size: int | None = self.hparams['micro_batch_size']
        for view in range(NUM_VIEWS):
            with torch.no_grad(), torch.autocast(device, enabled=False):
                views = {m: self._view(m, x) for m, x in images.items()}
            encode = partial(self.encode_and_project, view=view)
            features, embeddings = apply_in_micro_batches(
                encode, views, micro_batch_size, self
            )
            first = first or {m: h.detach() for m, h in features.items()}
            for m, x in embeddings.items():
                z.setdefault(m, []).append(x)
        gathered = {m: gather_embeddings(torch.stack(x)) for m, x in z.items()}
        terms: dict[str, Tensor] = self.criterion(gathered)
        return terms, first, gathered

    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the loss of a training batch.

        Args:
            batch: ``image_<m>`` of every modality, in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.

        Returns:
            The loss.

        Raises:
            ValueError: if the batch has one sample, or lacks a modality.
            FloatingPointError: if a part of the loss is NaN or infinite.
        """
        images = self._images(batch, batch_idx)
        self._seed(self.current_epoch, batch_idx)
        terms, h, z = self.compute_loss(images)
        last = self.trainer.is_last_batch
        self._guard.add(terms)
        size = len(next(iter(h.values())))
        if self._should_log(batch_idx):
            self._guard.check(self.global_step)
            parts = {f'train_{k}': v.detach().cpu() for k, v in terms.items()}
            self.log_dict(parts, prog_bar=True, batch_size=size)
            rate = self.trainer.optimizers[0].param_groups[0]['lr']
            self.log('lr', rate, batch_size=size)
        if last:
            signs = self.collapse_metrics(h, z)
            log = partial(self.log_dict, on_step=False, on_epoch=True, prog_bar=True)
            log(signs, batch_size=size, sync_dist=True)
        return terms['loss']

    def validation_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compute the loss of a validation batch, with the same views in every epoch.

        A last batch of one sample has no loss and is left out.

        Args:
            batch: ``image_<m>`` of every modality, in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.

        Raises:
            ValueError: if the first batch has one sample, or lacks a modality.
        """
        self._evaluate(batch, batch_idx, 'val')

    def test_step(self, batch: Sample, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Compute the loss of a test batch, as in validation.

        Args:
            batch: ``image_<m>`` of every modality, in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.
        """
        self._evaluate(batch, batch_idx, 'test')

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Compute features and embeddings of the first date, without augmentation.

        Args:
            batch: ``image_<m>`` of every modality, in [0, 1].
            batch_idx: index of the batch.
            dataloader_idx: index of the data loader.

        Returns:
            ``features`` and ``embeddings``, each a dictionary by modality of tensors
            (B, ``num_features``) and (B, D), and everything in the batch that is no
            image: bounds, transform, labels, ids.
        """
        images = split(batch, self.hparams['modalities'])
        features, embeddings = self.encode_and_project(
            {m: pick_date(x, date=0) for m, x in images.items()}
        )
        rest = {k: v for k, v in batch.items() if not str(k).startswith('image')}
        return {**rest, 'features': features, 'embeddings': embeddings}

    @torch.no_grad()
    def collapse_metrics(
        self, h: Mapping[str, Tensor], z: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Measure collapse and alignment.

        Args:
            h: features by modality, shape (B, ``num_features``).
            z: embeddings by modality, shape (V, N, D).

        Returns:
            ``std_<m>``, ``rank_<m>`` and the alignments, scalars.
        """
        std = {f'std_{m}': feature_std(x) for m, x in h.items()}
        rank = {f'rank_{m}': effective_rank(x[0]) for m, x in z.items()}
        first = {m: standardize(x[0]) for m, x in z.items()}
        diagonals = {
            pair: (first[m] * first[n]).mean(dim=0)
            for (m, n), pair in display_names(combinations(z, 2)).items()
        }
        return {**std, **rank, **self.alignment(diagonals)}

    def alignment(self, diagonals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Summarise the correlation of each dimension with itself across modalities.

        Args:
            diagonals: the correlations, shape (D,), by ``<m>_<n>``.

        Returns:
            ``alignment_<m>_<n>``, scalars.
        """
        return {f'alignment_{pair}': d.mean() for pair, d in diagonals.items()}

    def _schedule(self) -> WarmupCosine:
        options = {k: self.hparams[k] for k in ('lr', 'lr_biases', 'weight_decay')}
        models, name = self.encoders.model.values(), self.hparams['optimizer']
        options |= {'fused': self._can_fuse_optimizer(), 'ndims': self._ndims}
        optimizer = build_optimizer(self, models, name, **options)
        return WarmupCosine(optimizer, 0, math.inf, end_value=0.0)

    def _images(self, batch: Sample, batch_idx: int) -> dict[str, Tensor]:
        images = split(batch, self.hparams['modalities'])
        if len(next(iter(images.values()))) < 2:
            raise ValueError(
                f'batch {batch_idx} must have at least 2 samples on each device, got 1: '
                'the loss compares samples; set batch_size to 2 or more, and drop_last'
            )
        return images

    def _evaluate(self, batch: Sample, batch_idx: int, stage: str) -> None:
        images = split(batch, self.hparams['modalities'])
        size = len(next(iter(images.values())))
        if size < 2 and batch_idx > 0:
            return
        images = self._images(batch, batch_idx)
        # What draws next, such as the order of an epoch, must not repeat itself.
        with self._forked():
            self._seed(-1, batch_idx)
            terms, _, _ = self.compute_loss(images)
        parts = {f'{stage}_{k}': v for k, v in terms.items()}
        self.log_dict(parts, batch_size=size, sync_dist=True)

    def _view(self, modality: str, x: Tensor) -> Tensor:
        view: Tensor = self.augmentations[modality](pick_date(x))
        return view.contiguous(memory_format=torch.channels_last)
