"""VICReg, between modalities or between views of one."""

from collections.abc import Sequence
from typing import Any

from lightly.loss import VICRegLoss

from ..losses import CrossModalLoss
from ..models.encoder import Weights
from .pretraining import MultimodalPretraining


class VICReg(MultimodalPretraining):
    """Pretrain one encoder per modality with VICReg, modalities as views.

    Bardes et al., *VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning*, ICLR 2022, https://arxiv.org/abs/2105.04906. Embeddings of
    two modalities are made equal, each dimension keeps its variance, and dimensions
    are decorrelated within each modality.

    Args:
        modalities: number of channels of each modality, by name. A single one learns
            from its own two views.
        model: name of a timm model, one for all modalities or one for each.
        weights: start of the encoders, see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: width of each layer of the projectors; the last is the number of
            dimensions D of the embeddings. Without a layer, features are embeddings.
        invariance: weight of the distance between embeddings.
        variance: weight of the variance of each dimension.
        covariance: weight of the covariance of dimensions.
        options: of :class:`~torchgeo_decur.tasks.MultimodalPretraining`: ``size``,
            ``augmentations``, ``optimizer``, ``lr``, ...

    Raises:
        ValueError: if an option is out of range or does not name the modalities.

    Example:
        >>> task = VICReg({'s1': 2, 's2': 13}, model='resnet18', projector=[64, 64])
        >>> sorted(task.projectors)
        ['s1', 's2']
    """

    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (8192, 8192, 8192),
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        **options: Any,
    ) -> None:
        """Initialize a new VICReg instance."""
        terms = dict(invariance=invariance, variance=variance, covariance=covariance)
        for name, weight in terms.items():
            if weight < 0:
                raise ValueError(f'{name} must be >= 0, got {weight}')
        super().__init__(modalities, model, weights, projector, **options)

    def configure_losses(self) -> None:
        """Build the loss."""
        names = ('invariance', 'variance', 'covariance')
        loss = VICRegLoss(*(self.hparams[name] for name in names))
        self.criterion = CrossModalLoss(loss)
