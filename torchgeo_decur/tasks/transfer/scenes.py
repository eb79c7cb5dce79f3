"""Scene-level transfer: pooled features, fusion and one linear layer."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torchgeo.datasets.utils import Sample

from ...models import (
    FusionHeadClassifier,
    LateFusion,
    LateFusionClassifier,
    build_fusion_head,
    load_fusion_head,
)
from ...models.encoder import Weights
from ...models.eval_mode import eval_mode
from .base import LateFusionTask
from .feature_cache import cache_features


class SceneTask(LateFusionTask):
    """Base class of the transfer tasks with one target per image.

    The features of all modalities are concatenated, or fused by a pretrained fusion
    head, and passed to one linear layer.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        fusion: 'concatenate', or the path of a ``fusion.safetensors`` of CoMM, COrAL or
            InfMasking, to use their joint features.
            :class:`~torchgeo_decur.callbacks.ExportEncoders` writes this file. The
            fusion head has the learning rate ``lr`` and is frozen together with the
            encoders.
        size: height and width in pixels to which images and random training crops are
            resized, for all modalities or by modality. By default, images keep their
            size.
        cache_features: whether to run frozen encoders only once, on the first date of
            each sample, and train on these features. Cached features stay in memory and
            need 4 bytes per value.
        options: other arguments of :class:`~torchgeo_decur.tasks.LateFusionTask`, and
            of :class:`~torchgeo_decur.tasks.ClassTargets` or
            :class:`~torchgeo_decur.tasks.NumberTargets`.

    Raises:
        ValueError: if an option is invalid or options contradict each other.
    """

    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        *,
        fusion: str | dict[str, Any] = 'concatenate',
        size: int | dict[str, int] | None = None,
        cache_features: bool = False,
        **options: Any,
    ) -> None:
        """Initialize a new SceneTask instance."""
        super().__init__(modalities, model, weights, **options)

    def configure_models(self) -> None:
        """Build the encoders and the linear layer.

        Raises:
            ValueError: if an option is invalid or options contradict each other.
        """
        super().configure_models()
        self._sizes()
        if self.hparams['cache_features'] and not self.hparams['freeze_backbone']:
            raise ValueError(
                'cache_features needs frozen encoders, got freeze_backbone=False; set '
                'freeze_backbone to True'
            )
        if self.hparams['cache_features'] and self.hparams['crop_scale'] is not None:
            raise ValueError(
                'cache_features needs images without random crops, got crop_scale '
                f'{self.hparams["crop_scale"]}; set crop_scale to None'
            )
        fusion = self.hparams['fusion']
        build: Callable[..., LateFusion] = LateFusionClassifier
        if fusion != 'concatenate':
            # A checkpoint stores the description of the head so that it loads without
            # the file.
            known = isinstance(fusion, Mapping)
            head = build_fusion_head(fusion) if known else load_fusion_head(fusion)
            self.hparams['fusion'] = head.description
            build = partial(FusionHeadClassifier, fusion=head)
        self.model = build(
            self.hparams['modalities'],
            model=self.hparams['model'],
            weights=self.weights,
            num_classes=self.num_outputs,
            freeze_backbone=self.hparams['freeze_backbone'],
            modality_dropout=self.hparams['modality_dropout'],
            bands=self.hparams['bands'],
        )

    def on_fit_start(self) -> None:
        """Replace both splits with cached features if ``cache_features`` is set.

        Raises:
            ValueError: if there is no datamodule.
        """
        super().on_fit_start()
        if not self.hparams['cache_features']:
            return
        self._datamodule: Any = getattr(self.trainer, 'datamodule', None)
        if self._datamodule is None:
            raise ValueError(
                'cache_features needs a datamodule, got data loaders; pass a datamodule '
                'to fit'
            )
        validates = self.trainer.limit_val_batches != 0
        with eval_mode(self.model):
            self._replaced = cache_features(
                self._datamodule,
                ('train', 'val') if validates else ('train',),
                self._features,
            )

    def on_fit_end(self) -> None:
        """Restore the original datasets of the datamodule."""
        if self.hparams['cache_features']:
            for name, dataset in self._replaced.items():
                setattr(self._datamodule, name, dataset)

    def _features(self, stage: str, batch: Any) -> dict[str, Tensor]:
        batch = self._datamodule.transfer_batch_to_device(
            batch, self.trainer.strategy.root_device, 0
        )
        batch = self._datamodule.on_after_batch_transfer(batch, 0)
        features, _ = self._encode(batch, stage, first_date=True)
        key = self.hparams['label_key']
        kept = {k: v for k, v in batch.items() if str(k).startswith('available_')}
        kept |= {
            f'features_{m}_{level}': x
            for m, levels in features.items()
            for level, x in enumerate(levels)
        }
        return {k: v.cpu() for k, v in {**kept, key: self._target(batch)}.items()}

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Predict the targets of a batch.

        Returns:
            Probabilities of classes, shape (B, ``num_classes``), or values in the unit
            of the targets, shape (B, ``num_outputs``).
        """
        return self._outputs(batch)
