"""Fusion heads, which compute joint features from the tokens of several encoders."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn

from ...deprecation import current_names, renamed_arguments
from ..encoder import MultimodalEncoder, Weights
from .fusion_transformer import FusionTransformer


class FusionHead(nn.Module, ABC):
    """Base class for heads that fuse tokens of any modalities into ``joint`` features.

    ``parts`` computes features of individual modalities, and ``forward`` fuses them. This
    allows fusing other subsets of modalities without running the encoders again.

    Attributes:
        arguments: constructor arguments, as plain values.
        num_features: number of ``joint`` features.
        channels: number of token channels by modality.
        bands: number of image channels by modality, empty for a head that only uses tokens.
    """

    arguments: dict[str, Any]
    num_features: int
    channels: dict[str, int]
    bands: dict[str, int]

    @property
    def encoders(self) -> dict[str, tuple[str, nn.Module]]:
        """Encoders of the head with their modalities, by file name."""
        return {}

    @property
    def description(self) -> dict[str, Any]:
        """Description of the head for :func:`build_fusion_head`, as plain values."""
        return {'class': type(self).__name__, **self.arguments}

    @abstractmethod
    def parts(
        self, images: Mapping[str, Tensor], tokens: Mapping[str, Tensor]
    ) -> dict[str, list[Tensor]]:
        """Compute the features of individual modalities.

        Args:
            images: images of some or all modalities, in [0, 1], shape (B, C, H, W).
            tokens: tokens from the encoders of these modalities, shape (B, N, C).

        Returns:
            Lists of tensors by modality, shape (B, ...). The first tensor of each list
            contains the tokens.
        """

    @abstractmethod
    def forward(
        self,
        parts: Mapping[str, Sequence[Tensor]],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Fuse the features of the given modalities.

        Args:
            parts: result of ``parts``, for some or all modalities.
            available: boolean masks of the samples that have a modality, shape (B,). A
                modality without a mask is present in all samples.

        Returns:
            Features by name, shape (B, F), including ``joint``.
        """


class JointHead(FusionHead):
    """Fusion head of CoMM and InfMasking.

    ``joint`` is the class token of a transformer over the tokens of all modalities.

    Args:
        channels: number of token channels by modality.
        embed_dim: embedding dimension of the transformer.
        depth: number of transformer layers.
        num_heads: number of attention heads.

    Raises:
        ValueError: if an option is not positive, or ``num_heads`` does not divide
            ``embed_dim``.

    Example:
        >>> head = JointHead({'s1': 64, 's2': 32}, embed_dim=16, depth=1, num_heads=4)
        >>> tokens = {'s1': torch.randn(2, 9, 64), 's2': torch.randn(2, 4, 32)}
        >>> parts = head.parts({}, tokens)
        >>> head(parts)['joint'].shape
        torch.Size([2, 16])
        >>> head({'s2': parts['s2']})['joint'].shape
        torch.Size([2, 16])
    """

    @renamed_arguments(width='embed_dim', heads='num_heads')
    def __init__(
        self,
        channels: Mapping[str, int],
        embed_dim: int = 512,
        depth: int = 1,
        num_heads: int = 8,
    ) -> None:
        """Initialize a new JointHead instance."""
        super().__init__()
        self.transformer = FusionTransformer(channels, embed_dim, depth, num_heads)
        self.num_features = embed_dim
        self.channels, self.bands = dict(channels), {}
        self.arguments = {
            'channels': self.channels,
            'embed_dim': embed_dim,
            'depth': depth,
            'num_heads': num_heads,
        }

    def parts(
        self, images: Mapping[str, Tensor], tokens: Mapping[str, Tensor]
    ) -> dict[str, list[Tensor]]:
        """Return the tokens unchanged.

        Returns:
            Tokens by modality.
        """
        return {m: [x] for m, x in tokens.items()}

    def forward(
        self,
        parts: Mapping[str, Sequence[Tensor]],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Fuse tokens.

        Returns:
            Features ``joint``, shape (B, ``embed_dim``).
        """
        tokens = {m: p[0] for m, p in parts.items()}
        return {'joint': self.transformer(tokens, available)}


class SharedUniqueHead(FusionHead):
    """Fusion head of COrAL, with shared features and unique features of each modality.

    ``shared`` is the class token of a transformer over the given tokens. A second encoder
    per modality computes other tokens. Attention with one learned query pools these tokens
    into unique features, which are named after the modality. ``joint`` concatenates
    ``shared`` and the unique features of all modalities, with zeros for absent modalities.

    Args:
        modalities: number of channels by modality.
        model: name of a timm model, one for all modalities or one per modality.
        embed_dim: dimension of the transformer and of the unique features.
        depth: number of transformer layers.
        num_heads: number of attention heads.
        weights: initial weights of the second encoders; see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.

    Raises:
        ValueError: if an option is invalid.

    Example:
        >>> head = SharedUniqueHead({'s1': 2, 's2': 13}, 'test_resnet', embed_dim=16, num_heads=4)
        >>> images = {'s2': torch.rand(2, 13, 32, 32)}
        >>> features = head(head.parts(images, {'s2': torch.randn(2, 4, 96)}))
        >>> {name: tuple(h.shape) for name, h in features.items()}
        {'s2': (2, 16), 'shared': (2, 16), 'joint': (2, 48)}
    """

    @renamed_arguments(width='embed_dim', heads='num_heads')
    def __init__(
        self,
        modalities: Mapping[str, int],
        model: str | Mapping[str, str] = 'resnet50',
        embed_dim: int = 512,
        depth: int = 1,
        num_heads: int = 8,
        weights: Weights | Mapping[str, Weights] = None,
    ) -> None:
        """Initialize a new SharedUniqueHead instance."""
        super().__init__()
        self.unique = MultimodalEncoder(modalities, model, weights)
        channels = self.unique.num_channels
        self.transformer = FusionTransformer(channels, embed_dim, depth, num_heads)
        self.pools = nn.ModuleDict(
            {
                m: nn.Sequential(
                    nn.Linear(c, embed_dim),
                    AttentionPoolLatent(embed_dim, num_heads=num_heads),
                )
                for m, c in channels.items()
            }
        )
        self.num_features = embed_dim * (1 + len(channels))
        self.channels, self.bands = channels, dict(modalities)
        self.arguments = {
            'modalities': self.bands,
            'model': self.unique.model,
            'embed_dim': embed_dim,
            'depth': depth,
            'num_heads': num_heads,
        }

    @property
    def encoders(self) -> dict[str, tuple[str, nn.Module]]:
        """Second encoders with their modalities, named ``<modality>_unique``."""
        return {f'{m}_unique': (m, e) for m, e in self.unique.encoders.items()}

    def parts(
        self, images: Mapping[str, Tensor], tokens: Mapping[str, Tensor]
    ) -> dict[str, list[Tensor]]:
        """Return the tokens unchanged and compute unique features.

        Returns:
            Tokens and unique features by modality.
        """
        own = self.unique.tokens(images)[1]
        return {m: [tokens[m], self.pools[m](x)] for m, x in own.items()}

    def forward(
        self,
        parts: Mapping[str, Sequence[Tensor]],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Fuse tokens and concatenate unique features.

        Returns:
            Unique features by modality and ``shared``, each of shape (B, ``embed_dim``),
            and ``joint``, shape (B, ``num_features``).
        """
        masks = available or {}
        shared = self.transformer({m: p[0] for m, p in parts.items()}, masks)
        unique = {
            m: p[1] * masks[m].to(p[1].dtype)[:, None] if m in masks else p[1]
            for m, p in parts.items()
        }
        absent = torch.zeros_like(shared)
        each = [unique.get(m, absent) for m in self.pools]
        return {**unique, 'shared': shared, 'joint': torch.cat([shared, *each], dim=1)}


_HEADS: dict[str, type[FusionHead]] = {
    head.__name__: head for head in (JointHead, SharedUniqueHead)
}


def build_fusion_head(description: Mapping[str, Any]) -> FusionHead:
    """Build a fusion head with random weights.

    Args:
        description: plain values from the property ``description`` of a fusion head.

    Returns:
        The fusion head.

    Raises:
        ValueError: if the class is unknown.

    Example:
        >>> head = JointHead({'s1': 64}, embed_dim=16, num_heads=4)
        >>> type(build_fusion_head(head.description)).__name__
        'JointHead'
    """
    arguments = dict(description)
    name = arguments.pop('class', None)
    if name not in _HEADS:
        raise ValueError(
            f'fusion must be one of the heads {list(_HEADS)}, got {name!r}'
        )
    head = _HEADS[name]
    return head(**current_names(head, arguments))


def load_fusion_head(file: str | Path) -> FusionHead:
    """Load an exported fusion head.

    Args:
        file: path of a ``fusion.safetensors`` file from
            :class:`~torchgeo_decur.callbacks.ExportEncoders`.

    Returns:
        The fusion head, with its weights.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file contains no fusion head.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"fusion must be 'concatenate' or an existing file, got {str(file)!r}"
        )
    try:
        with safetensors.safe_open(file, framework='pt') as opened:
            metadata = opened.metadata() or {}
        description = json.loads(metadata['fusion'])
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(
            f'{file}: expected a fusion head, such as fusion.safetensors from CoMM or '
            f'COrAL, found another type of file ({type(error).__name__}); choose another '
            'file'
        ) from error
    head = build_fusion_head(description)
    head.load_state_dict(safetensors.torch.load_file(file))
    return head
