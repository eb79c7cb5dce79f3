"""Multimodal encoder, with one timm model per modality."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Self, cast

import timm
import torch
from timm.models import is_model_in_modules
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from ..modalities import check_names, per_modality
from ..weights.encoder_files import Checkpoint
from ..weights.hub import HubFolder
from ..weights.load import Source, load_weights, match_parameters, read_weights
from ..weights.metadata import EncoderMetadata
from ..weights.state_dict_layouts import State, count_channels

# timm families that interpolate their position embeddings to the size of each image.
_DYNAMIC_SIZE = {'vision_transformer', 'deit', 'eva'}

type Weights = WeightsEnum | str | bool | None


def create_encoder(
    model: str, in_chans: int, pretrained: bool = False, **kwargs: Any
) -> nn.Module:
    """Create a timm model without a classifier, for any number of bands.

    Args:
        model: name of a timm model.
        in_chans: number of input channels C.
        pretrained: whether to load timm's ImageNet weights, with the first convolution
            adapted to ``in_chans``.
        kwargs: additional arguments of :func:`timm.create_model`.

    Returns:
        An encoder that maps images (B, C, H, W) to features (B, F). F is
        ``head_hidden_size`` if timm defines it, and ``num_features`` otherwise. Vision
        transformers accept images of any size: position embeddings are interpolated, and
        incomplete patches at the bottom and right edges are padded with zeros.

    Raises:
        FileNotFoundError: if ImageNet weights are not in the cache and cannot be
            downloaded.
        ValueError: if timm does not know the model.

    Example:
        >>> create_encoder('resnet18', in_chans=13).num_features
        512
    """
    if not timm.is_model(model):
        close = get_close_matches(model, timm.list_models(), n=3)
        hint = f'did you mean one of {close}?' if close else 'see timm.list_models()'
        raise ValueError(
            f'model must be the name of a timm model, got {model!r}; {hint}'
        )
    if is_model_in_modules(model, _DYNAMIC_SIZE):
        kwargs.setdefault('dynamic_img_size', True)
        kwargs.setdefault('dynamic_img_pad', True)
    try:
        encoder: nn.Module = timm.create_model(
            model, pretrained=pretrained, in_chans=in_chans, num_classes=0, **kwargs
        )
    # The Hub client also raises OSErrors.
    except OSError as error:
        if not pretrained:
            raise
        raise FileNotFoundError(
            f'the ImageNet weights of {model} are not in the cache and cannot be '
            f'downloaded ({type(error).__name__}); set `weights: null` for random weights, '
            'or copy the Hugging Face cache (HF_HOME) from another machine'
        ) from error
    return encoder


def check_model(
    checkpoint: Checkpoint, modality: str, state: State, model: str
) -> None:
    """Check that parameters match a timm model.

    Args:
        checkpoint: encoders from a file.
        modality: modality of the encoder in the checkpoint.
        state: parameters of the encoder.
        model: name of the timm model.

    Raises:
        ValueError: if timm does not know the model, or the parameters do not match it.
    """
    with torch.device('meta'):
        encoder = create_encoder(model, count_channels(state) or 3)
    known = EncoderMetadata(left_out=checkpoint.metadata[modality].left_out)
    match_parameters(encoder, Checkpoint(checkpoint.name, {'': state}, {'': known}), '')


class MultimodalEncoder(nn.Module, HubFolder):
    """Multimodal encoder with one timm model per modality, for any subset of modalities.

    ``save_pretrained(folder)`` writes the encoders as a Hugging Face Hub folder, with a
    model card created from ``metadata``. ``push_to_hub('user/name')`` publishes them.
    :meth:`HubFolder.from_pretrained` loads a folder or repository.

    Args:
        modalities: number of channels by modality.
        model: name of a timm model, one for all modalities or one per modality.
        weights: initial weights, one value for all modalities or one per modality. Values
            are None or False for random weights, True for timm's ImageNet weights, a
            weight enum, its name, or a file for
            :func:`~torchgeo_decur.models.load_weights`.
        bands: band names of the images, in order, by modality. If the weights name their
            bands, the first convolution is adapted to these bands.
        metadata: metadata of the encoders by modality, with the keys of exported files,
            such as ``bands``, ``unit`` and ``limits``.

    Raises:
        ValueError: if ``modalities`` is empty or has an invalid name, a model or modality
            is unknown, or the numbers of bands and channels differ.

    Example:
        >>> import torch
        >>> encoder = MultimodalEncoder({'s1': 2, 's2': 13}, model='resnet18')
        >>> features = encoder({'s1': torch.randn(4, 2, 64, 64)})
        >>> {m: tuple(h.shape) for m, h in features.items()}
        {'s1': (4, 512)}
    """

    def __init__(
        self,
        modalities: Mapping[str, int],
        model: str | Mapping[str, str] = 'resnet50',
        weights: Weights | Mapping[str, Weights] = None,
        bands: Mapping[str, Sequence[str]] | None = None,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Initialize a new MultimodalEncoder instance."""
        super().__init__()
        if not modalities:
            raise ValueError('modalities must contain at least one modality, got none')
        check_names(modalities)
        for m, names in (bands or {}).items():
            if len(names) != modalities.get(m):
                raise ValueError(
                    f'bands must have one name per channel of {m} in {dict(modalities)}, '
                    f'got {list(names)}'
                )
        self.modalities = {m: int(channels) for m, channels in modalities.items()}
        self.metadata = {m: dict(known) for m, known in (metadata or {}).items()}
        self.model = per_modality('model', model, modalities)
        starts = per_modality('weights', weights, modalities, default=False)
        self.encoders = nn.ModuleDict()
        for m, channels in modalities.items():
            imagenet = starts[m] is True
            self.encoders[m] = create_encoder(self.model[m], channels, imagenet)
        files = {m: s for m, s in starts.items() if s and not isinstance(s, bool)}
        if files:
            named = {m: b for m, b in (bands or {}).items() if m in files}
            load_weights(self.encoders, files, bands=named)

    @classmethod
    def from_weights(
        cls, weights: Source, modalities: Sequence[str] | None = None
    ) -> Self:
        """Build the encoders in a file, with their weights and metadata.

        Args:
            weights: weight enum, its name, or the path of a task checkpoint, an exported
                encoder or a published file.
            modalities: modalities to build, by default all.

        Returns:
            The encoders, with their ``metadata``.

        Raises:
            ValueError: if the file does not name its models, or lacks a modality or
                parameters.

        Example:
            >>> encoder = MultimodalEncoder.from_weights(
            ...     'ResNet50_Weights.SENTINEL1_2_DECUR'
            ... )  # doctest: +SKIP
            >>> encoder.metadata['s1']['unit']  # doctest: +SKIP
            'dB'
        """
        checkpoint = read_weights(weights)
        held = {known.modality: known for known in checkpoint.metadata.values()}
        wanted = list(held) if modalities is None else list(modalities)
        if unknown := sorted(set(wanted) - set(held)):
            raise ValueError(f'modalities must be among {list(held)}, got {unknown}')
        models = {m: held[m].model for m in wanted}
        if '' in models.values():
            raise ValueError(
                f'{checkpoint.name}: expected a file that names its models, found '
                f'{models}; use MultimodalEncoder(modalities, model, weights) instead'
            )
        built = cls(
            {m: held[m].in_chans for m in wanted},
            models,
            metadata={m: held[m].to_dict() for m in wanted},
        )
        for m, encoder in built.encoders.items():
            state, _ = match_parameters(encoder, checkpoint, m)
            encoder.load_state_dict(state, strict=False)
        return built

    @property
    def num_features(self) -> dict[str, int]:
        """Number of features by modality."""
        # Some timm families (MobileNetV3, VGG, ...) widen the features after pooling.
        encoders: dict[str, Any] = dict(self.encoders.items())
        return {
            m: int(getattr(e, 'head_hidden_size', e.num_features))
            for m, e in encoders.items()
        }

    @property
    def num_channels(self) -> dict[str, int]:
        """Number of token channels by modality."""
        encoders: dict[str, Any] = dict(self.encoders.items())
        return {m: int(e.num_features) for m, e in encoders.items()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enable or disable gradient checkpointing, which recomputes activations.

        Checkpointing saves memory and does not change the loss or gradients. However,
        recomputed BatchNorm layers update their running statistics again, unless the caller
        restores them.

        Args:
            enable: whether the backward pass recomputes activations.

        Raises:
            ValueError: if a model does not support gradient checkpointing.
        """
        set_grad_checkpointing(self.encoders, self.model, enable)

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encode images.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).

        Returns:
            Features by modality, each of shape (B, ``num_features``).

        Raises:
            ValueError: if a modality is unknown.
        """
        self._check(images)
        return {m: self.encoders[m](x) for m, x in images.items()}

    def tokens(
        self, images: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Encode images; also return the tokens before pooling.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).

        Returns:
            Features by modality, shape (B, ``num_features``), and tokens by modality,
            shape (B, N, ``num_channels``). Tokens are the positions of the last feature
            map, or the tokens of a transformer.

        Raises:
            ValueError: if a modality is unknown, or a model has no tokens.
        """
        self._check(images)
        encoders: dict[str, Any] = dict(self.encoders.items())
        maps = {m: encoders[m].forward_features(x) for m, x in images.items()}
        features = {m: encoders[m].forward_head(x) for m, x in maps.items()}
        return features, {m: to_tokens(encoders[m], x) for m, x in maps.items()}

    def _check(self, images: Mapping[str, Tensor]) -> None:
        unknown = sorted(set(images) - set(self.encoders))
        if unknown:
            raise ValueError(
                f'modalities of images must be among {list(self.encoders)}, got {unknown}'
            )


def is_channels_last(encoder: nn.Module) -> bool:
    """Check whether the feature maps of a timm model have the shape (B, H, W, C)."""
    return bool(getattr(encoder, 'output_fmt', 'NCHW') == 'NHWC')


def set_grad_checkpointing(
    encoders: nn.ModuleDict, model: Mapping[str, str], enable: bool = True
) -> None:
    """Set whether the backward pass of encoders recomputes activations.

    Args:
        encoders: encoder of each modality.
        model: name of the timm model of each modality.
        enable: whether to recompute activations.

    Raises:
        ValueError: if a model does not support it.
    """
    for m, encoder in encoders.items():
        try:
            cast(Any, encoder).set_grad_checkpointing(enable)
        # Some timm models raise AssertionError instead of AttributeError.
        except (AttributeError, AssertionError) as error:
            raise ValueError(
                'grad_checkpointing requires a model that supports it, got '
                f'{model[m]!r} for {m}; use smaller batches, or micro_batch_size in a '
                'pretraining, to save memory'
            ) from error


def to_tokens(encoder: nn.Module, maps: Tensor) -> Tensor:
    """Convert the output of a timm model's ``forward_features`` to tokens.

    Args:
        encoder: timm model, which determines the order of the dimensions.
        maps: feature map, shape (B, C, H, W) or (B, H, W, C), or tokens, shape (B, N, C).

    Returns:
        Tokens, shape (B, N, C).

    Raises:
        ValueError: if ``maps`` is neither a feature map nor tokens.

    Example:
        >>> import torch
        >>> to_tokens(nn.Identity(), torch.rand(2, 512, 3, 4)).shape
        torch.Size([2, 12, 512])
    """
    if not isinstance(maps, Tensor) or maps.ndim not in (3, 4):
        found = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(
            f'model must return a feature map or tokens, got {found} from '
            f'{type(encoder).__name__}; choose another timm model'
        )
    if maps.ndim == 3:
        return maps
    if is_channels_last(encoder):
        return maps.flatten(1, 2)
    return maps.flatten(2).transpose(1, 2)
