"""SimCLR, between modalities or between views of one."""

from collections.abc import Sequence
from typing import Any

from lightly.loss import NTXentLoss

from ..losses import CrossModalLoss
from ..models.encoder import Weights
from .pretraining import MultimodalPretraining


class CrossModalSimCLR(MultimodalPretraining):
    """Pretrain one encoder per modality with SimCLR, modalities as views.

    Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*,
    ICML 2020, https://arxiv.org/abs/2002.05709. The loss is NT-Xent, with negatives in
    both modalities. TorchGeo's ``SimCLR`` has one encoder for one modality.

    Args:
        modalities: number of channels of each modality, by name. A single one learns
            from its own two views.
        model: name of a timm model, one for all modalities or one for each.
        weights: start of the encoders, see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: width of each layer of the projectors; the last is the number of
            dimensions D of the embeddings. Without a layer, features are embeddings.
        temperature: temperature of NT-Xent.
        options: of :class:`~torchgeo_decur.tasks.MultimodalPretraining`: ``size``,
            ``augmentations``, ``optimizer``, ``lr``, ...

    Raises:
        ValueError: if an option is out of range or does not name the modalities.

    Example:
        >>> task = CrossModalSimCLR({'s1': 2, 's2': 13}, model='resnet18', projector=[64, 64])
        >>> sorted(task.projectors)
        ['s1', 's2']
    """

    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (8192, 8192, 8192),
        temperature: float = 0.1,
        **options: Any,
    ) -> None:
        """Initialize a new CrossModalSimCLR instance."""
        if not temperature > 0:
            raise ValueError(f'temperature must be positive, got {temperature}')
        super().__init__(modalities, model, weights, projector, **options)

    def configure_losses(self) -> None:
        """Build the loss."""
        loss = NTXentLoss(self.hparams['temperature'])
        self.criterion = CrossModalLoss(loss)
