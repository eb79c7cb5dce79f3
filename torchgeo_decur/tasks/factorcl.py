"""FactorCL: factorized contrastive learning of shared and unique information."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..losses import FactorCLLoss
from ..losses.factorcl import PARTS
from ..models import ConcatProjector, build_projectors
from ..models.encoder import Weights
from .pretraining import MultimodalPretraining


class FactorCL(MultimodalPretraining):
    """FactorCL pretraining of one encoder for each of two modalities.

    Liang, Deng et al., *Factorized Contrastive Learning: Going Beyond Multi-view
    Redundancy*, NeurIPS 2023, https://arxiv.org/abs/2306.05268.

    Critics bound mutual information from below and above. The loss maximizes the
    information that modalities share, and the information that a modality shares with
    its augmented view. It minimizes shared information that augmentations remove, and
    information that the unique embeddings share. Each modality has one projector per
    bound. The critics belong to the criterion and are trained in the same step.

    Args:
        modalities: number of channels of each of two modalities, by name.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each layer of the five projectors per modality. An
            embedding concatenates their outputs, with the two for shared information
            first. Without layers, an embedding repeats the features.
        critic_dim: width of the hidden layers of each critic.
        options: other arguments of
            :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

    Raises:
        ValueError: if there are not exactly two modalities, an option is out of range,
            or its keys do not match the modalities.

    Example:
        >>> task = FactorCL({'s1': 2, 's2': 13}, model='resnet18', projector=[64, 64])
        >>> task.common_dim
        128
    """

    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (512, 512, 256),
        critic_dim: int = 512,
        **options: Any,
    ) -> None:
        """Initialize a new FactorCL instance."""
        if len(modalities) != 2:
            raise ValueError(
                'modalities must name exactly two modalities for FactorCL, '
                f'got {list(modalities)}; for more, use CoMM, InfMasking or DeCUR'
            )
        super().__init__(modalities, model, weights, projector, **options)

    def configure_models(self) -> None:
        """Build the encoders and one projector per modality and bound."""
        super().configure_models()
        features, widths = self.projector_in_features(), self.hparams['projector']
        heads = {part: build_projectors(features, widths) for part in PARTS}
        self.projectors = nn.ModuleDict(
            {m: ConcatProjector({k: h[m] for k, h in heads.items()}) for m in features}
        )

    def configure_losses(self) -> None:
        """Build the loss and its critics."""
        self.criterion = FactorCLLoss(self._part_dim, self.hparams['critic_dim'])

    @property
    def common_dim(self) -> int:
        """Number of dimensions for shared information, which come first."""
        return 2 * self._part_dim

    @property
    def _part_dim(self) -> int:
        widths: list[int] = list(self.hparams['projector'])
        # Without a projector, the features are the embeddings.
        return (widths or list(self.encoders.num_features.values()))[-1]
