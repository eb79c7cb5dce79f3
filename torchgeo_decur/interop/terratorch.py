"""Encoders as a TerraTorch backbone (https://github.com/torchgeo/terratorch).

Importing this module registers the backbone. TerraTorch imports the folder
``custom_modules`` in its working directory. If a file in this folder contains
``import torchgeo_decur.interop.terratorch``, configs accept
``backbone: decur_encoders``.
"""

from collections.abc import Mapping, Sequence

import torch
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY
from torch import Tensor, nn

from ..models import MultimodalEncoder, MultimodalPyramid
from ..weights.load import Source


class EncoderBackbone(nn.Module):
    """TerraTorch backbone that concatenates the feature pyramids of all modalities.

    Feature maps of the same pyramid level are concatenated along their channels.

    Args:
        weights: a checkpoint, an exported encoder, a weight enum entry or its name. It
            determines the weights and models of the encoders.
        modalities: names of the modalities to use; all by default.
        bands: names of the image bands in order, by modality. They are needed only if
            they differ from the bands of the weights.
        out_indices: indices of the pyramid levels to return, where 0 is the finest; all
            by default.

    Attributes:
        out_channels: number of channels of each level, summed over all modalities.

    Raises:
        ValueError: if the weights do not name their models or do not match them.
    """

    def __init__(
        self,
        weights: Source,
        modalities: Sequence[str] | None = None,
        bands: Mapping[str, Sequence[str]] | None = None,
        out_indices: Sequence[int] | None = None,
    ) -> None:
        """Initialize a new EncoderBackbone instance."""
        super().__init__()
        held = MultimodalEncoder.from_weights(weights, modalities)
        named = {m: list(b) for m, b in (bands or {}).items()}
        self.pyramid = MultimodalPyramid(
            {m: len(named.get(m, ())) or n for m, n in held.modalities.items()},
            held.model,
            weights=dict.fromkeys(held.modalities, weights),
            bands=named,
        )
        levels = range(len(self.pyramid.strides))
        self.out_indices = [levels[i] for i in out_indices or levels]
        per_level = list(zip(*self.pyramid.channels.values(), strict=True))
        self.out_channels = [sum(per_level[i]) for i in self.out_indices]

    def forward(self, x: Tensor | Mapping[str, Tensor]) -> list[Tensor]:
        """Compute the feature maps of the selected pyramid levels.

        Args:
            x: images in [0, 1], shape (B, C, H, W), or a dictionary of images by
                modality.

        Returns:
            Feature map of each level in ``out_indices``, shape
            (B, ``out_channels[i]``, h, w).

        Raises:
            ValueError: if the images and the encoders have different modalities.
        """
        expected = list(self.pyramid.encoders)
        if isinstance(x, Tensor) and len(expected) == 1:
            x = {expected[0]: x}
        if isinstance(x, Tensor) or set(x) != set(expected):
            found = 'one tensor' if isinstance(x, Tensor) else list(x)
            raise ValueError(
                f'images must be a dictionary with {expected}, got {found}; use these '
                'modality names in the data'
            )
        levels = self.pyramid({m: x[m] for m in expected})
        return [
            torch.cat([levels[m][i] for m in expected], 1) for i in self.out_indices
        ]


@TERRATORCH_BACKBONE_REGISTRY.register  # type: ignore[untyped-decorator,unused-ignore]
def decur_encoders(
    weights: str,
    modalities: list[str] | None = None,
    bands: dict[str, list[str]] | None = None,
    out_indices: list[int] | None = None,
) -> EncoderBackbone:
    """Build an :class:`EncoderBackbone` from TerraTorch's ``backbone_*`` options."""
    return EncoderBackbone(weights, modalities, bands, out_indices)
