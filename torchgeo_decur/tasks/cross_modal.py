"""The baselines of DeCUR: Barlow Twins, VICReg, SimCLR and CLIP across modalities."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..losses import BarlowTwinsLoss, CLIPLoss, SimCLRLoss, VICRegLoss
from ..models.encoder import Weights
from .pretraining import MultimodalPretraining


class BarlowTwins(MultimodalPretraining):
    """Pretrain one encoder per modality with Barlow Twins, modalities as views.

    Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy Reduction*,
    ICML 2021, https://arxiv.org/abs/2103.03230. The cross-correlation matrix of two
    modalities approaches the identity. This is DeCUR without decoupling.

    Args:
        modalities: number of channels of each modality, by name; one or more.
        model: name of a timm model, one for all modalities or one for each.
        weights: initial weights, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: width of each layer of the projectors.
        lambda_param: weight of the off-diagonal elements of the correlation matrix.
        options: other options of :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

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
        super().__init__(modalities, model, weights, projector, **options)

    def configure_losses(self) -> None:
        """Build the loss."""
        self.criterion = BarlowTwinsLoss(self.hparams['lambda_param'])


class VICReg(MultimodalPretraining):
    """Pretrain one encoder per modality with VICReg, modalities as views.

    Bardes et al., *VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning*, ICLR 2022, https://arxiv.org/abs/2105.04906. The loss
    matches the embeddings of two modalities, keeps the variance of each dimension, and
    decorrelates the dimensions of each modality.

    Args:
        modalities: number of channels of each modality, by name; one or more.
        model: name of a timm model, one for all modalities or one for each.
        weights: initial weights, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: width of each layer of the projectors.
        invariance: weight of the distance between embeddings.
        variance: weight of the variance of each dimension.
        covariance: weight of the covariance of dimensions.
        options: other options of :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

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
        super().__init__(modalities, model, weights, projector, **options)

    def configure_losses(self) -> None:
        """Build the loss."""
        names = ('invariance', 'variance', 'covariance')
        self.criterion = VICRegLoss(*(self.hparams[name] for name in names))


class CrossModalSimCLR(MultimodalPretraining):
    """Pretrain one encoder per modality with SimCLR, modalities as views.

    Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*,
    ICML 2020, https://arxiv.org/abs/2002.05709. The loss is NT-Xent, with negatives in
    both modalities. TorchGeo's ``SimCLR`` has one encoder for one modality.

    Args:
        modalities: number of channels of each modality, by name; one or more.
        model: name of a timm model, one for all modalities or one for each.
        weights: initial weights, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: width of each layer of the projectors.
        temperature: temperature of NT-Xent.
        options: other options of :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

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
        super().__init__(modalities, model, weights, projector, **options)

    def configure_losses(self) -> None:
        """Build the loss."""
        self.criterion = SimCLRLoss(self.hparams['temperature'])


class CLIP(MultimodalPretraining):
    """Pretrain one encoder per modality with CLIP; images of one place are pairs.

    Radford et al., *Learning Transferable Visual Models From Natural Language
    Supervision*, ICML 2021, https://arxiv.org/abs/2103.00020. Negatives come only from
    the other modality. The temperature is learned, and logged with the metrics of
    collapse.

    Args:
        modalities: number of channels of each modality, by name; at least two.
        model: name of a timm model, one for all modalities or one for each.
        weights: initial weights, see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: width of each layer of the projectors.
        temperature: initial temperature.
        options: other options of :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

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

    def collapse_metrics(
        self,
        h: Mapping[str, Tensor],
        z: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute metrics of collapse and alignment, and the temperature.

        Returns:
            Scalars by name.
        """
        return {
            **super().collapse_metrics(h, z, available),
            'temperature': self.criterion.temperature,
        }
