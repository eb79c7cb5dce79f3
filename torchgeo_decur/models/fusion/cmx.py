"""CMX segmenter, whose two encoders exchange features after every stage."""

from collections.abc import Mapping, Sequence
from math import gcd
from typing import cast

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from torch import Tensor, nn

from ...deprecation import renamed_arguments
from ...modalities import check_grid
from ..encoder import Weights
from ..segmentation.decoders import build_decoder
from ..segmentation.pyramid import StagedPyramid
from ..segmentation.segmenter import Segmenter
from .late_fusion import impute_absent


def rectify(x: Tensor, other: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    r"""Add the feature map of the other modality, weighted by channel and position.

    .. math:: x' = x + \tfrac12 w^C \odot o + \tfrac12 w^S \odot o

    Args:
        x: feature map :math:`x`, shape (B, C, H, W).
        other: feature map :math:`o` of the other modality, same shape.
        channel: channel weights :math:`w^C` of ``other``, shape (B, C).
        spatial: spatial weights :math:`w^S` of ``other``, shape (B, H, W).

    Returns:
        The rectified feature map, shape (B, C, H, W).

    Example:
        >>> x, other = torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)
        >>> rectify(x, other, torch.tensor([[1.0]]), torch.tensor([[[0.0, 1.0]]]))
        tensor([[[[0.5000, 1.0000]]]])
    """
    return x + 0.5 * (channel[:, :, None, None] + spatial[:, None]) * other


def global_context(keys: Tensor, values: Tensor, num_heads: int) -> Tensor:
    r"""Summarize a feature map in one small matrix per head, at linear cost.

    .. math:: G = \operatorname{softmax}\bigl(K^\top V / \sqrt{d}\bigr)

    The softmax is over the key dimensions, and d is the number of dimensions per head. The
    sum over positions is computed in at least float32.

    Args:
        keys: keys :math:`K`, shape (B, N, C).
        values: values :math:`V`, shape (B, N, C).
        num_heads: number of heads.

    Returns:
        Context matrices, shape (B, num_heads, d, d). Their columns sum to 1.

    Example:
        >>> global_context(torch.zeros(1, 5, 4), torch.ones(1, 5, 4), num_heads=2)[0, 0]
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    dtype = torch.promote_types(keys.dtype, torch.float32)
    k, v = (_split(x.to(dtype), num_heads) for x in (keys, values))
    with torch.autocast(k.device.type, enabled=False):
        context: Tensor = (k.transpose(-2, -1) @ v / k.shape[-1] ** 0.5).softmax(-2)
    return context


def attend(queries: Tensor, context: Tensor) -> Tensor:
    """Attend to the context of the other modality.

    Args:
        queries: queries, shape (B, N, C).
        context: result of :func:`global_context`, shape (B, num_heads, d, d).

    Returns:
        The attention output, shape (B, N, C).
    """
    answers = _split(queries, context.shape[1]) @ context.to(queries.dtype)
    return answers.transpose(1, 2).flatten(2)


class FeatureRectification(nn.Module):
    r"""Mutual rectification of the features of two modalities.

    A perceptron predicts channel weights from the mean and maximum of both feature maps.
    Two 1x1 convolutions predict spatial weights. Both networks end with a sigmoid. The result
    :math:`x' = x + \tfrac12 (w^C + w^S) \odot o` adds the weighted feature map :math:`o` of
    the other modality.

    Args:
        channels: number of channels C of each feature map.

    Example:
        >>> x = torch.rand(2, 8, 5, 6)
        >>> first, second = FeatureRectification(8)(x, torch.zeros_like(x))
        >>> first.equal(x), second.equal(x)
        (True, False)
    """

    def __init__(self, channels: int) -> None:
        """Initialize a new FeatureRectification instance."""
        super().__init__()
        self.channel = nn.Sequential(
            nn.Linear(4 * channels, 4 * channels),
            nn.ReLU(),
            nn.Linear(4 * channels, 2 * channels),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(2 * channels, channels, kernel_size=1),
            nn.ReLU(),
            nn.Conv2d(channels, 2, kernel_size=1),
            nn.Sigmoid(),
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Rectify two feature maps.

        Args:
            first: feature map of the first modality, shape (B, C, H, W).
            second: feature map of the second modality, same shape.

        Returns:
            Both rectified feature maps.
        """
        both = torch.cat([first, second], dim=1)
        pooled = torch.cat([both.mean((2, 3)), both.amax((2, 3))], dim=1)
        channel = self.channel(pooled).chunk(2, dim=1)
        spatial = self.spatial(both).unbind(dim=1)
        return (
            rectify(first, second, channel[1], spatial[1]),
            rectify(second, first, channel[0], spatial[0]),
        )


class FeatureFusion(nn.Module):
    r"""Fusion of the feature maps of two modalities into one.

    Each modality is split into a residual part y and an interactive part u. The part u
    attends to the global context of the other modality, a d x d matrix per head. A linear
    layer maps y and the attention output back to C channels, followed by a residual
    connection and a LayerNorm. Finally, a shortcut and a depthwise convolution reduce both
    modalities to C channels.

    Args:
        channels: number of channels C of each feature map.
        num_heads: number of cross-attention heads, which must divide C.

    Example:
        >>> x = torch.rand(2, 8, 5, 6)
        >>> FeatureFusion(8, num_heads=2)(x, x).shape
        torch.Size([2, 8, 5, 6])
    """

    @renamed_arguments(heads='num_heads')
    def __init__(self, channels: int, num_heads: int) -> None:
        """Initialize a new FeatureFusion instance."""
        super().__init__()
        c = channels
        self.num_heads = num_heads
        self.split = nn.ModuleList(nn.Linear(c, 2 * c) for _ in range(2))
        self.keys_values = nn.ModuleList(
            nn.Linear(c, 2 * c, bias=False) for _ in range(2)
        )
        self.merge = nn.ModuleList(nn.Linear(2 * c, c) for _ in range(2))
        self.norm = nn.ModuleList(nn.LayerNorm(c) for _ in range(2))
        self.shortcut = nn.Conv2d(2 * c, c, kernel_size=1, bias=False)
        self.embed = nn.Sequential(
            nn.Conv2d(2 * c, c, kernel_size=1),
            nn.Conv2d(c, c, kernel_size=3, padding=1, groups=c),
            nn.ReLU(),
            nn.Conv2d(c, c, kernel_size=1),
            nn.BatchNorm2d(c),
        )
        self.embed_norm = nn.BatchNorm2d(c)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Fuse two feature maps.

        Args:
            first: feature map of the first modality, shape (B, C, H, W).
            second: feature map of the second modality, same shape.

        Returns:
            The fused feature map, shape (B, C, H, W).
        """
        tokens = [x.flatten(2).transpose(1, 2) for x in (first, second)]
        parts = [
            split(x).relu().chunk(2, dim=-1)
            for split, x in zip(self.split, tokens, strict=True)
        ]
        contexts = []
        for project, (_, u) in zip(self.keys_values, parts, strict=True):
            keys, values = project(u).chunk(2, dim=-1)
            contexts.append(global_context(keys, values, self.num_heads))
        exchanged = [
            norm(x + merge(torch.cat([y, attend(u, context)], dim=-1)))
            for norm, merge, x, (y, u), context in zip(
                self.norm, self.merge, tokens, parts, reversed(contexts), strict=True
            )
        ]
        both = torch.cat(exchanged, dim=-1).transpose(1, 2)
        both = both.unflatten(2, first.shape[2:])
        fused: Tensor = self.embed_norm(self.shortcut(both) + self.embed(both))
        return fused


class CMXSegmenter(Segmenter):
    """CMX segmenter, whose two encoders rectify each other's features after every stage.

    Zhang et al., *CMX: Cross-Modal Fusion for RGB-X Semantic Segmentation with
    Transformers*, IEEE Transactions on Intelligent Transportation Systems 2023,
    https://arxiv.org/abs/2203.04838.

    The rectified features of a stage are the input of the next stage of each encoder. A
    SegFormer decoder decodes the four fused feature maps.

    The features of an absent modality are zeros in every stage, so they do not affect the
    other modality. If a modality is absent from the whole batch, its encoder does not run.

    Both images must have the same size, because features are exchanged cell by cell.

    Args:
        modalities: number of channels of each of the two modalities, by name.
        backbone: name of a timm model, one for both modalities or one per modality. Its
            stages must be sequential, as in MiT, ResNet and ConvNeXt.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        num_classes: number of classes.
        freeze_backbone: whether to freeze the encoders; see
            :class:`~torchgeo_decur.models.LateFusion`. Rectification, fusion and decoder
            are always trained.
        modality_dropout: probability of dropping a modality in training; see
            :class:`~torchgeo_decur.models.LateFusion`.
        bands: band names of the images by modality; see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.

    Raises:
        ValueError: if there are not exactly two modalities, a backbone is unsuitable, or
            an option is invalid.

    Example:
        >>> segmenter = CMXSegmenter({'rgb': 3, 'hha': 3}, 'mit_b0', num_classes=37).eval()
        >>> segmenter({'rgb': torch.rand(2, 3, 50, 61)}).shape
        torch.Size([2, 37, 50, 61])
    """

    encoders: StagedPyramid

    def __init__(
        self,
        modalities: Mapping[str, int],
        backbone: str | Mapping[str, str] = 'mit_b2',
        weights: Weights | Mapping[str, Weights] = None,
        num_classes: int = 11,
        freeze_backbone: bool = False,
        modality_dropout: float = 0.0,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Initialize a new CMXSegmenter instance."""
        if len(modalities) != 2:
            raise ValueError(
                f'cmx requires exactly two modalities, got {list(modalities)}; use '
                'segformer for other numbers of modalities'
            )
        encoders = StagedPyramid(modalities, backbone, weights, bands)
        widths, other = encoders.channels.values()
        if widths != other:
            raise ValueError(
                'cmx requires backbones with the same number of channels per level for '
                f'both modalities, got {encoders.channels}; choose the same backbone for both'
            )
        decoder = build_decoder('segformer', widths, encoders.strides, num_classes)
        super().__init__(encoders, decoder, freeze_backbone, modality_dropout)
        # For MiT, these are 1, 2, 5 and 8 heads.
        num_heads = [width // gcd(*widths) for width in widths]
        self.rectification = nn.ModuleList(FeatureRectification(c) for c in widths)
        self.fusion = nn.ModuleList(map(FeatureFusion, widths, num_heads))
        initialize_decoder(self.rectification)
        initialize_decoder(self.fusion)

    def grid_size(
        self, images: Mapping[str, Tensor], size: Sequence[int] | None = None
    ) -> Sequence[int]:
        """Return the size of the images, which must be the same for both modalities.

        Args:
            images: images of one or both modalities, shape (B, C, H, W).
            size: not used, because logits have the size of the images.

        Returns:
            Height and width.

        Raises:
            ValueError: if the images have different sizes.
        """
        check_grid(images, "or set model: 'segformer', which supports different sizes")
        return next(iter(images.values())).shape[-2:]

    def mask(
        self,
        features: Mapping[str, Sequence[Tensor]],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, list[Tensor]]:
        """Set the features of absent modalities to zero and add a mask for each modality.

        Returns:
            Lists by modality with the first level, shape (B, C, h, w). If samples may lack
            a modality, a mask of shape (B, 1, 1, 1) follows, with 1 for samples that have
            the modality and 0 for all others.
        """
        if not available and not (self.training and self.modality_dropout > 0):
            return super().mask(features)
        noted = {
            m: [levels[0], levels[0].new_ones(levels[0].shape[0], 1, 1, 1)]
            for m, levels in features.items()
        }
        return super().mask(noted, available)

    def fuse(self, features: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
        """Rectify and fuse every stage, and run the next stage on the rectified features.

        Returns:
            The four fused levels, each of shape (B, C, h, w).
        """
        x = {m: levels[0] for m, levels in features.items()}
        presence = {m: p for m, levels in features.items() for p in levels[1:]}

        def hide(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {m: t * presence[m] if m in presence else t for m, t in maps.items()}

        def next_stage(i: int, m: str, t: Tensor) -> Tensor:
            # Keep placeholders for absent images out of BatchNorm statistics.
            if m in presence and self.encoders.training:
                t = impute_absent(t, presence[m].flatten().bool())
            return self.encoders.stage(m, i, t)

        fused = []
        for i, (rectification, fusion) in enumerate(
            zip(self.rectification, self.fusion, strict=True)
        ):
            if i:
                x = hide({m: next_stage(i, m, t) for m, t in x.items()})
            rectified = dict(
                zip(self.channels, rectification(*self._pair(x)), strict=True)
            )
            x = hide({m: rectified[m] for m in x})
            fused.append(cast(Tensor, fusion(*self._pair(x))))
        return fused

    def _pair(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the feature maps of both modalities, with zeros for an absent modality."""
        zeros = torch.zeros_like(next(iter(maps.values())))
        return [maps.get(m, zeros) for m in self.channels]


def _split(x: Tensor, num_heads: int) -> Tensor:
    """Split channels into heads: (B, N, C) to (B, num_heads, N, d)."""
    return torch.unflatten(x, -1, (num_heads, -1)).transpose(1, 2)
