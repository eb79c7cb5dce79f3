"""Classification by late fusion."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..encoder import MultimodalEncoder, Weights
from .late_fusion import LateFusion


class LateFusionClassifier(LateFusion):
    """Classifier with one linear layer on the concatenated features of all modalities.

    Args:
        modalities: number of channels by modality.
        model: name of a timm model, one for all modalities or one per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        num_classes: number of outputs.
        freeze_backbone: whether to freeze the encoders, which gives a linear probe; see
            :class:`~torchgeo_decur.models.LateFusion`.
        modality_dropout: probability of dropping a modality in training; see
            :class:`~torchgeo_decur.models.LateFusion`.
        bands: band names of the images by modality; see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.

    Raises:
        ValueError: if an option is invalid.

    Example:
        >>> import torch
        >>> classifier = LateFusionClassifier({'s1': 2, 's2': 13}, 'resnet18').eval()
        >>> classifier({'s2': torch.randn(4, 13, 64, 64)}).shape
        torch.Size([4, 19])
    """

    def __init__(
        self,
        modalities: Mapping[str, int],
        model: str | Mapping[str, str] = 'resnet50',
        weights: Weights | Mapping[str, Weights] = None,
        num_classes: int = 19,
        freeze_backbone: bool = False,
        modality_dropout: float = 0.0,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Initialize a new LateFusionClassifier instance."""
        encoders = MultimodalEncoder(modalities, model, weights, bands)
        channels = {m: [c] for m, c in encoders.num_features.items()}
        super().__init__(encoders, channels, freeze_backbone, modality_dropout)
        self.head = nn.Linear(sum(encoders.num_features.values()), num_classes)

    def decode(
        self, features: Mapping[str, Sequence[Tensor]], size: Sequence[int] = ()
    ) -> Tensor:
        """Classify features.

        Returns:
            Logits, shape (B, ``num_classes``).
        """
        logits: Tensor = self.head(self.fuse(features)[0])
        return logits
