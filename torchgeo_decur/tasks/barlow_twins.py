"""Barlow Twins, between modalities or between views of one."""

from collections.abc import Sequence
from typing import Any

from lightly.loss import BarlowTwinsLoss

from ..losses import CrossModalLoss
from ..models.encoder import Weights
from .pretraining import MultimodalPretraining


class BarlowTwins(MultimodalPretraining):
    """Pretrain one encoder per modality with Barlow Twins, modalities as views.

    Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy Reduction*,
    ICML 2021, https://arxiv.org/abs/2103.03230. Correlations of all dimensions across
    modalities are driven to the identity: the baseline of DeCUR.

    Args:
        modalities: number of channels of each modality, by name. A single one learns
            from its own two views.
        model: name of a timm model, one for all modalities or one for each.
        weights: start of the encoders, see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: width of each layer of the projectors; the last is the number of
            dimensions D of the embeddings. Without a layer, features are embeddings.
        lambda_param: weight of the off-diagonal elements of the correlation matrix.
        options: of :class:`~torchgeo_decur.tasks.MultimodalPretraining`: ``size``,
            ``augmentations``, ``optimizer``, ``lr``, ...

    Raises:
        ValueError: if an option is out of range or does not name the modalities.

    Example:
        >>> task = BarlowTwins({'s1': 2, 's2': 13}, model='resnet18', projector=[64, 64])
        >>> sorted(task.projectors)
        ['s1', 's2']
    """

    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (8192, 8192, 8192),
        lambda_param: float = 0.0051,
        **options: Any,
    ) -> None:
        """Initialize a new BarlowTwins instance."""
        if lambda_param < 0:
            raise ValueError(f'lambda_param must be >= 0, got {lambda_param}')
        super().__init__(modalities, model, weights, projector, **options)

    def configure_losses(self) -> None:
        """Build the loss."""
        loss = BarlowTwinsLoss(self.hparams['lambda_param'])
        self.criterion = CrossModalLoss(loss)
