"""Attribution of embeddings to positions and bands of an image."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .activation_maps import exposed
from .model_interface import Pretrained
from .result import NotApplicable


def gradcam(model: Pretrained, modality: str, x: Tensor, dimensions: slice) -> Tensor:
    r"""Attribute the mean of some embedding dimensions to positions, with GradCAM.

    Let :math:`A_{kp}` be channel k of the last feature map at position p, and y the
    mean of the dimensions. The map is

    .. math:: L_p = \sum_k A_{kp} \cdot
              \frac{1}{P} \sum_q \frac{\partial y}{\partial A_{kq}}.

    Selvaraju et al., *Grad-CAM: Visual Explanations from Deep Networks via
    Gradient-based Localization*, ICCV 2017, https://arxiv.org/abs/1610.02391. In the
    paper, y is a class score, and L is rectified. This function keeps the sign of L,
    because the sign of an embedding dimension has no meaning. The map is computed with
    captum.

    Args:
        model: a pretraining task in evaluation mode.
        modality: name of the modality.
        x: images of this modality in [0, 1], shape (B, C, H, W).
        dimensions: embedding dimensions whose mean is y.

    Returns:
        Map of each image, shape (B, h, w), of the same size as the feature map.

    Raises:
        ImportError: if captum is not installed.
        NotApplicable: if the embeddings do not use the last feature map of the encoder.
    """
    attr = import_captum()
    if 'shared' in model.projectors:
        raise NotApplicable(
            'model must compute embeddings with its encoders, got '
            f'{type(model).__name__}, which has separate encoders for unique embeddings'
        )
    x = x.detach().requires_grad_()
    with exposed(model.encoders.encoders[modality], tuple(x.shape[-2:])) as layer:
        found = attr.LayerGradCam(_output(model, modality, dimensions), layer)
        maps = cast(Tensor, found.attribute(x, relu_attributions=False))
    return maps[:, 0].detach()


def integrated_gradients(
    model: Pretrained, modality: str, x: Tensor, dimensions: slice, steps: int = 16
) -> tuple[Tensor, Tensor]:
    r"""Attribute the mean of some embedding dimensions to bands.

    .. math:: I_c = \sum_p x_{cp} \int_0^1
              \frac{\partial y(\alpha x)}{\partial x_{cp}} d\alpha

    The integration path starts at 0, the lowest value of every band, so the
    attributions sum to :math:`y(x) - y(0)`.

    Sundararajan et al., *Axiomatic Attribution for Deep Networks*, ICML 2017,
    https://arxiv.org/abs/1703.01365. The integral is computed with captum.

    Args:
        model: a pretraining task in evaluation mode.
        modality: name of the modality.
        x: images of this modality in [0, 1], shape (B, C, H, W).
        dimensions: embedding dimensions whose mean is y.
        steps: number of integration steps.

    Returns:
        Attribution of each band, shape (B, C), and the absolute error of the sum of the
        attributions, shape (B,).

    Raises:
        ImportError: if captum is not installed.
    """
    attr = import_captum()
    output = _output(model, modality, dimensions)
    found, delta = attr.IntegratedGradients(output).attribute(
        x.detach().requires_grad_(),
        n_steps=steps,
        # Limit memory: captum would otherwise compute all steps of all images at once.
        internal_batch_size=max(len(x), 64),
        return_convergence_delta=True,
    )
    return found.detach().sum((2, 3)), delta.detach().abs()


def shares(bands: Tensor) -> Tensor:
    """Compute the fraction of the total absolute attribution that each band receives.

    Args:
        bands: signed attribution of each band, shape (B, C).

    Returns:
        Fractions in [0, 1], shape (B, C). They are NaN for a sample without any
        attribution.

    Example:
        >>> shares(torch.tensor([[3.0, -1.0]]))
        tensor([[0.7500, 0.2500]])
    """
    size = bands.abs()
    return size / size.sum(1, keepdim=True)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    r"""Compute the overlap of two maps as their histogram intersection.

    Each map is divided by the sum of its absolute values:

    .. math:: o = \sum_p \min(a_p, b_p), \quad \sum_p a_p = \sum_p b_p = 1

    Args:
        a: maps, shape (B, h, w).
        b: maps, shape (B, h', w'); both are resized to the finer grid.

    Returns:
        Overlaps, shape (B,), from 0 for disjoint to 1 for identical maps. If a map is 0
        everywhere, its overlap is NaN.

    Example:
        >>> a, b = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0, -1.0]]])
        >>> overlap(a, b)
        tensor([0.7500])
    """
    a, b = (x.flatten(1) for x in _same_grid(a.abs(), b.abs()))
    return torch.minimum(a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)).sum(1)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Compute the Pearson correlation of two signed maps over their positions.

    Args:
        a: maps, shape (B, h, w).
        b: maps, shape (B, h', w'); both are resized to the finer grid.

    Returns:
        Correlations in [-1, 1], shape (B,). If a map is constant, its correlation is
        NaN.

    Example:
        >>> a = torch.tensor([[[1.0, 0.0, 2.0]]])
        >>> correlation(a, -a).round(decimals=3)
        tensor([-1.])
    """
    centred = (
        x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in _same_grid(a, b)
    )
    a, b = (x / x.norm(dim=1, keepdim=True) for x in centred)
    return (a * b).sum(1)


def import_captum() -> Any:
    """Import ``captum.attr``, or raise an error that names the missing extra."""
    try:
        from captum import attr
    except ImportError as error:
        raise ImportError(
            'saliency needs captum, which is not installed; run '
            '`pip install torchgeo-decur[analysis]`'
        ) from error
    return attr


def _output(
    model: Pretrained, modality: str, dimensions: slice
) -> Callable[[Tensor], Tensor]:
    """Return a function from images to the mean of some dimensions, shape (B,)."""
    return lambda x: model.embed({modality: x})[modality][:, dimensions].mean(1)


def _same_grid(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    size = [max(pair) for pair in zip(a.shape[1:], b.shape[1:], strict=True)]
    a, b = (
        interpolate(x[:, None], size, mode='bilinear')[:, 0]
        if list(x.shape[1:]) != size
        else x
        for x in (a, b)
    )
    return a, b
