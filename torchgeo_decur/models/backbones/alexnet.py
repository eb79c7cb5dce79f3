"""AlexNet encoders, registered with timm, which does not provide AlexNet."""

from collections.abc import Sequence
from typing import Any

from timm.layers.classifier import ClassifierHead
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
)
from torch import Tensor, nn

# Strides after the first two convolutions, the last convolution and the last pooling layer.
_STRIDES = (4, 8, 16, 32)


class AlexNet(nn.Module):
    """AlexNet with its five convolutions and the interface of a timm model.

    Krizhevsky, *One weird trick for parallelizing convolutional neural networks*, 2014,
    https://arxiv.org/abs/1404.5997.

    Parameters have the same names as in torchvision's AlexNet, so its ImageNet weights can
    be loaded, except for the classifier.

    Args:
        widths: output channels of the five convolutions.
        first_kernel: kernel size of the first convolution.
        first_stride: stride of the first convolution.
        norm: whether BatchNorm replaces the bias of each convolution.
        num_classes: number of outputs of the linear layer, or 0 for no linear layer.
        in_chans: number of image channels C.
        global_pool: pooling of the last feature map, or '' for no pooling.
        drop_rate: dropout rate before the linear layer.

    Attributes:
        num_features: number of channels of the last feature map.

    Example:
        >>> import torch
        >>> AlexNet(num_classes=0).forward_features(torch.randn(1, 3, 224, 224)).shape
        torch.Size([1, 256, 6, 6])
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 192, 384, 256, 256),
        first_kernel: int = 11,
        first_stride: int = 4,
        norm: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
    ) -> None:
        """Initialize a new AlexNet instance."""
        super().__init__()
        self.num_classes = num_classes
        self.grad_checkpointing = False
        self.num_features = self.head_hidden_size = widths[-1]
        kernels = (first_kernel, 5, 3, 3, 3)
        inputs = (in_chans, *widths[:-1])
        layers: list[nn.Module] = []
        ends = []
        for i, (before, after, kernel) in enumerate(
            zip(inputs, widths, kernels, strict=True)
        ):
            stride = first_stride if i == 0 else 1
            # Unlike the others, the first convolution is not padded by half its kernel.
            padding = 2 if i == 0 else kernel // 2
            layers.append(
                nn.Conv2d(before, after, kernel, stride, padding, bias=not norm)
            )
            layers += [nn.BatchNorm2d(after)] * norm
            layers.append(nn.ReLU(inplace=True))
            if i in (0, 1, 4):
                ends.append((after, len(layers) - 1))
                layers.append(nn.MaxPool2d(kernel_size=3, stride=2))
        ends.append((widths[-1], len(layers) - 1))
        self.features = nn.Sequential(*layers)
        self.feature_info = [
            {
                'num_chs': channels,
                'reduction': stride * first_stride // 4,
                'module': f'features.{index}',
            }
            for stride, (channels, index) in zip(_STRIDES, ends, strict=True)
        ]
        self.head = ClassifierHead(
            self.num_features, num_classes, global_pool, drop_rate
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enable or disable gradient checkpointing.

        Args:
            enable: whether the backward pass recomputes all activations except the inputs
                of convolutions.
        """
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the linear layer, or the identity if there is none."""
        classifier: nn.Module = self.head.fc
        return classifier

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None
    ) -> None:
        """Replace the linear layer.

        Args:
            num_classes: number of outputs of the linear layer, or 0 for no linear layer.
            global_pool: pooling of the last feature map, by default unchanged.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map.

        Args:
            x: images, shape (B, C, H, W).

        Returns:
            Feature map, shape (B, ``num_features``, h, w).
        """
        if self.grad_checkpointing:
            maps: Tensor = checkpoint_seq(self._convolutions(), x)
        else:
            maps = self.features(x)
        return maps

    def _convolutions(self) -> list[nn.Module]:
        """Split the layers into blocks that each start with a convolution."""
        # A block must not start with ReLU, which would change its input in place.
        starts = [i for i, f in enumerate(self.features) if isinstance(f, nn.Conv2d)]
        ends = [*starts[1:], len(self.features)]
        return [self.features[a:b] for a, b in zip(starts, ends, strict=True)]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the feature map and classify it if there is a linear layer.

        Args:
            x: feature map, shape (B, ``num_features``, h, w).
            pre_logits: whether to skip the linear layer.

        Returns:
            Features or logits, shape (B, ...).
        """
        out: Tensor = self.head(x, pre_logits=pre_logits)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Compute features, or logits if there is a linear layer.

        Args:
            x: images, shape (B, C, H, W).

        Returns:
            Features or logits, shape (B, ...).
        """
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        name: {
            'input_size': (3, size, size),
            'first_conv': 'features.0',
            'classifier': 'head.fc',
            'mean': (0.485, 0.456, 0.406),
            'std': (0.229, 0.224, 0.225),
        }
        for name, size in (('alexnet.untrained', 224), ('alexnet_small.untrained', 64))
    }
)


@register_model
def alexnet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create an untrained AlexNet with 64 to 384 channels and 2.5 million parameters."""
    return _create('alexnet', pretrained, **kwargs)


@register_model
def alexnet_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create a narrow AlexNet with BatchNorm and half the stride, for 64-pixel images."""
    small = {
        'widths': (32, 64, 128, 128, 128),
        'first_kernel': 5,
        'first_stride': 2,
        'norm': True,
    }
    return _create('alexnet_small', pretrained, **{**small, **kwargs})


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    model: nn.Module = build_model_with_cfg(
        AlexNet,
        name,
        pretrained,
        feature_cfg={'flatten_sequential': True, 'out_indices': (0, 1, 2, 3)},
        **kwargs,
    )
    return model
