"""Transformer that fuses the tokens of several modalities."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...deprecation import renamed_arguments


class FusionTransformer(nn.Module):
    """Transformer over a class token and the tokens of several modalities.

    One linear layer per modality projects its tokens to a common dimension, and its bias
    encodes the modality. There are no position embeddings, because modalities are cropped
    independently. Absent modalities have no tokens.

    Args:
        channels: number of token channels by modality.
        embed_dim: embedding dimension of the transformer.
        depth: number of layers.
        num_heads: number of attention heads.

    Raises:
        ValueError: if an option is not positive, or ``num_heads`` does not divide
            ``embed_dim``.

    Example:
        >>> import torch
        >>> fusion = FusionTransformer({'s1': 64, 's2': 32}, embed_dim=16, num_heads=4)
        >>> fusion({'s2': torch.randn(2, 9, 32)}).shape
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
        """Initialize a new FusionTransformer instance."""
        super().__init__()
        for name, value in (
            ('embed_dim', embed_dim),
            ('depth', depth),
            ('num_heads', num_heads),
        ):
            if value < 1:
                raise ValueError(f'{name} must be positive, got {value}')
        if embed_dim % num_heads:
            raise ValueError(
                f'embed_dim must be a multiple of num_heads {num_heads}, got {embed_dim}'
            )
        self.adapters = nn.ModuleDict(
            {m: nn.Linear(c, embed_dim) for m, c in channels.items()}
        )
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, embed_dim))
        layer = nn.TransformerEncoderLayer(
            embed_dim,
            num_heads,
            4 * embed_dim,
            0.0,
            'gelu',
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, depth, nn.LayerNorm(embed_dim), enable_nested_tensor=False
        )

    def forward(
        self,
        tokens: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Fuse tokens.

        Args:
            tokens: tokens of some or all modalities, shape (B, N, C).
            available: boolean masks of the samples that have a modality, shape (B,). A
                modality without a mask is present in all samples.

        Returns:
            The output of the class token, shape (B, ``embed_dim``).

        Raises:
            ValueError: if there is no modality, or a modality is unknown.
        """
        if not tokens or not all(m in self.adapters for m in tokens):
            raise ValueError(
                f'modalities of tokens must be among {list(self.adapters)}, got '
                f'{list(tokens)}'
            )
        size = next(iter(tokens.values())).shape[0]
        sequence = [self.class_token.expand(size, -1, -1)]
        sequence += [self.adapters[m](x) for m, x in tokens.items()]
        absent = None
        if available:
            known = torch.zeros_like(sequence[0][..., 0], dtype=torch.bool)
            parts = [
                (~available[m][:, None] if m in available else known).expand(
                    -1, x.shape[1]
                )
                for m, x in tokens.items()
            ]
            absent = torch.cat([known, *parts], dim=1)
        fused: Tensor = self.layers(
            torch.cat(sequence, dim=1), src_key_padding_mask=absent
        )
        return fused[:, 0]
