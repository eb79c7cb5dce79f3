"""Base class of the tasks that fuse the tokens of all modalities."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..deprecation import renamed_arguments
from ..modalities.present_samples import PresentSamples
from ..models import FusionHead
from ..models.encoder import Weights
from .pretraining import MultimodalPretraining


class FusionPretraining(MultimodalPretraining):
    """Base class of the self-supervised tasks with a fusion head over tokens.

    Tokens are the spatial positions of an encoder's last feature map, or the tokens of
    a transformer encoder. A subclass builds the fusion head and the loss.

    Args:
        modalities: number of channels of each modality, by name; names must not be
            'joint', 'shared', 'fusion' or '<other>_unique'.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each projector layer.
        embed_dim: width of the fusion transformer.
        depth: number of layers of the fusion transformer.
        num_heads: number of attention heads of the fusion transformer.
        options: other arguments of
            :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

    Raises:
        ValueError: if the name of a modality is reserved.
    """

    architecture_hparams = (
        'modalities',
        'model',
        'projector',
        'embed_dim',
        'depth',
        'num_heads',
    )

    @renamed_arguments(width='embed_dim', heads='num_heads')
    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (512, 512, 256),
        embed_dim: int = 512,
        depth: int = 1,
        num_heads: int = 8,
        **options: Any,
    ) -> None:
        """Initialize a new FusionPretraining instance."""
        # These names are used to store features, the fusion head and its encoders.
        results = {'joint', 'shared', 'fusion', *(f'{m}_unique' for m in modalities)}
        if taken := sorted(results & set(modalities)):
            raise ValueError(
                "modalities must not be named 'joint', 'shared', 'fusion' or "
                f"'<other>_unique', which the task's outputs use, got {taken}; rename "
                'these modalities'
            )
        super().__init__(modalities, model, weights, projector, **options)

    def configure_models(self) -> None:
        """Build encoders, projectors and the fusion head."""
        super().configure_models()
        self.fusion = self.build_fusion().to(memory_format=torch.channels_last)

    def compile_parts(self) -> None:
        """Compile encoders, projectors, loss and fusion head in place."""
        super().compile_parts()
        self.fusion.compile()
        encoders: dict[str, Any] = dict(self.encoders.encoders.items())
        for encoder in encoders.values():
            # The fusion head uses the tokens before pooling.
            encoder.forward_features = torch.compile(encoder.forward_features)

    @abstractmethod
    def build_fusion(self) -> FusionHead:
        """Build the fusion head."""

    def encode(
        self, images: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """Compute the pooled features of each modality and the input of the fusion head.

        Args:
            images: images of some or all modalities in [0, 1], shape (B, C, H, W).

        Returns:
            Features of each given modality, shape (B, ``num_features``), and the input
            of the fusion head, by modality.
        """
        features, tokens = self.encoders.tokens(images)
        return features, self.fusion.parts(images, tokens)

    def fuse(
        self,
        parts: Mapping[str, Sequence[Tensor]],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Apply the fusion head, with the tokens of absent modalities masked.

        Args:
            parts: input of the fusion head, from :meth:`encode`.
            available: whether each sample has a modality, shape (B,), boolean, on the
                CPU. ``parts`` must then contain only samples that have the modality.

        Returns:
            Outputs of the head, by name. With ``available``, an output omits samples
            that have none of its modalities.
        """
        if available is None:
            alone: dict[str, Tensor] = self.fusion(parts)
            return alone
        device = next(iter(parts.values()))[0].device
        samples = PresentSamples(available, device)
        whole = {m: [samples.spread(m, x) for x in p] for m, p in parts.items()}
        fused: dict[str, Tensor] = self.fusion(whole, samples.on_device())
        return {n: samples.select(n, x) for n, x in fused.items()}

    def forward(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the features of each given modality and the fused features.

        Returns:
            Features of each given modality, and outputs of the fusion head such as
            ``joint``, shape (B, F).
        """
        features, parts = self.encode(images)
        return {**features, **self.fusion(parts)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description of the fusion head in the checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint['fusion'] = self.fusion.description
