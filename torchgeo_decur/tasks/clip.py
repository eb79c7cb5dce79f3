"""CLIP, between modalities."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..losses import CLIPLoss
from ..models.encoder import Weights
from .pretraining import MultimodalPretraining


class CLIP(MultimodalPretraining):
    """Pretrain one encoder per modality with CLIP, images of one place as pairs.

    Radford et al., *Learning Transferable Visual Models From Natural Language
    Supervision*, ICML 2021, https://arxiv.org/abs/2103.00020. Negatives are of the other
    modality alone, and the temperature is learned; it is logged with the signs of
    collapse as ``temperature``.

    Args:
        modalities: number of channels of each modality, by name; at least two.
        model: name of a timm model, one for all modalities or one for each.
        weights: start of the encoders, see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: width of each layer of the projectors; the last is the number of
            dimensions D of the embeddings. Without a layer, features are embeddings.
        temperature: start of the temperature.
        options: of :class:`~torchgeo_decur.tasks.MultimodalPretraining`: ``size``,
            ``augmentations``, ``optimizer``, ``lr``, ...

    Raises:
        ValueError: if an option is out of range or does not name the modalities.

    Example:
        >>> task = CLIP({'s1': 2, 's2': 13}, model='resnet18', projector=[64, 64])
        >>> sorted(task.projectors)
        ['s1', 's2']
    """

    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (8192, 8192, 8192),
        temperature: float = 0.07,
        **options: Any,
    ) -> None:
        """Initialize a new CLIP instance."""
        if len(modalities) < 2:
            raise ValueError(
                f'modalities must name at least two for CLIP, got {list(modalities)}'
            )
        super().__init__(modalities, model, weights, projector, **options)

    def configure_losses(self) -> None:
        """Build the loss."""
        self.criterion: CLIPLoss = CLIPLoss(self.hparams['temperature'])

    def indicators(
        self, h: Mapping[str, Tensor], z: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Measure collapse and alignment, and tell the temperature.

        Args:
            h: features by name, shape (B, F).
            z: embeddings by name, shape (V, N, D).

        Returns:
            Scalars by name.
        """
        return {**super().indicators(h, z), 'temperature': self.criterion.temperature}
