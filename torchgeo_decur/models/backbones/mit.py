"""Mix transformers (MiT), the hierarchical encoders of SegFormer, as timm models."""

from collections.abc import Mapping
from typing import Any

from segmentation_models_pytorch.encoders.mix_transformer import (
    MixVisionTransformer,
    mix_transformer_encoders,
)
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
)
from torch import Tensor, nn

_STAGES = (1, 2, 3, 4)
# In smaller images, the map of keys would be smaller than the kernel that reduces it.
_SMALLEST = 29


class MixTransformer(MixVisionTransformer):  # type: ignore[misc]
    """Mix transformer of segmentation-models-pytorch, with the interface of a timm model.

    Xie et al., *SegFormer: Simple and Efficient Design for Semantic Segmentation with
    Transformers*, NeurIPS 2021, https://arxiv.org/abs/2105.15203.

    Parameters have the same names as in smp and the published files. There are no position
    embeddings, so images may have any size of at least 29 x 29 pixels.

    Args:
        in_chans: number of image channels C.
        num_classes: number of classifier outputs, or 0 for features.
        global_pool: pooling of the last feature map: 'avg', 'max', or '' for no pooling.
        kwargs: options of smp's encoder, such as widths, depths and ``drop_path_rate``,
            which is 0.1 in the models ``mit_b0`` to ``mit_b5``.

    Attributes:
        num_features: number of channels F of the last feature map.
        feature_info: channels, stride and module of each of the four levels.

    Example:
        >>> import timm, torch
        >>> encoder = timm.create_model('mit_b0', in_chans=13, num_classes=0)
        >>> encoder(torch.rand(2, 13, 45, 64)).shape
        torch.Size([2, 256])
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 0,
        global_pool: str = 'avg',
        **kwargs: Any,
    ) -> None:
        """Initialize a new MixTransformer instance."""
        super().__init__(in_chans=in_chans, num_classes=num_classes, **kwargs)
        self.feature_info = []
        for i in _STAGES:
            # timm runs modules in order, but smp registers all patch embeddings first.
            for name in (f'patch_embed{i}', f'block{i}', f'norm{i}'):
                child = getattr(self, name)
                delattr(self, name)
                self.add_module(name, child)
            (width,) = child.normalized_shape
            self.feature_info.append(
                {'num_chs': width, 'reduction': 2 ** (i + 1), 'module': f'norm{i}'}
            )
        self.patch_embed1.register_forward_pre_hook(_check_size)
        self.grad_checkpointing = False
        self.num_features = self.head_hidden_size = width
        self.reset_classifier(num_classes, global_pool)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enable or disable gradient checkpointing.

        Args:
            enable: whether the backward pass recomputes the activations of each block.
        """
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the classifier, or the identity if there are no classes."""
        return self.head

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        """Replace the classifier.

        Args:
            num_classes: number of outputs, or 0 for features.
            global_pool: pooling of the last feature map, by default unchanged.
        """
        self.num_classes = num_classes
        if global_pool is not None:
            self.pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.head: nn.Module = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.num_features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map.

        Args:
            x: images in [0, 1], shape (B, C, H, W).

        Returns:
            Feature map with stride 32, shape (B, F, h, w).

        Raises:
            ValueError: if the images are too small.
        """
        for i in _STAGES:
            x = self.get_submodule(f'patch_embed{i}')(x)
            blocks = self.get_submodule(f'block{i}')
            x = checkpoint_seq(blocks, x) if self.grad_checkpointing else blocks(x)
            x = self.get_submodule(f'norm{i}')(x).contiguous()
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a feature map and classify it if there is a classifier.

        Args:
            x: feature map, shape (B, F, h, w).
            pre_logits: whether to skip the classifier.

        Returns:
            Features (B, F), or logits (B, ``num_classes``).
        """
        pooled: Tensor = self.pool(x)
        logits: Tensor = pooled if pre_logits else self.head(pooled)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Compute features, or logits if there is a classifier.

        Args:
            x: images in [0, 1], shape (B, C, H, W).

        Returns:
            Features (B, F), or logits (B, ``num_classes``).

        Raises:
            ValueError: if the images are too small.
        """
        return self.forward_head(self.forward_features(x))


def _check_size(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    height, width = args[0].shape[-2:]
    if min(height, width) < _SMALLEST:
        raise ValueError(
            f'images must have at least {_SMALLEST} x {_SMALLEST} pixels for a mix '
            f'transformer, got {height} x {width}; resize or pad the images'
        )


def _without_head(
    state: Mapping[str, Tensor], model: nn.Module | None = None
) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.startswith('head.')}


def _configuration(name: str) -> dict[str, Any]:
    """Return the source of smp's ImageNet weights as a timm config."""
    source = mix_transformer_encoders[name]['pretrained_settings']['imagenet']
    return {
        'hf_hub_id': f'{source["repo_id"]}@{source["revision"]}',
        'input_size': (3, 224, 224),
        'mean': (0.485, 0.456, 0.406),
        'std': (0.229, 0.224, 0.225),
        'first_conv': 'patch_embed1.proj',
        'classifier': 'head',
        # The weight files do not contain a classifier.
        'num_classes': 0,
    }


# timm requires this variable name.
default_cfgs = generate_default_cfgs(
    {f'{name}.imagenet': _configuration(name) for name in mix_transformer_encoders}
)


def _create(name: str, pretrained: bool, **kwargs: Any) -> MixTransformer:
    options = dict(mix_transformer_encoders[name]['params'])
    del options['out_channels']
    model: MixTransformer = build_model_with_cfg(
        MixTransformer,
        name,
        pretrained,
        feature_cfg={'out_indices': (0, 1, 2, 3)},
        pretrained_filter_fn=_without_head,
        **{**options, **kwargs},
    )
    return model


@register_model
def mit_b0(pretrained: bool = False, **kwargs: Any) -> MixTransformer:
    """Create MiT-B0, with 3 million parameters."""
    return _create('mit_b0', pretrained, **kwargs)


@register_model
def mit_b1(pretrained: bool = False, **kwargs: Any) -> MixTransformer:
    """Create MiT-B1, with 13 million parameters."""
    return _create('mit_b1', pretrained, **kwargs)


@register_model
def mit_b2(pretrained: bool = False, **kwargs: Any) -> MixTransformer:
    """Create MiT-B2, with 24 million parameters."""
    return _create('mit_b2', pretrained, **kwargs)


@register_model
def mit_b3(pretrained: bool = False, **kwargs: Any) -> MixTransformer:
    """Create MiT-B3, with 44 million parameters."""
    return _create('mit_b3', pretrained, **kwargs)


@register_model
def mit_b4(pretrained: bool = False, **kwargs: Any) -> MixTransformer:
    """Create MiT-B4, with 61 million parameters."""
    return _create('mit_b4', pretrained, **kwargs)


@register_model
def mit_b5(pretrained: bool = False, **kwargs: Any) -> MixTransformer:
    """Create MiT-B5, with 81 million parameters."""
    return _create('mit_b5', pretrained, **kwargs)
