"""Transfer to targets of pixels: feature pyramids, fused, and a decoder."""

from typing import Any, Literal

from torchgeo.datasets.utils import Sample

from ...models import CMXSegmenter, LateFusionSegmenter, Segmenter
from ...models.encoder import Weights
from ...models.segmentation.decoders import Decoder
from .base import LateFusionTask


class MapTask(LateFusionTask):
    """Base of the transfer tasks whose target is a map of the image.

    A decoder predicts the map from the feature pyramids of all modalities, which are
    concatenated level by level.

    Args:
        modalities: number of channels of each modality, by name; all share one grid.
        model: the decoder: 'fcn' as in DeCUR's experiments; 'unet', 'deeplabv3+',
            'upernet', 'segformer' or 'fpn' of segmentation-models-pytorch; or 'cmx' for
            :class:`~torchgeo_decur.models.CMXSegmenter` with two modalities.
        backbone: name of a timm model, one for all modalities or one for each.
        weights: initial weights, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        label_key: key of the mask in the batch, shape (B, H, W) or (B, 1, H, W).
        vertical_flip: whether to flip vertically; set it to False for photographs.
        lr: learning rate.
        weight_decay: weight decay of all parameters.
        options: of :class:`~torchgeo_decur.tasks.LateFusionTask` and of the targets.

    Raises:
        ValueError: if options contradict each other.
    """

    model: Segmenter

    def __init__(
        self,
        modalities: dict[str, int],
        model: Decoder | Literal['cmx'] = 'fcn',
        backbone: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        *,
        label_key: str = 'mask',
        vertical_flip: bool = True,
        lr: float = 1e-4,
        weight_decay: float = 0.01,
        **options: Any,
    ) -> None:
        """Initialize a new MapTask instance."""
        super().__init__(
            modalities,
            model,
            weights,
            label_key=label_key,
            lr=lr,
            weight_decay=weight_decay,
            **options,
        )

    def configure_models(self) -> None:
        """Build the encoders and the decoder."""
        super().configure_models()
        names = ('modalities', 'backbone', 'bands', 'freeze_backbone')
        options = {name: self.hparams[name] for name in (*names, 'modality_dropout')}
        options |= {'weights': self.weights, 'num_classes': self.num_outputs}
        if self.hparams['model'] == 'cmx':
            self.model = CMXSegmenter(**options)
        else:
            self.model = LateFusionSegmenter(model=self.hparams['model'], **options)

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Predict the targets of each pixel.

        Returns:
            ``probabilities`` of classes, shape (B, ``num_classes``, H, W), or ``values``
            in the unit of the targets, shape (B, ``num_outputs``, H, W); and, to write
            georeferenced files, ``bounds`` and ``transform`` of the batch, shape (B, 9)
            as in TorchGeo, or None.
        """
        return {
            self.output_name: self._outputs(batch),
            'bounds': batch.get('bounds'),
            'transform': batch.get('transform'),
        }
