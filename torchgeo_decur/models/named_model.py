"""Wrap models so that other runtimes get one named tensor per input and output."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..weights.state_dict_layouts import count_channels
from .encoder import MultimodalEncoder
from .fusion.late_fusion import LateFusion
from .segmentation.segmenter import Segmenter


class NamedModel(nn.Module, ABC):
    """Base of models with named inputs and outputs.

    Attributes:
        channels: number of channels of each image input, by the name of the input.
        one_grid: whether all images have the same height and width.
        input_names: names of all inputs, in order.
    """

    channels: dict[str, int]
    one_grid: bool
    input_names: list[str]

    @abstractmethod
    def arguments(self, inputs: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """Return the positional arguments of ``forward``.

        Args:
            inputs: tensor of each input, by name.
        """


class NamedEncoder(NamedModel):
    """Encoder with the input ``image`` and the output ``features``.

    Args:
        encoder: timm model without classifier.
    """

    one_grid = True
    input_names = ['image']  # noqa: RUF012

    def __init__(self, encoder: nn.Module) -> None:
        """Initialize a new NamedEncoder instance."""
        super().__init__()
        self.encoder = encoder
        self.channels = {'image': count_channels(encoder.state_dict())}

    def arguments(self, inputs: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """Return the image."""
        return (inputs['image'],)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Encode images, shape (B, C, H, W).

        Returns:
            ``features``, shape (B, F).
        """
        return {'features': self.encoder(image)}


class WholeModel(NamedModel):
    """Multimodal model with the inputs ``image_<m>`` and ``available_<m>``.

    Images are in [0, 1], shape (B, C, H, W). The boolean ``available_<m>``, shape (B,), is
    true for the samples that have the modality. Images of other samples may have any
    values, including NaN, but need a valid shape. All images of a segmenter must have the
    same height and width.

    Args:
        model: a :class:`~torchgeo_decur.models.LateFusion` model, such as a classifier or
            segmenter, or a :class:`~torchgeo_decur.models.MultimodalEncoder`.
        predictions: module that converts logits to named predictions, such as
            :class:`~torchgeo_decur.models.ClassPredictions`. By default, the output is
            ``logits``. A ``MultimodalEncoder`` instead has the outputs ``features_<m>``,
            which are zero for samples without the modality.
        modalities: modalities of the inputs; all by default.
        sizes: height and width in pixels to which images are resized, by modality. Images
            of other modalities keep their size.

    Raises:
        ValueError: if the model has another type, or a modality is unknown.

    Example:
        >>> from torchgeo_decur.models import LateFusionClassifier
        >>> model = LateFusionClassifier({'s1': 2, 's2': 13}, 'test_resnet', num_classes=5)
        >>> WholeModel(model).input_names
        ['image_s1', 'image_s2', 'available_s1', 'available_s2']
    """

    def __init__(
        self,
        model: nn.Module,
        predictions: nn.Module | None = None,
        modalities: Sequence[str] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        """Initialize a new WholeModel instance."""
        super().__init__()
        if not isinstance(model, LateFusion | MultimodalEncoder):
            raise ValueError(
                'model must be a MultimodalEncoder or a model of late fusion, such as '
                f'LateFusionClassifier, got {type(model).__name__}'
            )
        encoders = model if isinstance(model, MultimodalEncoder) else model.encoders
        known = dict(encoders.encoders.items())
        names = list(known) if modalities is None else list(modalities)
        if not names or not set(names) <= set(known):
            raise ValueError(
                f'modalities must be among {list(known)}, got {names or "none"}'
            )
        self.model = model
        self.predictions = predictions
        self.sizes = dict(sizes or {})
        self.modalities = names
        self.channels = {
            f'image_{m}': count_channels(known[m].state_dict()) for m in names
        }
        self.one_grid = isinstance(model, Segmenter)
        self.input_names = [*self.channels, *(f'available_{m}' for m in names)]

    def arguments(self, inputs: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """Return the images and the availability masks, each by modality."""
        return tuple(
            {m: inputs[f'{kind}_{m}'] for m in self.modalities}
            for kind in ('image', 'available')
        )

    def forward(
        self, images: Mapping[str, Tensor], available: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Compute all outputs.

        Args:
            images: images of all modalities, in [0, 1], shape (B, C, H, W).
            available: boolean mask of the samples that have the modality, shape (B,), for
                each modality.

        Returns:
            Outputs by name.
        """
        images = {m: self._resize(m, x) for m, x in images.items()}
        if isinstance(self.model, MultimodalEncoder):
            hidden = {
                m: torch.where(available[m][:, None, None, None], x, 0)
                for m, x in images.items()
            }
            return {
                f'features_{m}': torch.where(available[m][:, None], h, 0)
                for m, h in self.model(hidden).items()
            }
        logits = self.model(images, available)
        if self.predictions is None:
            return {'logits': logits}
        found: dict[str, Tensor] = self.predictions(logits)
        return found

    def _resize(self, modality: str, x: Tensor) -> Tensor:
        size = self.sizes.get(modality)
        if not size:
            return x
        return interpolate(x, size=(size, size), mode='bilinear', antialias=True)
