"""DeCUR: decoupling common and unique representations."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..losses import DeCURLoss
from ..models.encoder import Weights
from .pretraining import MultimodalPretraining


class DeCUR(MultimodalPretraining):
    """DeCUR pretraining of one encoder per modality.

    Wang et al., *Decoupling Common and Unique Representations for Multimodal
    Self-supervised Learning*, ECCV 2024, https://arxiv.org/abs/2309.05300. The loss
    aligns the common dimensions of the embeddings across modalities and decorrelates
    their unique dimensions. Its intra-modal terms align all dimensions between two
    views of each modality.

    Args:
        modalities: number of channels of each modality (two or more), by name.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each projector layer; the last one is the embedding
            dimension D. Without layers, the features are the embeddings.
        common_ratio: fraction of common dimensions, in [0, 1]; 1 turns decoupling off.
            In the paper, 0.875 was best for radar and optical images, and 0.75 for RGB
            with elevation or depth.
        lambda_param: weight of the off-diagonal elements of the correlation matrices.
        intra: whether the loss includes the intra-modal terms.
        options: other arguments of
            :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

    Raises:
        ValueError: if there are fewer than two modalities or an option is out of range.

    Example:
        >>> import torch
        >>> task = DeCUR({'s1': 2, 's2': 13}, model='resnet18', projector=[64, 64])
        >>> task.embed({'s1': torch.rand(4, 2, 64, 64)})['s1'].shape
        torch.Size([4, 64])
    """

    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (8192, 8192, 8192),
        common_ratio: float = 0.875,
        lambda_param: float = 0.0051,
        intra: bool = True,
        **options: Any,
    ) -> None:
        """Initialize a new DeCUR instance."""
        if len(modalities) < 2:
            raise ValueError(
                f'modalities must name at least two modalities for DeCUR, got '
                f'{list(modalities)}; add a modality'
            )
        if not 0 <= common_ratio <= 1:
            raise ValueError(f'common_ratio must be in [0, 1], got {common_ratio}')
        super().__init__(modalities, model, weights, projector, **options)

    @property
    def common_dim(self) -> int:
        """Number of common dimensions, which come first in an embedding."""
        ratio: float = self.hparams['common_ratio']
        widths: list[int] = list(self.hparams['projector'])
        # Without a projector, the features are the embeddings.
        widths = widths or list(self.encoders.num_features.values())
        return round(ratio * widths[-1])

    def configure_losses(self) -> None:
        """Build the loss."""
        options = self.hparams['lambda_param'], self.hparams['intra']
        self.criterion = DeCURLoss(self.common_dim, *options)

    def alignment(self, diagonals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the mean alignment of the common and of the unique dimensions.

        Returns:
            The scalars ``alignment_common_<m>_<n>`` and ``alignment_unique_<m>_<n>``. A
            scalar is omitted if there are no such dimensions.
        """
        parts: dict[str, Tensor] = {}
        for pair, d in diagonals.items():
            parts[f'alignment_common_{pair}'] = d[: self.common_dim]
            parts[f'alignment_unique_{pair}'] = d[self.common_dim :]
        return {name: d.mean() for name, d in parts.items() if len(d)}
