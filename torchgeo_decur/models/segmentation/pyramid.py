"""Feature pyramids, one per modality, with the weights of encoders."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from timm.models import FeatureListNet, checkpoint
from torch import Tensor, nn

from ...modalities import per_modality
from ...weights.state_dict_layouts import normalize_key
from ..encoder import (
    MultimodalEncoder,
    Weights,
    create_encoder,
    is_channels_last,
    set_grad_checkpointing,
)
from .tokens import TokenPyramid, has_tokens


class MultimodalPyramid(nn.Module):
    """Feature pyramids of any subset of modalities, with one timm model per modality.

    Each pyramid is timm's ``features_only`` version of the model, which renames the
    parameters of some families and lacks unused layers. Therefore, the complete encoder is
    built and loaded first, and its parameters are copied by normalized name. A pyramid
    accepts all weights of its encoder.

    The levels of a plain vision transformer are its tokens at four depths, resampled to
    strides 4 to 32. If some models start at stride 2 and others at stride 4, the level with
    stride 2 is omitted.

    Args:
        modalities: number of channels by modality.
        model: name of a timm model, one for all modalities or one per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        output_stride: stride of the last level: 32, or 16 to dilate the last stage of
            models that support it.
        bands: band names of the images by modality; see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.

    Attributes:
        channels: number of channels of each level by modality, finest first.
        strides: stride of each level.

    Raises:
        ValueError: if a model has no pyramid, modalities have levels with different
            strides, or an option is invalid.

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
        # Some families do not accept output_stride.
        options: dict[str, Any] = {}
        if output_stride != 32:
            options['output_stride'] = output_stride
        for m, number in modalities.items():
            encoder: Any = whole.encoders[m]
            if has_tokens(encoder):
                encoder = TokenPyramid(encoder, output_stride)
                self.channels[m], strides[m] = encoder.channels, encoder.strides
            else:
                encoder = self._features_only(m, number, options)
                _copy(whole.encoders[m], encoder)
                self.channels[m] = encoder.feature_info.channels()
                strides[m] = encoder.feature_info.reduction()
            self.encoders[m] = encoder
        # Some models start at stride 4, others at 2.
        number = min(map(len, strides.values()))
        if len({tuple(s[-number:]) for s in strides.values()}) > 1:
            raise ValueError(
                f'models must have levels with the same strides, got {strides}; choose '
                'the same model for all modalities'
            )
        self.strides = next(iter(strides.values()))[-number:]
        self.channels = {m: c[-number:] for m, c in self.channels.items()}

    def _features_only(
        self, modality: str, channels: int, options: Mapping[str, Any]
    ) -> nn.Module:
        model = self.model[modality]
        try:
            return create_encoder(model, channels, features_only=True, **options)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise ValueError(
                f'model must have a feature pyramid with output stride '
                f'{options.get("output_stride", 32)}, got {model!r} for {modality} '
                f'({error}); choose another timm model'
            ) from error

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Set whether the backward pass recomputes activations.

        See :meth:`MultimodalEncoder.set_grad_checkpointing()
        <torchgeo_decur.models.MultimodalEncoder.set_grad_checkpointing>`.

        Args:
            enable: whether to recompute activations.

        Raises:
            ValueError: if a model does not support it.
        """
        set_grad_checkpointing(self.encoders, self.model, enable)

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """Compute the pyramids.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).

        Returns:
            Levels by modality, finest first, shape (B, C', h, w).
        """
        return {m: self._levels(m, x) for m, x in images.items()}

    def _levels(self, modality: str, x: Tensor) -> list[Tensor]:
        encoder = self.encoders[modality]
        levels = cast(list[Tensor], encoder(x))[-len(self.strides) :]
        # Swin and similar models return channels last.
        last = is_channels_last(encoder)
        return [level.permute(0, 3, 1, 2) if last else level for level in levels]


class StagedPyramid(MultimodalPyramid):
    """Feature pyramids that run stage by stage so that modalities can interact in between.

    The levels have strides 4, 8, 16 and 32. The first stage includes all earlier layers.

    Args:
        modalities: number of channels by modality.
        model: name of a timm model, one for all modalities or one per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        bands: band names of the images by modality; see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.

    Raises:
        ValueError: if the stages of a model cannot run one by one, or an option is
            invalid.

    Example:
        >>> import torch
        >>> pyramid = StagedPyramid({'rgb': 3}, model='mit_b0')
        >>> (x,) = pyramid({'rgb': torch.rand(1, 3, 64, 64)})['rgb']
        >>> pyramid.stage('rgb', 1, x).shape
        torch.Size([1, 64, 8, 8])
    """

    def __init__(
        self,
        modalities: Mapping[str, int],
        model: str | Mapping[str, str] = 'mit_b2',
        weights: Weights | Mapping[str, Weights] = None,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Initialize a new StagedPyramid instance."""
        super().__init__(modalities, model, weights, bands=bands)
        self._stages: dict[str, list[list[str]]] = {}
        for m, encoder in self.encoders.items():
            # Swin and similar models return channels last; others are not sequential.
            if not isinstance(encoder, FeatureListNet) or encoder.output_fmt != 'NCHW':
                raise ValueError(
                    'model must have sequential stages, such as mit_b2 or resnet50, '
                    f'got {self.model[m]!r} for {m}'
                )
            # Split the sequence of modules after the last module of each level.
            own = cast(Any, encoder).feature_info.reduction()
            ends = zip(encoder.return_layers, own, strict=True)
            names = list(encoder)
            cuts = [0, *(names.index(end) + 1 for end, s in ends if s > 2)]
            self._stages[m] = [names[start:stop] for start, stop in pairwise(cuts)]
        keep = [i for i, stride in enumerate(self.strides) if stride > 2]
        self.strides = [self.strides[i] for i in keep]
        self.channels = {m: [c[i] for i in keep] for m, c in self.channels.items()}

    def stage(self, modality: str, index: int, x: Tensor) -> Tensor:
        """Run one stage of one encoder.

        Args:
            modality: name of the modality.
            index: index of the stage, starting at 0.
            x: images for stage 0, and the previous level for later stages, shape
                (B, C, H, W).

        Returns:
            The level of this stage, shape (B, C', h, w).
        """
        encoder = cast(nn.ModuleDict, self.encoders[modality])
        # As timm, keep the first module, whose input has no gradient, and in-place ones.
        recompute = getattr(encoder, 'grad_checkpointing', False)
        first = next(iter(encoder))
        for name in self._stages[modality][index]:
            module = encoder[name]
            if recompute and name != first and not getattr(module, 'inplace', False):
                x = checkpoint(module, x)
            else:
                x = module(x)
        return x

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """Compute the first level of each modality.

        Returns:
            Lists by modality, each with only the level of stride 4, shape (B, C', h, w).
        """
        return {m: [self.stage(m, 0, x)] for m, x in images.items()}


def _copy(source: nn.Module, target: nn.Module) -> None:
    """Copy parameters and buffers by normalized name between two versions of a model."""
    state = {normalize_key(k): v for k, v in source.state_dict().items()}
    wanted = target.state_dict()
    lacking = sorted(k for k in wanted if normalize_key(k) not in state)
    if lacking:
        raise ValueError(
            'model must have the parameters of its feature pyramid, but lacks '
            f'{len(lacking)}, such as {lacking[:3]}; choose another timm model'
        )
    target.load_state_dict({k: state[normalize_key(k)] for k in wanted})
