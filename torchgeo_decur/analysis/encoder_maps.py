"""Figures of the last feature map of each encoder."""

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..modalities import Modality
from ..models import ResNetRDA
from ..models.backbones.deformable_attention import reference_points
from .activation_maps import last_map
from .band_composites import composite_and_bands
from .classifiers import Array
from .matplotlib_style import PAGE, empty_panel, figure_style, set_title
from .model_interface import Pretrained, eval_with_gradients, iter_batches
from .result import TITLES, AnalysisResult, NotApplicable

_OPTICAL = ('multispectral', 'rgb')


def feature_maps(
    model: Pretrained,
    batches: Iterable[Mapping[str, Tensor]],
    modalities: Mapping[str, Modality],
    max_samples: int = 64,
    examples: int = 4,
) -> AnalysisResult:
    """Plot the first principal components of the last feature map (paper, Fig. 5b).

    The components are computed over all positions of all samples so that a color has
    the same meaning in all images. Optical modalities show three components as red,
    green and blue; others show one component in gray. For encoders with residual
    deformable attention, the figure also shows the sampling points of the last
    attention layer. Their displacement is measured in cells of the feature map.

    Wang et al., *Decoupling Common and Unique Representations for Multimodal
    Self-supervised Learning*, ECCV 2024, https://arxiv.org/abs/2309.05300, section 7.

    Args:
        model: a pretraining task. On exit, the mode of its modules is restored.
        batches: images in [0, 1] by modality, shape (B, C, H, W), all of the same size.
        modalities: description of each modality.
        max_samples: maximum number of samples.
        examples: number of samples to show in the figure.

    Returns:
        Table ``components`` with the explained variance ratio of each component, and
        figure ``maps``. If an encoder has deformable attention, the table ``points``
        contains mean displacements.

    Raises:
        NotApplicable: if an encoder has no feature map.
        ValueError: if an option is out of range.
    """
    if examples < 1:
        raise ValueError(f'examples must be positive, got {examples}')
    views = {m: _View(modality) for m, modality in modalities.items()}
    with eval_with_gradients(model), torch.no_grad():
        for images in iter_batches(model, batches, modalities, max_samples):
            for m, x in images.items():
                views[m].add(model.encoders.encoders[m], x, examples)
    tables: dict[str, list[dict[str, Any]]] = {'components': []}
    pictures, lines = {}, []
    for m, view in views.items():
        components, explained = principal_components(
            torch.cat(view.maps), 3 if view.modality.kind in _OPTICAL else 1
        )
        pictures[m] = components[:examples]
        tables['components'] += [
            {'modality': m, 'component': i + 1, 'share_of_variance': float(share)}
            for i, share in enumerate(explained)
        ]
        h, w = view.maps[0].shape[2:]
        lines.append(
            f'- {m}: the map has {h} x {w} positions and {view.maps[0].shape[1]} channels; '
            f'the components shown explain {explained.sum():.0%} of the variance.'
        )
        if view.points:
            moved = displacement(torch.cat(view.points), (h, w))
            row = {'modality': m, 'mean_move_in_cells': float(moved.mean())}
            tables.setdefault('points', []).append(row)
            lines.append(
                f'- {m}: the sampling points of the last attention layer move by '
                f'{moved.mean():.2f} cells of the feature map on average.'
            )
    return AnalysisResult(
        'feature_maps',
        TITLES['feature_maps'],
        'First principal components of the last feature map, over all positions of all '
        'samples. A color has the same meaning in all images of a modality.\n\n'
        + '\n'.join(lines),
        tables,
        {'maps': _draw(views, pictures)},
    )


def principal_components(maps: Tensor, number: int) -> tuple[Array, Array]:
    """Project the feature vectors of all positions onto their principal components.

    Args:
        maps: feature maps, shape (N, F, h, w).
        number: maximum number of components.

    Returns:
        The projections, shape (N, h, w, K) for K components, and the explained variance
        ratio of each component. For each component, the 2nd and 98th percentiles over
        all maps are scaled to 0 and 1.

    Raises:
        NotApplicable: if there is only one position.

    Example:
        >>> x = torch.arange(8.0).view(2, 1, 2, 2) * torch.tensor([3.0, 4]).view(1, 2, 1, 1)
        >>> pictures, explained = principal_components(x, 1)
        >>> pictures.shape, explained.round(3)
        ((2, 2, 2, 1), array([1.]))
    """
    places = maps.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    if len(places) < 2:
        raise NotApplicable(
            f'maps must have at least 2 positions in total, got {len(places)}; use more or '
            'larger images'
        )
    number = min(number, *places.shape)
    # This solver is deterministic.
    pca = PCA(number, svd_solver='covariance_eigh')
    with np.errstate(invalid='ignore'):
        # Constant maps have zero variance.
        projected = pca.fit_transform(places)
    low, high = np.quantile(projected, [0.02, 0.98], axis=0)
    scaled = np.clip((projected - low) / np.maximum(high - low, 1e-12), 0, 1)
    shape = (len(maps), *maps.shape[2:], number)
    return scaled.reshape(shape), np.nan_to_num(pca.explained_variance_ratio_)


def displacement(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute the displacement of the sampling points in deformable attention.

    Args:
        points: sampling points (x, y) in [-1, 1], shape (B, groups, H_k, W_k, 2).
        size: height and width of the sampled feature map.

    Returns:
        Distances in cells of the feature map, shape (B, groups, H_k, W_k).
    """
    start = reference_points(points.shape[2], points.shape[3], points).clamp(-1, 1)
    cells = points.new_tensor([size[1] - 1, size[0] - 1]) / 2
    distance: Tensor = ((points - start) * cells).norm(dim=-1)
    return distance


class _View:
    """Feature maps, sampling points and first images of one modality."""

    def __init__(self, modality: Modality) -> None:
        self.modality = modality
        self.maps: list[Tensor] = []
        self.points: list[Tensor] = []
        self.images: list[Tensor] = []

    def add(self, encoder: nn.Module, x: Tensor, examples: int) -> None:
        if isinstance(encoder, ResNetRDA):
            maps, points = encoder.forward_with_positions(x)
            # The last attention layer samples from the last feature map.
            self.points.append(list(points.values())[-1].float().cpu())
        else:
            maps = last_map(encoder, x)
        self.maps.append(maps.float().cpu())
        self.images += x[: max(0, examples - len(self.images))].float().cpu()


def _draw(views: Mapping[str, _View], pictures: Mapping[str, Array]) -> Figure:
    columns, rows = 2 * len(views), len(next(iter(pictures.values())))
    width = min(PAGE, 1.7 * columns)
    with figure_style():
        figure, axes = plt.subplots(
            rows, columns, figsize=(width, width / columns * rows + 0.6), squeeze=False
        )
        set_title(figure, 'First principal components of the last feature map')
        for i, (m, view) in enumerate(views.items()):
            points = torch.cat(view.points).numpy() if view.points else None
            for row, image in enumerate(view.images):
                height, breadth = image.shape[1:]
                drawn, shown = composite_and_bands(image, view.modality)
                titles = [f'{m}\n{shown.split(",")[0]}', f'{m}\n{_named(pictures[m])}']
                titles = ['', ''] if row else titles
                ax = empty_panel(axes[row, 2 * i], titles[0])
                ax.imshow(drawn, 'gray', vmin=0, vmax=1)
                ax = empty_panel(axes[row, 2 * i + 1], titles[1])
                components = torch.tensor(pictures[m][row]).permute(2, 0, 1)
                big = interpolate(components[None], (height, breadth), mode='bilinear')
                ax.imshow(_colour(big[0]), 'gray', vmin=0, vmax=1)
                if points is not None:
                    h, w = view.maps[0].shape[2:]
                    # The centers of the first and last cell are -1 and 1.
                    cells = (points[row].reshape(-1, 2) + 1) / 2 * [w - 1, h - 1]
                    x, y = ((cells + 0.5) * [breadth / w, height / h] - 0.5).T
                    ax.scatter(x, y, s=3, c='white', edgecolors='black', linewidths=0.3)
    return figure


def _named(pictures: Array) -> str:
    number = pictures.shape[-1]
    return 'component 1' if number == 1 else f'components 1 to {number}'


def _colour(x: Tensor) -> Array:
    """Convert components, shape (K, H, W), to an image; missing channels are 0."""
    if len(x) == 1:
        return x[0].numpy()
    blank = x.new_zeros(3 - len(x), *x.shape[1:])
    return torch.cat([x, blank]).permute(1, 2, 0).numpy()
