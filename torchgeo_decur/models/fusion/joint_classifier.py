"""Classification of the joint features of a pretrained fusion head."""

from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from ..encoder import MultimodalEncoder, Weights
from .joint_heads import FusionHead
from .late_fusion import LateFusion


class FusionHeadClassifier(LateFusion):
    """Fuse the tokens of all modalities with a pretrained head, and classify them.

    An absent modality is not replaced by zeros: the transformer runs without its tokens,
    for the whole batch or for single samples.

    Args:
        modalities: number of channels of each modality, by name; some or all modalities
            of the head.
        fusion: the head, for example from
            :func:`~torchgeo_decur.models.load_fusion_head`.
        model: name of a timm model, one for all modalities or one for each.
        weights: initial weights, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        num_classes: number of outputs.
        freeze_backbone: whether to freeze encoders and head.
        modality_dropout: see :class:`~torchgeo_decur.models.LateFusion`.
        bands: see :class:`~torchgeo_decur.models.MultimodalEncoder`.

    Raises:
        ValueError: if an option is not valid, or the head is for other encoders.

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
                'fusion must be a head of the same encoders and modalities with channels '
                f'of (tokens, images) {found}, got {expected}'
            )
        channels = {m: [c] for m, c in encoders.num_channels.items()}
        super().__init__(encoders, channels, freeze_backbone, modality_dropout)
        self.fusion = fusion
        if freeze_backbone:
            self.fusion.requires_grad_(False).eval()
        self.head = nn.Linear(fusion.num_features, num_classes)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, except of frozen encoders and head."""
        super().train(mode)
        if self.freeze_backbone:
            self.fusion.eval()
        return self

    def features(self, images: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """Compute the input of the head from each modality.

        Returns:
            The ``parts`` of the head, and ones, shape (B, 1), which ``mask`` sets to
            zero for samples without the modality.
        """
        _, tokens = self.encoders.tokens(images)
        parts = self.fusion.parts(images, tokens)
        return {
            m: [*part, part[0].new_ones(len(part[0]), 1)] for m, part in parts.items()
        }

    def decode(
        self, features: Mapping[str, Sequence[Tensor]], size: Sequence[int] = ()
    ) -> Tensor:
        """Fuse and classify.

        Returns:
            Logits, shape (B, ``num_classes``).
        """
        parts = {m: levels[:-1] for m, levels in features.items()}
        available = {m: levels[-1][:, 0] > 0 for m, levels in features.items()}
        logits: Tensor = self.head(self.fusion(parts, available)['joint'])
        return logits
