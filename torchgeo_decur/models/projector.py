"""Projectors, which map features of encoders to embeddings for losses."""

from collections.abc import Mapping, Sequence

from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, cat, nn


def build_projector(in_features: int, widths: Sequence[int]) -> ProjectionHead:
    """Build the projector used by DeCUR and Barlow Twins.

    The linear layers have no bias. BatchNorm and ReLU follow every layer except the last.

    Args:
        in_features: number of encoder features.
        widths: output width of each layer. The last width is the embedding dimension D. An
            empty list gives the identity: the features are the embeddings.

    Returns:
        A module that maps (B, ``in_features``) to (B, D).

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
    """Build projectors with the same embedding dimension.

    Args:
        num_features: number of input features of each projector, by name.
        widths: output width of each layer; see
            :func:`~torchgeo_decur.models.build_projector`.

    Returns:
        Projectors by name.

    Raises:
        ValueError: if a width is not positive, or if ``widths`` is empty and the numbers
            of features differ.

    Example:
        >>> sorted(build_projectors({'s1': 64, 's2': 32}, [128, 128]))
        ['s1', 's2']
    """
    if not widths and len(set(num_features.values())) > 1:
        raise ValueError(
            'projector must have at least one layer, because the numbers of features '
            f'differ ({dict(num_features)}), got []'
        )
    return nn.ModuleDict(
        {m: build_projector(f, widths) for m, f in num_features.items()}
    )


class ConcatProjector(nn.Module):
    """Projector that concatenates several embeddings of the same features, for FactorCL.

    Args:
        heads: projectors of the embedding parts, by name.

    Example:
        >>> import torch
        >>> heads = {name: build_projector(512, [128, 64]) for name in ('shared', 'unique')}
        >>> ConcatProjector(heads)(torch.randn(4, 512)).shape
        torch.Size([4, 128])
    """

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        """Initialize a new ConcatProjector instance."""
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def forward(self, features: Tensor) -> Tensor:
        """Project features.

        Args:
            features: features, shape (B, F).

        Returns:
            Concatenated embeddings in the order of the heads, shape (B, sum of
            dimensions).
        """
        return cat([head(features) for head in self.heads.values()], dim=1)
