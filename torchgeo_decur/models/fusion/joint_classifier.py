"""Classification of joint features from a pretrained fusion head."""

from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from ..encoder import MultimodalEncoder, Weights
from .joint_heads import FusionHead
from .late_fusion import LateFusion


class FusionHeadClassifier(LateFusion):
    """Classifier on the joint features of a pretrained fusion head.

    Absent modalities are not replaced by zeros. Instead, the transformer runs without
    their tokens, for the whole batch or for individual samples.

    Args:
        modalities: number of channels by modality, for some or all modalities of the
            fusion head.
        fusion: fusion head, for example from
            :func:`~torchgeo_decur.models.load_fusion_head`.
        model: name of a timm model, one for all modalities or one per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        num_classes: number of outputs.
        freeze_backbone: whether to freeze the encoders and the fusion head.
        modality_dropout: probability of dropping a modality in training; see
            :class:`~torchgeo_decur.models.LateFusion`.
        bands: band names of the images by modality; see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.

    Raises:
        ValueError: if an option is invalid, or the fusion head is for other encoders.

    Example:
        >>> import torch
        >>> from torchgeo_decur.models import JointHead
        >>> head = JointHead({'s1': 96, 's2': 96}, embed_dim=32, num_heads=4)
        >>> modalities = {'s1': 2, 's2': 13}
        >>> classifier = FusionHeadClassifier(modalities, head, 'test_resnet').eval()
        >>> classifier({'s2': torch.randn(4, 13, 64, 64)}).shape
        torch.Size([4, 19])
    """

    encoders: MultimodalEncoder

    def __init__(
        self,
        modalities: Mapping[str, int],
        fusion: FusionHead,
        model: str | Mapping[str, str] = 'resnet50',
        weights: Weights | Mapping[str, Weights] = None,
        num_classes: int = 19,
        freeze_backbone: bool = False,
        modality_dropout: float = 0.0,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Initialize a new FusionHeadClassifier instance."""
        encoders = MultimodalEncoder(modalities, model, weights, bands)
        found = {
            m: (c, modalities[m] if m in fusion.bands else None)
            for m, c in encoders.num_channels.items()
        }
        expected = {m: (c, fusion.bands.get(m)) for m, c in fusion.channels.items()}
        if any(expected.get(m) != pair for m, pair in found.items()):
            raise ValueError(
                'fusion must be a head for these encoders and modalities, with (token, '
                f'image) channels {found}, got {expected}; choose encoders and a fusion '
                'head from the same run'
            )
        channels = {m: [c] for m, c in encoders.num_channels.items()}
        super().__init__(encoders, channels, freeze_backbone, modality_dropout)
        self.fusion = fusion
        if freeze_backbone:
            self.fusion.requires_grad_(False).eval()
        self.head = nn.Linear(fusion.num_features, num_classes)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, except for a frozen backbone and fusion head."""
        super().train(mode)
        if self.freeze_backbone:
            self.fusion.eval()
        return self

    def features(self, images: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """Compute the input of the fusion head for each modality.

        Returns:
            Lists by modality with the ``parts`` of the fusion head, followed by ones of
            shape (B, 1). The method ``mask`` sets these ones to zero for samples without
            the modality.
        """
        _, tokens = self.encoders.tokens(images)
        parts = self.fusion.parts(images, tokens)
        return {
            m: [*part, part[0].new_ones(part[0].shape[0], 1)]
            for m, part in parts.items()
        }

    def decode(
        self, features: Mapping[str, Sequence[Tensor]], size: Sequence[int] = ()
    ) -> Tensor:
        """Fuse and classify features.

        Returns:
            Logits, shape (B, ``num_classes``).
        """
        parts = {m: levels[:-1] for m, levels in features.items()}
        available = {m: levels[-1][:, 0] > 0 for m, levels in features.items()}
        logits: Tensor = self.head(self.fusion(parts, available)['joint'])
        return logits
