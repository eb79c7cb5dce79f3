"""Heads between encoders and losses."""

from collections.abc import Mapping, Sequence

import torch
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn


def build_projector(in_features: int, widths: Sequence[int]) -> ProjectionHead:
    """Build the projector of DeCUR and Barlow Twins.

    Linear layers without bias, each but the last followed by BatchNorm and ReLU.

    Args:
        in_features: number of features of the encoder.
        widths: output width of each layer; the last is the number of dimensions D of
            the embedding. Without a layer, features are embeddings.

    Returns:
        A module from (B, ``in_features``) to (B, D).

    Raises:
        ValueError: if a width is not positive.

    Example:
        >>> import torch
        >>> build_projector(512, [128, 128])(torch.randn(4, 512)).shape
        torch.Size([4, 128])
    """
    if min(widths, default=1) < 1:
        raise ValueError(
            f'projector must be a list of positive layer widths, got {list(widths)}'
        )
    if not widths:
        return ProjectionHead([])
    sizes = list(zip([in_features, *widths[:-1]], widths, strict=True))
    hidden = [(i, o, nn.BatchNorm1d(o), nn.ReLU(), False) for i, o in sizes[:-1]]
    return ProjectionHead([*hidden, (*sizes[-1], None, None, False)])


def build_projectors(
    num_features: Mapping[str, int], widths: Sequence[int]
) -> nn.ModuleDict:
    """Build several projectors, to embeddings of the same dimensions.

    Args:
        num_features: number of features that each takes, by name.
        widths: output width of each layer, see
            :func:`~torchgeo_decur.models.build_projector`.

    Returns:
        The projectors, by name.

    Raises:
        ValueError: if a width is not positive, or there is no layer for features of
            different numbers.

    Example:
        >>> sorted(build_projectors({'s1': 64, 's2': 32}, [128, 128]))
        ['s1', 's2']
    """
    if not widths and len(set(num_features.values())) > 1:
        raise ValueError(
            'projector must have a layer for features of different numbers, '
            f'{dict(num_features)}, got []'
        )
    return nn.ModuleDict(
        {m: build_projector(f, widths) for m, f in num_features.items()}
    )


class FusionTransformer(nn.Module):
    """A transformer over the tokens of several modalities; its class token sums them up.

    A linear layer of its own brings the tokens of each modality to one width; its bias
    tells modalities apart. No position is added: modalities are cropped independently,
    so that a place in one feature map is not that place in another. Modalities that are
    not there have no tokens; nothing stands for them.

    Args:
        channels: number of channels of the tokens of each modality, by name.
        width: width of the transformer.
        depth: number of layers.
        heads: number of attention heads.

    Raises:
        ValueError: if an option is not positive, or ``heads`` do not divide ``width``.

    Example:
        >>> import torch
        >>> fusion = FusionTransformer({'s1': 64, 's2': 32}, width=16, heads=4)
        >>> fusion({'s2': torch.randn(2, 9, 32)}).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        width: int = 512,
        depth: int = 1,
        heads: int = 8,
    ) -> None:
        """Initialize a new FusionTransformer instance."""
        super().__init__()
        for name, value in (('width', width), ('depth', depth), ('heads', heads)):
            if value < 1:
                raise ValueError(f'{name} must be positive, got {value}')
        if width % heads:
            raise ValueError(f'width must be a multiple of {heads} heads, got {width}')
        self.adapters = nn.ModuleDict(
            {m: nn.Linear(c, width) for m, c in channels.items()}
        )
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, 'gelu', batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(
        self,
        tokens: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Fuse tokens.

        Args:
            tokens: tokens of some or all modalities, shape (B, N, C).
            available: whether each sample has a modality, shape (B,), boolean; one
                that is left out is there in all.

        Returns:
            The class token, shape (B, ``width``).

        Raises:
            ValueError: if there is no modality, or an unknown one.
        """
        if not tokens or not all(m in self.adapters for m in tokens):
            raise ValueError(
                f'tokens must be of some of {list(self.adapters)}, got {list(tokens)}'
            )
        size = len(next(iter(tokens.values())))
        sequence = [self.class_token.expand(size, -1, -1)]
        sequence += [self.adapters[m](x) for m, x in tokens.items()]
        absent = None
        if available:
            absent = torch.zeros(
                (size, sum(x.shape[1] for x in sequence)),
                dtype=torch.bool,
                device=self.class_token.device,
            )
            start = 1
            for m, x in tokens.items():
                if m in available:
                    absent[:, start : start + x.shape[1]] = ~available[m][:, None]
                start += x.shape[1]
        fused: Tensor = self.layers(
            torch.cat(sequence, dim=1), src_key_padding_mask=absent
        )
        return fused[:, 0]
