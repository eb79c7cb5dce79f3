"""COrAL: orthogonal shared and unique representations."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..deprecation import renamed_arguments
from ..losses import COrALLoss
from ..models import FusionHead, SharedUniqueHead
from ..models.encoder import Weights
from .joint_pretraining import FusionPretraining
from .pretraining import NUM_VIEWS


class COrAL(FusionPretraining):
    """COrAL pretraining of two encoders per modality and a fusion transformer.

    Cissee et al., *Orthogonalized Multimodal Contrastive Learning with Asymmetric
    Masking for Structured Representations*, 2026, https://arxiv.org/abs/2602.14983.

    In the shared path, the tokens of all ``encoders`` pass through one transformer,
    whose output class token is ``shared``. In training, each view sets random tokens of
    a different modality to zero. The transformer must infer them from the other tokens.
    With more modalities than views, the masked modalities change from step to step.

    In the unique paths, each modality has a second encoder, whose tokens are pooled by
    attention, without masking.

    The task returns the unique features of each given modality under its name, and the
    ``shared`` features. ``joint`` concatenates shared and all unique features, with
    zeros for absent modalities.

    Args:
        modalities: number of channels of each modality, by name; names must not be
            'joint', 'shared', 'fusion' or '<other>_unique'.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each projector layer.
        mask_ratio: probability in [0, 1] that a token of the masked modality is set to
            zero, or the start and end values of a linear schedule.
        temperature: softmax temperature of the InfoNCE loss.
        orthogonal_weight: weight of the orthogonality term.
        unique_weight: weight of the unique terms.
        shared_weight: weight of the shared term.
        embed_dim: width of the fusion transformer, of the ``shared`` features and of
            the unique features of each modality.
        depth: number of layers of the fusion transformer.
        num_heads: number of attention heads of the fusion transformer.
        options: other arguments of
            :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

    Raises:
        ValueError: if ``mask_ratio`` is not in [0, 1] or a name is reserved.

    Example:
        >>> task = COrAL({'s1': 2, 's2': 13}, model='test_resnet', embed_dim=32, num_heads=4)
        >>> features = task({'s1': torch.rand(4, 2, 64, 64)})
        >>> {name: tuple(h.shape) for name, h in features.items()}
        {'s1': (4, 32), 'shared': (4, 32), 'joint': (4, 96)}
    """

    @renamed_arguments(masking='mask_ratio', width='embed_dim', heads='num_heads')
    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (512, 512, 256),
        mask_ratio: float | list[float] = 0.75,
        temperature: float = 0.1,
        orthogonal_weight: float = 1.0,
        unique_weight: float = 1.0,
        shared_weight: float = 1.0,
        embed_dim: int = 512,
        depth: int = 1,
        num_heads: int = 8,
        **options: Any,
    ) -> None:
        """Initialize a new COrAL instance."""
        ends = [mask_ratio] if isinstance(mask_ratio, int | float) else list(mask_ratio)
        if len(ends) not in (1, 2) or not all(0 <= p <= 1 for p in ends):
            raise ValueError(
                f'mask_ratio must be one or two numbers in [0, 1], got {mask_ratio}'
            )
        super().__init__(
            modalities,
            model,
            weights,
            projector,
            embed_dim,
            depth,
            num_heads,
            **options,
        )

    def configure_losses(self) -> None:
        """Build the loss."""
        terms = ('orthogonal_weight', 'unique_weight', 'shared_weight')
        options = (self.hparams[name] for name in ('temperature', *terms))
        self.criterion = COrALLoss(*options)

    def build_fusion(self) -> FusionHead:
        """Build the fusion transformer and the second encoders."""
        names = ('modalities', 'model', 'embed_dim', 'depth', 'num_heads')
        options = {name: self.hparams[name] for name in names}
        return SharedUniqueHead(**options, weights=self.weights)

    def projector_in_features(self) -> dict[str, int]:
        """Return the input width of the projectors for unique and shared features.

        Returns:
            Number of features, by projector name.
        """
        names = (*self.hparams['modalities'], 'shared')
        return dict.fromkeys(names, self.hparams['embed_dim'])

    @property
    def mask_ratio(self) -> float:
        """Mask ratio of the current step, which follows the linear schedule if set."""
        option: float | list[float] = self.hparams['mask_ratio']
        ends = [option] if isinstance(option, int | float) else list(option)
        return ends[0] + (ends[-1] - ends[0]) * min(self.global_step / self._steps, 1)

    def encode_and_project(
        self,
        images: Mapping[str, Tensor],
        view: int | None = None,
        available: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute features and embeddings, with one masked modality in a training step.

        Returns:
            Features by name, shape (B, F), and the embeddings of the ``shared``
            features and of the unique features of each given modality, shape (B, D).
        """
        _, parts = self.encode(images)
        if self.training and view is not None:
            masked = list(parts)[(view + NUM_VIEWS * self.global_step) % len(parts)]
            tokens, *rest = parts[masked]
            parts[masked] = [mask_tokens(tokens, self.mask_ratio), *rest]
        features = self.fuse(parts, available)
        names = (*parts, 'shared')
        return features, {n: self.projectors[n](features[n]) for n in names}


def mask_tokens(tokens: Tensor, ratio: float) -> Tensor:
    """Set random tokens to zero.

    Args:
        tokens: tokens of one modality, shape (B, N, C).
        ratio: probability that a token is set to zero.

    Returns:
        Masked tokens, shape (B, N, C).

    Example:
        >>> mask_tokens(torch.ones(1, 3, 2), ratio=1.0).sum().item()
        0.0
    """
    keep = torch.rand(tokens.shape[:2], device=tokens.device) >= ratio
    return tokens * keep[..., None].to(tokens.dtype)
