"""Model whose embeddings are known sums of bands, to test analyses."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from torchgeo_decur.models import MultimodalEncoder


class ToyEncoder(nn.Module):
    """Encoder that weights bands at each position and averages all positions.

    Args:
        weights: feature by band, shape (F, C).
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        features, bands = weights.shape
        self.conv = nn.Conv2d(bands, features, 1, bias=False)
        self.conv.weight.data = weights[:, :, None, None].clone()
        self.feature_info = [{'module': 'conv', 'num_chs': features}]

    def forward_features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.conv(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x).mean((2, 3))


class ToyPretrained(nn.Module):
    """Task with one toy encoder per modality, whose features are embeddings.

    Args:
        weights: feature by band of each modality, shape (F, C).
    """

    def __init__(self, **weights: Tensor) -> None:
        super().__init__()
        channels = {m: w.shape[1] for m, w in weights.items()}
        self.encoders = MultimodalEncoder(channels, 'test_resnet')
        for m, w in weights.items():
            self.encoders.encoders[m] = ToyEncoder(w)
        self.projectors = nn.ModuleDict({m: nn.Identity() for m in weights})

    def encode_and_project(
        self, images: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features = self.encoders(images)
        return features, {m: self.projectors[m](h) for m, h in features.items()}

    def embed(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.encode_and_project(images)[1]


def corner(batch: int, channels: int, row: int, column: int, size: int = 8) -> Tensor:
    """Return images that are 1 in one quarter and 0 elsewhere."""
    x = torch.zeros(batch, channels, size, size)
    half = size // 2
    x[:, :, row * half : (row + 1) * half, column * half : (column + 1) * half] = 1
    return x
