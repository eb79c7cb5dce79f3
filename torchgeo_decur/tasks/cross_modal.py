"""Baselines for DeCUR: cross-modal Barlow Twins, VICReg, SimCLR and CLIP."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..losses import BarlowTwinsLoss, CLIPLoss, SimCLRLoss, VICRegLoss
from ..models.encoder import Weights
from .pretraining import MultimodalPretraining


class BarlowTwins(MultimodalPretraining):
    """Barlow Twins pretraining of one encoder per modality, with modalities as views.

    Zbontar et al., *Barlow Twins: Self-Supervised Learning via Redundancy Reduction*,
    ICML 2021, https://arxiv.org/abs/2103.03230. The loss drives the cross-correlation
    matrix of two modalities toward the identity. This is DeCUR without decoupling.

    Args:
        modalities: number of channels of each modality (one or more), by name.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each projector layer.
        lambda_param: weight of the off-diagonal elements of the correlation matrix.
        options: other arguments of
            :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

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
    """VICReg pretraining of one encoder per modality, with modalities as views.

    Bardes et al., *VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning*, ICLR 2022, https://arxiv.org/abs/2105.04906. The loss
    matches the embeddings of two modalities, preserves the variance of each dimension,
    and decorrelates the dimensions of each modality.

    Args:
        modalities: number of channels of each modality (one or more), by name.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each projector layer.
        invariance: weight of the invariance term, the distance between embeddings.
        variance: weight of the variance term.
        covariance: weight of the covariance term.
        options: other arguments of
            :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

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
    """SimCLR pretraining of one encoder per modality, with modalities as views.

    Chen et al., *A Simple Framework for Contrastive Learning of Visual
    Representations*, ICML 2020, https://arxiv.org/abs/2002.05709. The loss is NT-Xent,
    with negatives from both modalities. TorchGeo's ``SimCLR`` trains a single encoder
    on one modality.

    Args:
        modalities: number of channels of each modality (one or more), by name.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each projector layer.
        temperature: softmax temperature of the NT-Xent loss.
        options: other arguments of
            :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

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
    """CLIP pretraining of one encoder per modality, on images of the same location.

    Radford et al., *Learning Transferable Visual Models From Natural Language
    Supervision*, ICML 2021, https://arxiv.org/abs/2103.00020. The loss is averaged
    over all pairs of modalities, with negatives only from the other modality of the
    pair. The temperature is learned and logged with the collapse metrics.

    Args:
        modalities: number of channels of each modality (two or more), by name.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each projector layer.
        temperature: initial softmax temperature.
        options: other arguments of
            :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

    Raises:
        ValueError: if there are fewer than two modalities.

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
                f'modalities must name at least two modalities for CLIP, got '
                f'{list(modalities)}; add a modality'
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
        """Compute the collapse and alignment metrics and add the temperature.

        Returns:
            Scalar metrics, by name.
        """
        return {
            **super().collapse_metrics(h, z, available),
            'temperature': self.criterion.temperature,
        }
