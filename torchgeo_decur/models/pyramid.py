"""One feature pyramid per modality, started from the same files as the encoders."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from ..modalities import per_modality
from .checkpoints import place
from .encoder import MultimodalEncoder, Weights, create_encoder


class MultimodalPyramid(nn.Module):
    """The encoders of :class:`~torchgeo_decur.models.MultimodalEncoder`, giving the maps of every stage.

    Each is timm's ``features_only`` version of the model. That version renames the
    parameters of some families (``stages.0`` becomes ``stages_0``, or all get a prefix
    ``model.``) and leaves out what only the pooled features need; a ResNet keeps every
    name. So the whole encoder is built and loaded first, and its parameters are copied
    by their place: any file that starts an encoder starts its pyramid.

    Args:
        modalities: number of channels of each modality, by name.
        model: name of a timm model, one for all modalities or one for each.
        weights: start of the encoders, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        output_stride: stride of the last level; 16 dilates the last stage, for models
            that timm can dilate.
        bands: see :class:`~torchgeo_decur.models.MultimodalEncoder`.

    Attributes:
        channels: channels of each level of each modality, finest first.
        strides: stride of each level.

    Raises:
        ValueError: if a model has no pyramid, the modalities have levels of different
            strides, or an option is not valid.

    Example:
        >>> import torch
        >>> pyramid = MultimodalPyramid({'s1': 2}, model='resnet18')
        >>> [tuple(x.shape[1:]) for x in pyramid({'s1': torch.randn(1, 2, 64, 64)})['s1']]
        [(64, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    """

    def __init__(
        self,
        modalities: Mapping[str, int],
        model: str | Mapping[str, str] = 'resnet50',
        weights: Weights | Mapping[str, Weights] = None,
        output_stride: int = 32,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Initialize a new MultimodalPyramid instance."""
        super().__init__()
        whole = MultimodalEncoder(modalities, model, weights, bands)
        self.model = per_modality('model', model, modalities)
        self.encoders = nn.ModuleDict()
        self.channels: dict[str, list[int]] = {}
        strides: dict[str, list[int]] = {}
        # Not every family takes the argument.
        options: dict[str, Any] = {}
        if output_stride != 32:
            options['output_stride'] = output_stride
        for m, number in modalities.items():
            try:
                encoder = create_encoder(
                    self.model[m], number, features_only=True, **options
                )
            except (RuntimeError, TypeError, NotImplementedError) as error:
                raise ValueError(
                    f'model must have a feature pyramid of output stride '
                    f'{output_stride}, got {self.model[m]!r} for {m} ({error})'
                ) from error
            _copy(whole.encoders[m], encoder)
            info: Any = encoder.feature_info
            self.encoders[m] = encoder
            self.channels[m] = info.channels()
            strides[m] = info.reduction()
        if len({tuple(s) for s in strides.values()}) > 1:
            raise ValueError(
                f'models must have levels of the same strides, got {strides}'
            )
        self.strides = next(iter(strides.values()))

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """Compute the pyramids.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).

        Returns:
            The levels of each modality given, finest first, shape (B, C', h, w).
        """
        return {m: self._levels(m, x) for m, x in images.items()}

    def _levels(self, modality: str, x: Tensor) -> list[Tensor]:
        levels = cast(list[Tensor], self.encoders[modality](x))
        # Swin and its kin put channels last.
        return [
            level if level.shape[1] == channels else level.permute(0, 3, 1, 2)
            for level, channels in zip(levels, self.channels[modality], strict=True)
        ]


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters and buffers between two namings of one model."""
    state = {place(k): v for k, v in source.state_dict().items()}
    wanted = target.state_dict()
    lacking = sorted(k for k in wanted if place(k) not in state)
    if lacking:
        raise ValueError(
            f'pyramid must have only parameters of its encoder, got also {lacking[:3]}'
        )
    target.load_state_dict({k: state[place(k)] for k in wanted})
