"""CoMM: contrastive multimodal learning with one fusion transformer."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..deprecation import renamed_arguments
from ..losses import CoMMLoss
from ..models import FusionHead, JointHead
from ..models.encoder import Weights
from .joint_pretraining import FusionPretraining


class CoMM(FusionPretraining):
    """CoMM pretraining of encoders and a fusion transformer.

    Dufumier, Castillo-Navarro et al., *What to align in multimodal contrastive
    learning?*, ICLR 2025, https://arxiv.org/abs/2409.07402.

    The tokens of all encoders and a class token pass through one transformer, whose
    output class token is ``joint``. The same transformer, applied to the tokens of a
    single modality, gives the class token of that modality. All class tokens share one
    projector.

    The features are ``joint`` and the pooled features of each encoder. The loss trains
    the encoders through their tokens. The embedding of a modality is its projected
    class token.

    Args:
        modalities: number of channels of each modality, by name; names must not be
            'joint', 'shared', 'fusion' or '<other>_unique'.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each projector layer.
        temperature: softmax temperature of the InfoNCE loss.
        embed_dim: width of the fusion transformer and of the ``joint`` features.
        depth: number of layers of the fusion transformer.
        num_heads: number of attention heads of the fusion transformer.
        options: other arguments of
            :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

    Raises:
        ValueError: if the temperature is not positive or a name is reserved.

    Example:
        >>> import torch
        >>> task = CoMM({'s1': 2, 's2': 13}, model='test_resnet', embed_dim=32, num_heads=4)
        >>> features = task({'s1': torch.rand(4, 2, 64, 64)})
        >>> {name: tuple(h.shape) for name, h in features.items()}
        {'s1': (4, 96), 'joint': (4, 32)}
    """

    @renamed_arguments(width='embed_dim', heads='num_heads')
    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (512, 512, 256),
        temperature: float = 0.1,
        embed_dim: int = 512,
        depth: int = 1,
        num_heads: int = 8,
        **options: Any,
    ) -> None:
        """Initialize a new CoMM instance."""
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
        self.criterion = CoMMLoss(self.hparams['temperature'])

    def build_fusion(self) -> FusionHead:
        """Build the fusion transformer."""
        options = (self.hparams[name] for name in ('embed_dim', 'depth', 'num_heads'))
        return JointHead(self.encoders.num_channels, *options)

    def projector_in_features(self) -> dict[str, int]:
        """Return the input width of the projector, which all class tokens share.

        Returns:
            Input width, under the name ``joint``.
        """
        return {'joint': self.hparams['embed_dim']}

    def encode_and_project(
        self,
        images: Mapping[str, Tensor],
        view: int | None = None,
        available: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute the features and embeddings of each modality and of their fusion.

        Returns:
            Features by name, shape (B, F), and embeddings of each given modality and of
            ``joint``, shape (B, D).
        """
        pooled, parts = self.encode(images)
        features, embeddings = self.fuse_and_project(parts, available)
        return {**pooled, **features}, embeddings

    def fuse_and_project(
        self,
        parts: Mapping[str, list[Tensor]],
        available: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Fuse the tokens of all modalities and of each one, then project class tokens.

        Args:
            parts: input of the fusion head, for some or all modalities.
            available: whether each sample has a modality, shape (B,), boolean.

        Returns:
            The ``joint`` features, shape (B, ``embed_dim``), and the embeddings of each
            given modality and of ``joint``, shape (B, D).
        """
        joint = self.fuse(parts, available)
        single = {m: self.fusion({m: part})['joint'] for m, part in parts.items()}
        project = self.projectors['joint']
        return joint, {n: project(h) for n, h in {**single, **joint}.items()}
