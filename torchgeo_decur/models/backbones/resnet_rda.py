"""ResNets with residual deformable attention, registered with timm."""

from itertools import chain
from typing import Any

import timm
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
)
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from .deformable_attention import DeformableAttention, ResidualDeformableAttention

# Attention options of the published weights; table sizes match images of 224 pixels.
_ATTENTION: dict[int, dict[str, Any]] = {
    3: {
        'num_heads': 8,
        'groups': 4,
        'stride': 2,
        'kernel_size': 5,
        'table_size': (14, 14),
    },
    4: {
        'num_heads': 16,
        'groups': 8,
        'stride': 1,
        'kernel_size': 3,
        'table_size': (7, 7),
    },
}
_RESNETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    'resnet18': (BasicBlock, (2, 2, 2, 2)),
    'resnet50': (Bottleneck, (3, 4, 6, 3)),
}
# Modules of each pyramid level, in order of execution.
_STAGES = (
    ('conv1', 'bn1', 'act1'),
    ('maxpool', 'layer1'),
    ('layer2',),
    ('layer3', 'da_l3'),
    ('layer4', 'da_l4'),
)


class ResNetRDA(ResNet):
    """ResNet whose last two stages end with residual deformable attention.

    The modules ``da_l3`` and ``da_l4`` compute ``x = x + DA(x)`` after ``layer3`` and
    ``layer4``; see :class:`~torchgeo_decur.models.ResidualDeformableAttention`. All other
    modules and options are from timm's :class:`~timm.models.resnet.ResNet`.

    Args:
        block: timm class of the residual blocks.
        layers: number of blocks in each stage.
        zero_init_attention: whether the attention output is initially zero so that the
            network starts as a plain ResNet.
        residual: whether to add the attention output to its input. False gives
            ``x = DA(x)``, the ablation of the paper (Table 4).
        kwargs: passed to timm's ResNet.

    Example:
        >>> import torch
        >>> encoder = timm.create_model('resnet18_rda', in_chans=13, num_classes=0)
        >>> maps, positions = encoder.forward_with_positions(torch.randn(2, 13, 96, 96))
        >>> maps.shape
        torch.Size([2, 512, 3, 3])
        >>> {name: tuple(p.shape) for name, p in positions.items()}
        {'da_l3': (2, 4, 3, 3, 2), 'da_l4': (2, 8, 3, 3, 2)}
    """

    def __init__(
        self,
        block: Any,
        layers: tuple[int, ...],
        zero_init_attention: bool = False,
        residual: bool = True,
        **kwargs: Any,
    ) -> None:
        """Initialize a new ResNetRDA instance."""
        super().__init__(block, layers, **kwargs)
        kind = ResidualDeformableAttention if residual else DeformableAttention
        for stage, options in _ATTENTION.items():
            info: dict[str, Any] = self.feature_info[stage]
            attention = kind(info['num_chs'], zero_init=zero_init_attention, **options)
            setattr(self, f'da_l{stage}', attention.to(next(self.parameters())))
            info['module'] = f'da_l{stage}'
        # timm's pyramid runs modules in the order of their registration.
        for name in ('layer4', 'da_l4', 'global_pool', 'fc'):
            self._modules[name] = self._modules.pop(name)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map.

        Args:
            x: images, shape (B, C, H, W).

        Returns:
            Feature map, shape (B, ``num_features``, h, w).
        """
        maps: Tensor = self.forward_intermediates(x, indices=1)[0]
        return maps

    def forward_with_positions(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the last feature map; also return the sampling positions of attention.

        Args:
            x: images, shape (B, C, H, W).

        Returns:
            Feature map, shape (B, ``num_features``, h, w), and the positions (x, y) in
            [-1, 1] by module name, shape (B, groups, H_k, W_k, 2). The centers of the first
            and last pixels of the sampled feature map are at -1 and 1.
        """
        positions: dict[str, Tensor] = {}
        for name in chain(*_STAGES):
            module = self.get_submodule(name)
            if isinstance(module, DeformableAttention):
                x, positions[name] = module.forward_with_positions(x)
            else:
                x = module(x)
        return x, positions

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Any:
        """Compute the feature maps of the stages, with the interface of a timm model.

        Args:
            x: images, shape (B, C, H, W).
            indices: indices of the feature maps, or a number n for the last n feature
                maps, by default all five.
            norm: not used.
            stop_early: whether to skip the stages after the last requested feature map.
            output_fmt: 'NCHW'.
            intermediates_only: whether to return only the list of feature maps.

        Returns:
            The last computed feature map and the list of feature maps.

        Raises:
            ValueError: if ``output_fmt`` is not 'NCHW'.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        wanted, last = feature_take_indices(5, indices)
        found = []
        for i, names in enumerate(_STAGES[: last + 1 if stop_early else 5]):
            for name in names:
                module = self.get_submodule(name)
                # Checkpointing cannot recompute the stem, which runs in place.
                if self.grad_checkpointing and i > 0:
                    blocks = module if isinstance(module, nn.Sequential) else [module]
                    x = checkpoint_seq(blocks, x)
                else:
                    x = module(x)
            if i in wanted:
                found.append(x)
        return found if intermediates_only else (x, found)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove unused layers, with the interface of a timm model.

        Args:
            indices: indices of the feature maps in use, or a number n for the last n
                feature maps.
            prune_norm: not used.
            prune_head: whether to remove the classifier.

        Returns:
            Indices of the feature maps in use.
        """
        taken: list[int] = super().prune_intermediate_layers(
            indices, prune_norm, prune_head
        )
        for stage in _ATTENTION:
            if stage > max(taken):
                setattr(self, f'da_l{stage}', nn.Identity())
        return taken


def _imagenet(model: str) -> dict[str, Any]:
    """Return timm's ImageNet config of a ResNet for both attention variants, by name."""
    found: Any = timm.get_pretrained_cfg(model)
    return {f'{model}_{kind}.{found.tag}': found for kind in ('rda', 'da')}


default_cfgs = generate_default_cfgs(
    {tag: cfg for model in _RESNETS for tag, cfg in _imagenet(model).items()}
)


@register_model
def resnet18_rda(pretrained: bool = False, **kwargs: Any) -> ResNetRDA:
    """Create ResNet-18 with residual deformable attention, for small experiments."""
    return _build('resnet18_rda', pretrained, **kwargs)


@register_model
def resnet50_rda(pretrained: bool = False, **kwargs: Any) -> ResNetRDA:
    """Create ResNet-50 with residual deformable attention, the backbone of DeCUR."""
    return _build('resnet50_rda', pretrained, **kwargs)


@register_model
def resnet18_da(pretrained: bool = False, **kwargs: Any) -> ResNetRDA:
    """Create ResNet-18 with non-residual deformable attention, for an ablation."""
    return _build('resnet18_da', pretrained, **kwargs)


@register_model
def resnet50_da(pretrained: bool = False, **kwargs: Any) -> ResNetRDA:
    """Create ResNet-50 with non-residual deformable attention, for an ablation."""
    return _build('resnet50_da', pretrained, **kwargs)


def _build(name: str, pretrained: bool, **kwargs: Any) -> ResNetRDA:
    resnet, _, kind = name.partition('_')
    block, layers = _RESNETS[resnet]
    options = {'block': block, 'layers': layers, 'residual': kind == 'rda', **kwargs}
    return build_model_with_cfg(
        ResNetRDA, name, pretrained, pretrained_filter_fn=_with_attention, **options
    )


def _with_attention(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Add a model's untrained attention parameters to the weights of a plain ResNet."""
    own = {k: v for k, v in model.state_dict().items() if k.startswith('da_')}
    return {**own, **state}
