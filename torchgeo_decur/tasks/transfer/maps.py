"""Pixel-level transfer: feature pyramids, fusion and a decoder."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchgeo.datasets.utils import Sample

from ...models import CMXSegmenter, LateFusionSegmenter, Segmenter
from ...models.encoder import Weights
from ...models.segmentation.decoders import Decoder
from .base import LateFusionTask


class MapTask(LateFusionTask):
    """Base class of the transfer tasks that predict a map for each image.

    A decoder predicts the map from the feature pyramids of all modalities, which are
    concatenated level by level.

    The images of a sample cover the same area but may differ in pixel size. Pyramid
    levels are then resampled to one grid; see ``grid``. Loss and metrics are computed
    on the grid of the mask.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of the decoder. 'fcn' is the decoder of DeCUR's experiments. 'unet',
            'deeplabv3+', 'upernet', 'segformer' and 'fpn' are from
            segmentation-models-pytorch. 'cmx' selects
            :class:`~torchgeo_decur.models.CMXSegmenter`, for two modalities.
        backbone: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        grid: name of the modality whose grid is used for fusion and predictions. By
            default, it is the grid of the mask or, without a mask, the common grid of
            the images.
        label_key: key of the mask in the batch, shape (B, H, W) or (B, 1, H, W).
        vertical_flip: whether random flips include vertical ones. For photographs, it
            should be False.
        lr: learning rate.
        weight_decay: weight decay of all parameters.
        options: other arguments of :class:`~torchgeo_decur.tasks.LateFusionTask`, and
            of :class:`~torchgeo_decur.tasks.ClassTargets` or
            :class:`~torchgeo_decur.tasks.NumberTargets`.

    Raises:
        ValueError: if an option is invalid or options contradict each other.
    """

    model: Segmenter

    def __init__(
        self,
        modalities: dict[str, int],
        model: Decoder | Literal['cmx'] = 'fcn',
        backbone: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        *,
        grid: str | None = None,
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
        known, grid = list(self.hparams['modalities']), self.hparams['grid']
        if grid is not None and grid not in known:
            raise ValueError(f'grid must be one of {known}, got {grid!r}')
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
        """Predict the target of each pixel.

        Returns:
            ``probabilities`` of classes, shape (B, ``num_classes``, H, W), or
            ``values`` in the unit of the targets, shape (B, ``num_outputs``, H, W).
            ``bounds`` and ``transform``, shape (B, 9), locate the output as in
            TorchGeo. They are None if the batch lacks them.
        """
        outputs = self._outputs(batch)
        bounds, transform = batch.get('bounds'), batch.get('transform')
        if bounds is not None and transform is not None:
            bounds, transform = regrid(bounds, transform, outputs.shape[-2:])
        return {self.output_name: outputs, 'bounds': bounds, 'transform': transform}

    def _run_encoders(
        self,
        images: Mapping[str, Tensor],
        available: Mapping[str, Tensor],
        batch: Sample,
    ) -> tuple[dict[str, list[Tensor]], Sequence[int]]:
        size = self.model.grid_size(images, self._grid(batch))
        return self.model.encode(images, available, size), size

    def _decode(
        self,
        features: Mapping[str, Sequence[Tensor]],
        size: Sequence[int],
        batch: Sample,
    ) -> Tensor:
        outputs = super()._decode(features, size, batch)
        wanted = self._stored_target(batch).shape[-2:]
        if outputs.shape[-2:] == wanted:
            return outputs
        stacked = outputs if outputs.ndim == 4 else outputs[:, None]
        # Antialiased interpolation does not support half precision.
        exact = stacked.to(torch.promote_types(stacked.dtype, torch.float32))
        moved = interpolate(exact, wanted, mode='bilinear', antialias=True)
        return moved if outputs.ndim == 4 else moved[:, 0]

    def _grid(self, batch: Sample) -> Sequence[int] | None:
        """Return the size of the chosen grid or of the mask, if the batch has one."""
        names = [f'image_{self.hparams["grid"]}', self.hparams['label_key']]
        return next((batch[n].shape[-2:] for n in names if n in batch), None)


def regrid(
    bounds: Tensor, transform: Tensor, size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Convert bounds and transform to another number of pixels over the same area.

    Args:
        bounds: start, stop and step in x, y and time, shape (B, 9).
        transform: affine transform of the pixels, shape (B, 9).
        size: new number of rows and columns.

    Returns:
        Bounds and transform for these rows and columns, shape (B, 9) each.

    Example:
        >>> place = torch.tensor([[0.0, 20, 10, 0, 20, 10, 0, 1, 1]])
        >>> affine = torch.tensor([[10.0, 0, 0, 0, -10, 20, 0, 0, 1]])
        >>> regrid(place, affine, (4, 4))[1][0, :6]
        tensor([ 5.,  0.,  0.,  0., -5., 20.])
    """
    rows, columns = size
    steps = torch.stack(
        [(bounds[:, 1] - bounds[:, 0]) / columns, (bounds[:, 4] - bounds[:, 3]) / rows],
        dim=1,
    )
    ratio = steps / bounds[:, [2, 5]]
    # If the grid stays the same, rounding must not change it.
    ratio = ratio.where((ratio - 1).abs() > 1e-6, 1)
    bounds, transform = bounds.clone(), transform.clone()
    bounds[:, [2, 5]] *= ratio
    transform[:, [0, 3]] *= ratio[:, :1]
    transform[:, [1, 4]] *= ratio[:, 1:]
    return bounds, transform
