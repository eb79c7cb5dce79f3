"""InfMasking: CoMM with many random maskings of the fused tokens."""

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
    """Pretrain encoders and a fusion transformer with InfMasking.

    Wen, Dai et al., *InfMasking: Unleashing Synergistic Information by Contrastive
    Multimodal Interactions*, NeurIPS 2025, https://arxiv.org/abs/2509.25270.

    The model is the same as in :class:`CoMM`. In addition, the transformer fuses each
    view under several random masks, which keep few tokens of every modality. The loss
    pulls the joint embedding towards the masked embeddings. As in CoMM, features and
    exports use all tokens.

    Args:
        modalities: number of channels of each modality, by name; none may be called
            'joint', 'masked', 'shared', 'fusion' or '<other>_unique'.
        model: name of a timm model, one for all modalities or one for each.
        weights: initial weights of the encoders, see
            :class:`~torchgeo_decur.models.MultimodalEncoder`.
        projector: width of each layer of the projector.
        temperature: temperature of InfoNCE.
        mask_ratio: share of the tokens of each modality that a mask removes, in [0, 1). At
            least one token remains.
        num_masks: number of masks for each view.
        mask_lambda: weight of the variance over masks at the end of the fit. It grows in
            proportion to the steps. An open-ended fit uses this weight throughout.
        embed_dim: width of the fusion transformer, and number of features of ``joint``.
        depth: number of its layers.
        num_heads: number of its attention heads.
        options: of :class:`~torchgeo_decur.tasks.MultimodalPretraining`: ``size``,
            ``augmentations``, ``optimizer``, ``lr``, ...

    Raises:
        ValueError: if an option is out of range or does not name the modalities.

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
                "modalities must not be 'masked', which names a result of the "
                f'task, got {list(modalities)}; rename the modality'
            )
        self._steps = math.inf
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

    def on_train_start(self) -> None:
        """Fit the schedules to the total number of steps."""
        super().on_train_start()
        self._steps = self.total_steps()

    def on_train_batch_start(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the images of the first batch, and pass the progress of the fit to the loss.

        Raises:
            ValueError: if values are outside [0, 1].
        """
        super().on_train_batch_start(batch, batch_idx, dataloader_idx)
        self.criterion.progress.fill_(self.progress)

    @property
    def progress(self) -> float:
        """Return the share of steps up to the current one; 1 in an open-ended fit."""
        if math.isinf(self._steps):
            return 1.0
        return min((self.global_step + 1) / self._steps, 1.0)

    def encode_and_project(
        self,
        images: Mapping[str, Tensor],
        view: int | None = None,
        available: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute features and embeddings; in a step, also under random masks.

        Args:
            images: images of some or all modalities in [0, 1], shape (B, C, H, W).
            view: number of the view in the step, from 0; None outside a step.
            available: whether each sample has a modality; the loss supports only complete
                samples.

        Returns:
            Features by name, shape (B, F); and embeddings of each modality given and of
            ``joint``, shape (B, D), and in a step of ``masked``, shape (B, K, D).
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
        """Compute metrics of collapse and alignment, without masked embeddings.

        Args:
            h: features by name, shape (B, F).
            z: embeddings by name, shape (V, N, D), and ``masked``.
            available: whether each sample has an embedding, shape (N,), boolean.

        Returns:
            Scalars by name.
        """
        named = {n: x for n, x in z.items() if n != 'masked'}
        return super().collapse_metrics(h, named, available)


def keep_random_tokens(
    tokens: Mapping[str, Tensor], ratio: float, masks: int
) -> dict[str, Tensor]:
    """Keep the same number of random tokens of each sample, under several masks.

    Tokens have no position in the fusion transformer, so masked ones are left out. The
    transformer then computes only the kept tokens.

    Args:
        tokens: tokens of each modality, shape (B, N, C).
        ratio: share of the tokens of a modality that a mask removes; at least one token
            remains.
        masks: number of masks K.

    Returns:
        Kept tokens of each modality, shape (B K, N', C), all masks of a sample in
        succession.

    Example:
        >>> tokens = {'s1': torch.rand(2, 10, 3), 's2': torch.rand(2, 4, 5)}
        >>> kept = keep_random_tokens(tokens, ratio=0.7, masks=6)
        >>> {m: tuple(x.shape) for m, x in kept.items()}
        {'s1': (12, 3, 3), 's2': (12, 1, 5)}
    """
    numbers = [x.shape[1] for x in tokens.values()]
    some = next(iter(tokens.values()))
    # Draw sample by sample, so that micro-batches have the same masks as the batch.
    draws = torch.rand(len(some), masks, sum(numbers), device=some.device)
    return {
        m: _take(x, part, ratio)
        for (m, x), part in zip(
            tokens.items(), draws.split(numbers, dim=2), strict=True
        )
    }


def _take(tokens: Tensor, draws: Tensor, ratio: float) -> Tensor:
    """Take the tokens with the largest draws."""
    batch, masks, number = draws.shape
    # In floating point, 10 * (1 - 0.9) is less than 1.
    keep = max(1, int(number * (1 - ratio) + 1e-6))
    kept = draws.topk(keep, dim=2, sorted=False).indices
    first = number * torch.arange(batch, device=tokens.device)
    places = (kept + first[:, None, None]).flatten()
    chosen: Tensor = tokens.flatten(0, 1).index_select(0, places)
    return chosen.view(batch * masks, keep, -1)
