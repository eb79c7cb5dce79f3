"""InfMasking: CoMM with several random masks of the tokens before fusion."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchgeo.datasets.utils import Sample

from ..losses import InfMaskingLoss
from ..models.encoder import Weights
from .comm import CoMM


class InfMasking(CoMM):
    """InfMasking pretraining of encoders and a fusion transformer.

    Wen, Dai et al., *InfMasking: Unleashing Synergistic Information by Contrastive
    Multimodal Interactions*, NeurIPS 2025, https://arxiv.org/abs/2509.25270.

    The model is the same as in :class:`CoMM`. In addition, the transformer fuses each
    view under several random masks, which keep a few tokens of every modality. The loss
    pulls the joint embedding toward the masked embeddings. As in CoMM, features and
    exports use all tokens.

    Args:
        modalities: number of channels of each modality, by name; names must not be
            'joint', 'masked', 'shared', 'fusion' or '<other>_unique'.
        model: name of a timm model, or one name per modality.
        weights: initial weights; see :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: output width of each projector layer.
        temperature: softmax temperature of the InfoNCE loss.
        mask_ratio: fraction of each modality's tokens that a mask removes, in [0, 1).
            At least one token remains.
        num_masks: number of masks per view.
        mask_lambda: final weight of the variance over masks. The weight grows linearly
            during the fit; an open-ended fit always uses the final weight.
        embed_dim: width of the fusion transformer and of the ``joint`` features.
        depth: number of layers of the fusion transformer.
        num_heads: number of attention heads of the fusion transformer.
        options: other arguments of
            :class:`~torchgeo_decur.tasks.MultimodalPretraining`.

    Raises:
        ValueError: if a name is reserved, an option is out of range, or its keys do not
            match the modalities.

    Example:
        >>> task = InfMasking({'s1': 2, 's2': 13}, model='test_resnet', embed_dim=32, num_heads=4)
        >>> features = task({'s1': torch.rand(4, 2, 64, 64)})
        >>> {name: tuple(h.shape) for name, h in features.items()}
        {'s1': (4, 96), 'joint': (4, 32)}
    """

    criterion: InfMaskingLoss

    def __init__(
        self,
        modalities: dict[str, int],
        model: str | dict[str, str] = 'resnet50',
        weights: Weights | dict[str, Weights] = None,
        projector: Sequence[int] = (512, 512, 256),
        temperature: float = 0.1,
        mask_ratio: float = 0.7,
        num_masks: int = 6,
        mask_lambda: float = 1.0,
        embed_dim: int = 512,
        depth: int = 1,
        num_heads: int = 8,
        **options: Any,
    ) -> None:
        """Initialize a new InfMasking instance."""
        if not 0 <= mask_ratio < 1:
            raise ValueError(f'mask_ratio must be in [0, 1), got {mask_ratio}')
        if num_masks < 1:
            raise ValueError(f'num_masks must be positive, got {num_masks}')
        if 'masked' in modalities:
            raise ValueError(
                "modalities must not be named 'masked', which the task's outputs use, "
                f'got {list(modalities)}; rename the modality'
            )
        super().__init__(
            modalities,
            model,
            weights,
            projector,
            temperature,
            embed_dim,
            depth,
            num_heads,
            **options,
        )

    def configure_losses(self) -> None:
        """Build the loss."""
        options = self.hparams['temperature'], self.hparams['mask_lambda']
        self.criterion = InfMaskingLoss(*options)

    def on_train_batch_start(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the images of the first batch and pass the fit progress to the loss.

        Raises:
            ValueError: if image values are outside [0, 1].
        """
        super().on_train_batch_start(batch, batch_idx, dataloader_idx)
        self.criterion.progress.fill_(self.progress)

    @property
    def progress(self) -> float:
        """Completed fraction of the fit, or 1 if the fit is open-ended."""
        if math.isinf(self._steps):
            return 1.0
        return min((self.global_step + 1) / self._steps, 1.0)

    def encode_and_project(
        self,
        images: Mapping[str, Tensor],
        view: int | None = None,
        available: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute features and embeddings and, in a step, masked embeddings.

        Args:
            images: images of some or all modalities in [0, 1], shape (B, C, H, W).
            view: index of the view in a training or validation step, otherwise None.
            available: whether each sample has a modality. The loss supports only
                complete samples.

        Returns:
            Features by name, shape (B, F), and the embeddings of each given modality
            and of ``joint``, shape (B, D). In a step, there is also ``masked``, shape
            (B, K, D).
        """
        pooled, parts = self.encode(images)
        features, embeddings = self.fuse_and_project(parts, available)
        if view is not None:
            masks, ratio = self.hparams['num_masks'], self.hparams['mask_ratio']
            tokens = {m: own for m, (own,) in parts.items()}
            kept = keep_random_tokens(tokens, ratio, masks)
            kept_parts = {m: [own] for m, own in kept.items()}
            masked = self.projectors['joint'](self.fusion(kept_parts)['joint'])
            embeddings['masked'] = masked.unflatten(0, (-1, masks))
        return {**pooled, **features}, embeddings

    @torch.no_grad()
    def collapse_metrics(
        self,
        h: Mapping[str, Tensor],
        z: Mapping[str, Tensor],
        available: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the collapse and alignment metrics, without masked embeddings.

        Args:
            h: features by name, shape (B, F).
            z: embeddings by name, shape (V, N, D); ``masked`` is ignored.
            available: whether each sample has an embedding, by name, shape (N,),
                boolean.

        Returns:
            Scalar metrics, by name.
        """
        named = {n: x for n, x in z.items() if n != 'masked'}
        return super().collapse_metrics(h, named, available)


def keep_random_tokens(
    tokens: Mapping[str, Tensor], ratio: float, masks: int
) -> dict[str, Tensor]:
    """Select the same number of random tokens of each sample under several masks.

    The fusion transformer uses no positions, so masked tokens are removed from its
    input. This saves computation.

    Args:
        tokens: tokens of each modality, shape (B, N, C).
        ratio: fraction of the tokens of a modality that a mask removes. At least one
            token remains.
        masks: number of masks K.

    Returns:
        Kept tokens of each modality, shape (B * K, N', C), ordered by sample, then by
        mask.

    Example:
        >>> tokens = {'s1': torch.rand(2, 10, 3), 's2': torch.rand(2, 4, 5)}
        >>> kept = keep_random_tokens(tokens, ratio=0.7, masks=6)
        >>> {m: tuple(x.shape) for m, x in kept.items()}
        {'s1': (12, 3, 3), 's2': (12, 1, 5)}
    """
    numbers = [x.shape[1] for x in tokens.values()]
    some = next(iter(tokens.values()))
    # Draw sample by sample so that micro-batches use the same masks as the whole
    # batch.
    draws = torch.rand(len(some), masks, sum(numbers), device=some.device)
    return {
        m: _take(x, part, ratio)
        for (m, x), part in zip(
            tokens.items(), draws.split(numbers, dim=2), strict=True
        )
    }


def _take(tokens: Tensor, draws: Tensor, ratio: float) -> Tensor:
    """Return the tokens with the largest random draws."""
    batch, masks, number = draws.shape
    # In floating point, 10 * (1 - 0.9) is less than 1.
    keep = max(1, int(number * (1 - ratio) + 1e-6))
    kept = draws.topk(keep, dim=2, sorted=False).indices
    first = number * torch.arange(batch, device=tokens.device)
    places = (kept + first[:, None, None]).flatten()
    chosen: Tensor = tokens.flatten(0, 1).index_select(0, places)
    return chosen.view(batch * masks, keep, -1)
