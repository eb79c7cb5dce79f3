"""Base class of the self-supervised tasks."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from lightly.utils import dist
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchgeo.datasets.utils import Sample

from ..deprecation import renamed_arguments
from ..losses import EmbeddingLoss, display_names
from ..losses.functional import Subset, effective_rank, feature_std, standardize
from ..modalities import per_modality, select_date, split
from ..modalities.present_samples import (
    PresentSamples,
    Results,
    encode_present,
    encode_rows,
    read_masks,
)
from ..models import MultimodalEncoder, build_projectors
from ..models.backbones.identity import IDENTITY
from ..models.encoder import Weights
from ..models.eval_mode import eval_mode
from ..transforms import Augmentation, default_augmentations
from .base import CheckedTask, FiniteGuard
from .collapse import FEWEST_SAMPLES, CollapseGuard
from .distributed import gather_embeddings, gather_masks
from .gradient_cache import (
    apply_in_micro_batches,
    count_micro_batches,
    drop_small_parts,
)
from .optimizers import (
    WarmupCosine,
    build_optimizer,
    parameter_ndims,
    reset_lr_schedule,
    warmup_steps,
)

NUM_VIEWS = 2  #: Number of views of each modality in a step.


# A gradient scaler starts at 2 ** 16 and halves its scale with each skipped step. After
# 16 skipped steps, the scale cannot be the cause of an infinite gradient.
_MAX_SKIPPED = 16


class MultimodalPretraining(CheckedTask):
    """Base class of the self-supervised tasks: encoders, projectors and training step.

    A subclass sets ``self.criterion`` in ``configure_losses``. Batches contain
    ``image_<m>`` for every modality, in [0, 1]. Each step creates two views of every
    modality, each with its own random date and augmentation. Embeddings are gathered
    from all devices, with gradients.

    Samples may lack modalities. The batch then contains ``available_<m>``, shape (B,),
    boolean. Encoders process only images that exist, and each loss term uses the
    samples that have its modalities. If these masks are on the CPU, no device
    synchronization is needed.

    The random draws of a step depend only on the seed of the run, the epoch, the batch
    and the device. A resumed fit therefore gives the same result as an uninterrupted
    one. A diverged model is neither saved nor exported.

    The task logs the learning rate, and the loss and its terms in training
    (``train_loss``, ``train_<term>``) and validation (``val_loss``, ``val_<term>``). If
    samples lack modalities, ``pairs_<m>_<n>`` is the number of samples that have both.
    At the end of each epoch, the task logs collapse metrics of the last batch:

    * ``std_<m>``: 1 if features spread in all directions, 0 if all are equal;
    * ``rank_<m>``: effective rank of the embeddings;
    * ``alignment_*``: mean correlation of a dimension with the same dimension of another
      modality.

    The progress bar shows the loss, the learning rate and the mean alignment, without
    unique dimensions.

    If ``std_<m>`` or ``rank_<m>`` shows a collapse in two consecutive epochs, the task
    warns once. :class:`~torchgeo_decur.callbacks.StopOnCollapse` also stops the fit.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each projector layer; the last one is the embedding
            dimension D. Without layers, the features are the embeddings.
        size: height and width in pixels of the views from the default augmentations, or
            one size per modality.
        augmentations: augmentation of each modality, for images in [0, 1]; by default
            from :data:`~torchgeo_decur.transforms.PRESETS`.
        optimizer: 'adamw' or 'lars'. The default is 'lars' for plain ResNets, as in
            Barlow Twins, and 'adamw' for other models.
        lr: learning rate; by default 1e-4 for AdamW and 0.05 for LARS.
        lr_biases: learning rate of biases and normalization parameters; by default
            ``lr`` for AdamW and 0.096 ``lr`` for LARS.
        weight_decay: weight decay of all other parameters; by default 0.01 for AdamW and
            1e-6 for LARS.
        warmup_epochs: number of epochs with linear warm-up, before cosine decay to 0.
        micro_batch_size: number of samples per micro-batch for gradient caching; by
            default, the whole batch. Gradient caching saves memory without changing loss
            or gradient, but BatchNorm uses the statistics of a micro-batch.
        compile: whether to compile encoders, projectors and loss with
            ``torch.compile``. The first step then takes minutes. Checkpoints do not
            change.
        grad_checkpointing: whether the backward pass recomputes the activations of the
            encoders. This saves memory at the cost of one more forward pass, without
            changing loss or gradient.

    Raises:
        ValueError: if an option is out of range or its keys do not match the
            modalities.
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
        size: int | dict[str, int] = 224,
        augmentations: dict[str, Augmentation] | None = None,
        optimizer: Literal['adamw', 'lars'] | None = None,
        lr: float | None = None,
        lr_biases: float | None = None,
        weight_decay: float | None = None,
        warmup_epochs: float = 0,
        micro_batch_size: int | None = None,
        compile: bool = False,
        grad_checkpointing: bool = False,
    ) -> None:
        """Initialize a new MultimodalPretraining instance."""
        if optimizer not in ('adamw', 'lars', None):
            raise ValueError(f"optimizer must be 'adamw' or 'lars', got {optimizer!r}")
        if micro_batch_size is not None and micro_batch_size < 2:
            raise ValueError(
                'micro_batch_size must be at least 2, because BatchNorm needs two samples, '
                f'got {micro_batch_size}'
            )
        self.weights = weights
        self._run_seed: int | None = None
        self._steps = math.inf
        self._guard = FiniteGuard()
        self._collapse = CollapseGuard()
        super().__init__()
        # Count dimensions before FSDP flattens the parameters.
        self._ndims = parameter_ndims(self)
        if grad_checkpointing:
            self.set_grad_checkpointing()
        if compile:
            self.compile_parts()
        names = self.encoders.model.items()
        vectors = [m for m, name in names if name == IDENTITY]
        self.augmentations = default_augmentations(modalities, size, vectors)
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
        """Encoders, under the attribute name that TorchGeo's tasks use."""
        return self.encoders

    def projector_in_features(self) -> dict[str, int]:
        """Return the input width of each projector.

        Returns:
            Number of features, by projector name.
        """
        return self.encoders.num_features

    def compile_parts(self) -> None:
        """Compile encoders, projectors and loss in place."""
        parts = (self.encoders.encoders, self.projectors)
        for module in (*(m for part in parts for m in part.values()), self.criterion):
            module.compile()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and a schedule whose length :meth:`on_train_start` sets.

        Returns:
            The optimizer, and a scheduler with one step per optimizer step.
        """
        schedule = self._schedule()
        return {
            'optimizer': schedule.optimizer,
            'lr_scheduler': {'scheduler': schedule, 'interval': 'step'},
        }

    def on_fit_start(self) -> None:
        """Set the seed of a new run and reset the check for a diverged model."""
        if self._run_seed is None:
            self._run_seed = torch.initial_seed()
        # Reset the guard: a failed fit must not affect the next one.
        scales = getattr(self.trainer.precision_plugin, 'scaler', None) is not None
        self._guard = FiniteGuard(patience=_MAX_SKIPPED if scales else 0)

    def on_train_start(self) -> None:
        """Fit the schedule to the total number of steps.

        An open-ended fit has no cosine decay. A schedule set by a callback is kept.

        Reading the number of steps earlier would make Lightning load data before the
        checkpoint has set the position to resume from.

        Raises:
            ValueError: if the warm-up is longer than the fit, or the data have no
                length.
        """
        self._steps = steps = self.total_steps()
        schedule = self.lr_schedulers()
        finds = type(schedule).__module__ == 'lightning.pytorch.tuner.lr_finder'
        if self.global_step == 0 or finds:
            # In a resumed fit, the checkpoint has already set the state.
            self._collapse = CollapseGuard(**({'patience': math.inf} if finds else {}))
        if not isinstance(schedule, WarmupCosine):
            if finds:
                # The finder raises the learning rate until the loss diverges, then
                # restores the weights.
                self._guard = FiniteGuard(patience=math.inf)
            return
        trainer = self.trainer
        batches = trainer.num_training_batches / trainer.accumulate_grad_batches
        epochs, most = self.hparams['warmup_epochs'], trainer.max_epochs or 1
        schedule.warmup_epochs = warmup_steps(epochs, steps, batches, most)
        schedule.max_epochs = steps
        reset_lr_schedule(schedule, self._schedule().optimizer)

    def on_train_end(self) -> None:
        """Raise an error if the model diverged, before callbacks can export it.

        Raises:
            FloatingPointError: if a term of the loss was NaN or infinite.
        """
        self._guard.check(self.global_step, ended=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the seed and the collapse metrics, unless the model diverged.

        Raises:
            FloatingPointError: if a term of the loss was NaN or infinite.
        """
        self._guard.check(self.global_step)
        super().on_save_checkpoint(checkpoint)
        checkpoint['run_seed'] = self._run_seed
        checkpoint['collapse'] = self._collapse.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the seed of the run and check that the checkpoint matches the model.

        Augmentations are not restored, because they are options of the run.

        Raises:
            ValueError: if the task or a hyperparameter of the architecture differs. The
                message names each difference.
        """
        super().on_load_checkpoint(checkpoint)
        self._run_seed = checkpoint.get('run_seed')
        # Checkpoints from older versions lack this entry.
        if 'collapse' in checkpoint:
            self._collapse.load_state_dict(checkpoint['collapse'])
        state = checkpoint['state_dict']
        own = self.augmentations.state_dict(prefix='augmentations.')
        checkpoint['state_dict'] = own | {
            k: v for k, v in state.items() if not k.startswith('augmentations.')
        }

    def total_steps(self) -> float:
        """Count the optimizer steps of the fit.

        Returns:
            Number of steps, or infinity if the fit is open-ended.
        """
        steps = self.trainer.estimated_stepping_batches
        # Lightning returns -1 for data without a length.
        return math.inf if steps < 0 else steps

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the features of each given modality.

        Args:
            images: images of some or all modalities in [0, 1], shape (B, C, H, W).

        Returns:
            Features of each given modality, shape (B, ``num_features``).
        """
        features: dict[str, Tensor] = self.encoders(images)
        return features

    def encode_and_project(
        self,
        images: Mapping[str, Tensor],
        view: int | None = None,
        available: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute features and embeddings.

        Subclasses may override this method.

        Args:
            images: images of some or all modalities in [0, 1], shape (B, C, H, W).
            view: index of the view in a training or validation step, otherwise None.
            available: whether each sample has a modality, shape (B,), boolean, on the
                CPU. ``images`` must then contain only samples that have the modality.

        Returns:
            Features by name, shape (B, F), and embeddings by name, shape (B, D). With
            ``available``, the rows of a modality are the samples that have it. The rows
            of joint features are the samples with any modality.
        """
        features = self(images)
        return features, {m: self.projectors[m](h) for m, h in features.items()}

    def embed(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the embeddings of each given modality.

        Args:
            images: images of some or all modalities in [0, 1], shape (B, C, H, W).

        Returns:
            Embeddings of each given modality, shape (B, D).
        """
        return self.encode_and_project(images)[1]

    def compute_loss(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Compute the loss of a batch from its views.

        Missing images are neither augmented nor encoded. If a modality has a single
        image in a micro-batch, this image is ignored, because BatchNorm needs two.

        Args:
            images: images of every modality in [0, 1], shape (B, C, H, W) or
                (B, T, C, H, W).
            available: whether each sample has a modality, shape (B,), boolean, on the
                CPU; by default, all samples are complete.

        Returns:
            Three dictionaries, of loss terms, features and embeddings. The loss terms are
            scalars. The features are from the first view on this device, shape (B, F).
            The embeddings are from all devices, shape (V, N, D). Embeddings are float32,
            or float64 for a float64 model. If a sample lacks a modality, its features
            are omitted and its embeddings are 0.
        """
        first: dict[str, Tensor] = {}
        z: dict[str, list[Tensor]] = {}
        some = next(iter(images.values()))
        size: int | None = self.hparams['micro_batch_size']
        samples = None
        if available is not None:
            if isinstance(self.criterion, EmbeddingLoss):
                self.criterion.check_takes_available()
            number = count_micro_batches(len(some), size)
            found = drop_small_parts(available, number, self._fewest_samples())
            samples = PresentSamples(found, some.device)
        for view in range(NUM_VIEWS):
            with torch.no_grad(), torch.autocast(some.device.type, enabled=False):
                views = {m: self._view(m, x, samples) for m, x in images.items()}
            encode = partial(
                self.encode_and_project if samples is None else self._encode_present,
                view=view,
            )
            features, embeddings = apply_in_micro_batches(
                encode, views, size, self, None if samples is None else samples.masks
            )
            first = first or {m: h.detach() for m, h in features.items()}
            for m, x in embeddings.items():
                z.setdefault(m, []).append(x)
        stacked = {m: torch.stack(x) for m, x in z.items()}
        if samples is None:
            gathered = {m: gather_embeddings(x) for m, x in stacked.items()}
            terms: dict[str, Tensor] = self.criterion(gathered)
            return terms, first, gathered
        gathered = {
            m: gather_embeddings(samples.spread(m, x, dim=1))
            for m, x in stacked.items()
        }
        terms = self.criterion(gathered, gather_masks(samples.on_device()))
        return terms, first, gathered

    def training_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute and log the loss of a training batch.

        Raises:
            ValueError: if the batch has only one sample or lacks a modality.
            FloatingPointError: if a term of the loss is NaN or infinite.
        """
        images = self._images(batch, batch_idx)
        size = len(next(iter(images.values())))
        masks = read_masks(batch, list(images), size)
        self._seed(self.current_epoch, batch_idx)
        terms, h, z = self.compute_loss(images, masks)
        self._guard.add(terms)
        if self._should_log(batch_idx):
            self._guard.check(self.global_step)
            parts = {f'train_{k}': v.detach().cpu() for k, v in terms.items()}
            # Lightning would copy a float to the device, and the progress bar would
            # wait for it.
            rate = torch.tensor(self.trainer.optimizers[0].param_groups[0]['lr'])
            shown = {'train_loss': parts.pop('train_loss'), 'lr': rate}
            self.log_dict(shown, prog_bar=True, batch_size=size)
            self.log_dict(parts, batch_size=size)
        ended = self.trainer.is_last_batch
        if ended or not self._collapse.started:
            # Embeddings of samples without the modality are 0.
            present = None if masks is None else {m: x[0].any(1) for m, x in z.items()}
            metrics = self.collapse_metrics(h, z, present)
            self._watch_collapse(metrics, h, ended)
            log = partial(
                self.log_dict,
                on_step=False,
                on_epoch=True,
                batch_size=size,
                sync_dist=True,
            )
            if ended:
                log(metrics)
                log(self._mean_alignment(metrics), prog_bar=True, logger=False)
        return terms['loss']

    def validation_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compute and log the loss of a validation batch.

        The views of a batch are the same in every epoch.

        A batch with a single sample is skipped, unless it is the first batch.

        Raises:
            ValueError: if the first batch has only one sample or lacks a modality.
        """
        self._evaluate(batch, batch_idx, 'val')

    def test_step(self, batch: Sample, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Compute and log the loss of a test batch, as in validation."""
        self._evaluate(batch, batch_idx, 'test')

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Compute features and embeddings of the first date, without augmentation.

        Returns:
            A dictionary with ``features``, shape (B, ``num_features``), and
            ``embeddings``, shape (B, D), by modality. If a sample lacks a modality, its
            rows are 0. The dictionary also has all other entries of the batch, such as
            bounds, transform, labels and ids.
        """
        images = split(batch, self.hparams['modalities'], date=0)
        samples = len(next(iter(images.values())))
        masks = read_masks(batch, list(images), samples)
        features, embeddings = encode_present(
            self.encode_and_project, images, masks or {}
        )
        rest = {k: v for k, v in batch.items() if not str(k).startswith('image')}
        return {**rest, 'features': features, 'embeddings': embeddings}

    @torch.no_grad()
    def collapse_metrics(
        self,
        h: Mapping[str, Tensor],
        z: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the collapse and alignment metrics of a batch.

        Args:
            h: features by modality, shape (B, ``num_features``).
            z: embeddings by modality, shape (V, N, D).
            available: whether each sample has an embedding, shape (N,), boolean; by
                default, all samples have all embeddings. Absent embeddings must be 0.

        Returns:
            The scalars ``std_<m>``, ``rank_<m>`` and ``alignment_*``. ``std_<m>`` is
            NaN if no sample on this device has the modality.
        """
        std = {
            f'std_{m}': feature_std(x) if len(x) else x.new_full((), math.nan)
            for m, x in h.items()
        }
        rank = {f'rank_{m}': effective_rank(x[0]) for m, x in z.items()}
        whole = {m: standardize(x[0]) for m, x in z.items()} if not available else {}
        diagonals: dict[str, Tensor] = {}
        for (m, n), pair in display_names(combinations(z, 2)).items():
            if available is None:
                diagonals[pair] = (whole[m] * whole[n]).mean(dim=0)
            else:
                both = Subset(available[m] & available[n], minimum=1)
                a, b = (standardize(z[k][0], subset=both) for k in (m, n))
                diagonals[pair] = (a * b).sum(dim=0) / both.count
        return {**std, **rank, **self.alignment(diagonals)}

    @property
    def collapsed(self) -> list[str]:
        """Names of the metrics that indicate a collapse, such as ``std_s1``."""
        return self._collapse.collapsed

    def alignment(self, diagonals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Average the correlations of all dimensions for each pair of modalities.

        Args:
            diagonals: correlation of each dimension, shape (D,), by pair ``<m>_<n>``.

        Returns:
            The scalars ``alignment_<m>_<n>``.
        """
        return {f'alignment_{pair}': d.mean() for pair, d in diagonals.items()}

    def _mean_alignment(self, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Average the alignments for the progress bar, without unique dimensions."""
        found = [
            value
            for name, value in metrics.items()
            if name.startswith('alignment') and not name.startswith('alignment_unique')
        ]
        return {'alignment': torch.stack(found).mean()} if found else {}

    def _watch_collapse(
        self, metrics: Mapping[str, Tensor], h: Mapping[str, Tensor], ended: bool
    ) -> None:
        """Update the collapse detector and warn about a new collapse.

        The update synchronizes with the device, so call it only in steps that log.
        """
        samples = {m: len(x) for m, x in h.items()}
        fewest = min(samples.values())
        values = {}
        for key, value in metrics.items():
            kind, _, name = key.partition('_')
            if kind in ('std', 'rank'):
                enough = samples.get(name, fewest) >= FEWEST_SAMPLES
                values[key] = value if enough else torch.full_like(value, math.nan)
        # All devices must agree on whether to stop.
        found = torch.stack([v.float() for v in values.values()])
        mean: Any = self.trainer.strategy.reduce(found, reduce_op='mean')
        self._collapse.add(dict(zip(values, mean.tolist(), strict=True)), ended)
        if message := self._collapse.warning(self.current_epoch):
            rank_zero_warn(message)

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
                f'batch {batch_idx} must have at least 2 samples on each device, because '
                'the loss compares samples, got 1; set batch_size >= 2 and '
                'drop_last=True'
            )
        return images

    def _evaluate(self, batch: Sample, batch_idx: int, stage: str) -> None:
        images = split(batch, self.hparams['modalities'])
        size = len(next(iter(images.values())))
        if size < 2 and batch_idx > 0:
            return
        images = self._images(batch, batch_idx)
        # Seeding here must not affect later draws, such as the sample order of an
        # epoch.
        with self._forked_rng():
            self._seed(-1, batch_idx)
            masks = read_masks(batch, list(images), size)
            terms, _, _ = self.compute_loss(images, masks)
        parts = {f'{stage}_{k}': v for k, v in terms.items()}
        self.log_dict(parts, batch_size=size, sync_dist=True)

    def _encode_present(
        self,
        images: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        view: int | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute features and embeddings of the samples that have a modality.

        Every parameter gets a gradient on every device. If no sample has a modality, its
        BatchNorm neither uses batch statistics nor updates running statistics.
        """
        if self._fewest_samples() == 0:
            # SyncBatchNorm supports an empty batch, and the other devices wait for this
            # one.
            return self.encode_and_project(images, view, masks)
        encode = partial(self.encode_and_project, view=view)

        def encode_blank(blank: dict[str, Tensor]) -> Results:
            with eval_mode(self):
                return encode(blank)

        return encode_rows(encode, images, masks, encode_blank)

    def _fewest_samples(self) -> int:
        """Return the minimum number of samples of a modality that training needs."""
        norms = [m for m in self.modules() if isinstance(m, _BatchNorm) and m.training]
        synced = any(isinstance(m, nn.SyncBatchNorm) for m in norms)
        if synced and dist.world_size() > 1:
            return 0
        return 2 if norms else 1

    def _view(
        self, modality: str, x: Tensor, samples: PresentSamples | None = None
    ) -> Tensor:
        number = len(x)
        if samples is not None:
            number = samples.count(modality)
            # An empty batch cannot be augmented, but one sample gives the shape of its
            # view.
            x = samples.select(modality, x) if number else x[:1]
        view: Tensor = self.augmentations[modality](select_date(x))
        return view[:number].contiguous(memory_format=torch.channels_last)

    def _forked_rng(self) -> AbstractContextManager[None]:
        """Return a context that restores the CPU and GPU random states on exit."""
        devices = [self.device] if self.device.type == 'cuda' else []
        return torch.random.fork_rng(devices)

    def _seed(self, *step: int) -> None:
        """Seed the random draws of a step from the seed of the run, step and device."""
        words = [abs(self._run_seed or 0), *(s + 1 for s in step), self.global_rank]
        state = np.random.SeedSequence(words).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))
