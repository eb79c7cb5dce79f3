"""Plot the images and masks of a sample."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from torch import Tensor

from ..modalities import Modality, render


def plot_images(
    images: Mapping[str, Tensor],
    modalities: Mapping[str, Modality],
    masks: Mapping[str, Tensor] | None = None,
    classes: Sequence[str] = (),
    cmap: Colormap | str = 'tab20',
    show_titles: bool = True,
    suptitle: str | None = None,
) -> Figure:
    """Plot the modalities of one sample side by side, with one row per date.

    :func:`~torchgeo_decur.modalities.render` shows radar in grayscale, optical images in
    color, and elevation as hillshade. Single-band depth is shown in false colors.

    Args:
        images: image of each modality, shape (C, H, W) or (T, C, H, W).
        modalities: definition of each modality.
        masks: masks by title, shape (H, W) or (K, H, W), shown to the right of the images.
            Floating-point masks are shown as continuous values with a common color scale.
        classes: class names for the legend.
        cmap: colormap of the classes.
        show_titles: whether to show panel titles and the legends of masks.
        suptitle: title of the figure.

    Returns:
        The figure, which the caller must close.

    Raises:
        ValueError: if there are no images or masks, or an image does not have the bands
            of its modality.
    """
    masks = _single_maps(masks or {})
    if not images and not masks:
        raise ValueError('at least one image or mask must be given, got none')
    stacks = {m: x.detach().cpu().float() for m, x in images.items()}
    stacks = {m: x if x.ndim == 4 else x[None] for m, x in stacks.items()}
    for m, x in stacks.items():
        if x.size(1) != modalities[m].channels:
            raise ValueError(
                f'{m}: expected the bands {list(modalities[m].bands)}, found an image with '
                f'channel count {x.size(1)}; pass one channel per band'
            )
    rows = max((len(x) for x in stacks.values()), default=1)
    columns = len(stacks) + len(masks)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4 * columns, 4 * rows), squeeze=False, layout='tight'
    )
    for ax in axes.flat:
        ax.axis('off')
    for column, (m, x) in enumerate(stacks.items()):
        for row, image in enumerate(x):
            ax = axes[row, column]
            shown = _draw(ax, image, modalities[m])
            if show_titles:
                date = f', date {row + 1}' if len(x) > 1 else ''
                ax.set_title(f'{m} ({shown}){date}')
    numbers = [x for x in masks.values() if x.is_floating_point()]
    low, high = _limits(numbers)
    for column, (title, values) in enumerate(masks.items(), start=len(stacks)):
        ax = axes[0, column]
        if values.is_floating_point():
            drawn = ax.imshow(values.numpy(), 'viridis', vmin=low, vmax=high)
            if show_titles:
                ax.set_title(title)
                figure.colorbar(drawn, ax=ax)
            continue
        last = max(len(classes) - 1, 1) if classes else None
        drawn = ax.imshow(values.numpy(), cmap, vmin=0, vmax=last, interpolation='none')
        if show_titles:
            ax.set_title(title)
            _legend(ax, drawn, values, classes)
    if suptitle is not None:
        figure.suptitle(suptitle)
    return figure


def describe_label(label: Tensor, classes: Sequence[str] = ()) -> str:
    """Format the label of a scene as text.

    Args:
        label: class index or number, shape (), or multi-label target or several numbers,
            shape (K,).
        classes: class names.

    Returns:
        Class names or indices, or numbers.

    Example:
        >>> import torch
        >>> describe_label(torch.tensor([1, 0, 1]), ['water', 'urban', 'forest'])
        'water; forest'
        >>> describe_label(torch.tensor(0.51234))
        '0.5123'
    """
    values = label.detach().cpu().flatten()
    if values.is_floating_point():
        return ', '.join(f'{value:.4g}' for value in values.tolist())
    present = [int(values)] if label.ndim == 0 else values.nonzero().flatten().tolist()
    return '; '.join(classes[i] if classes else str(i) for i in present) or 'none'


def _single_maps(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split masks into maps of shape (H, W); if a mask has several, number their titles."""
    found = {}
    for title, mask in masks.items():
        maps = mask.detach().cpu().squeeze()
        if maps.ndim < 3:
            found[title] = maps
        else:
            found |= {f'{title} {k}': x for k, x in enumerate(maps)}
    return found


def _limits(maps: Sequence[Tensor]) -> tuple[float, float]:
    """Return the minimum and maximum of all finite values."""
    known = [x[x.isfinite()].float() for x in maps]
    values = [x for x in known if x.numel()]
    if not values:
        return 0.0, 1.0
    return min(x.min().item() for x in values), max(x.max().item() for x in values)


def _draw(ax: Axes, image: Tensor, modality: Modality) -> str:
    """Draw one image and return a description of the bands or colors shown."""
    drawn, shown = render(image, modality)
    ax.imshow(drawn, 'terrain' if modality.kind == 'depth' else 'gray', vmin=0, vmax=1)
    return shown


def _legend(ax: Axes, drawn: AxesImage, mask: Tensor, classes: Sequence[str]) -> None:
    """Add a legend for the classes that occur in a mask."""
    present = [i for i in range(len(classes)) if (mask == i).any()]
    if present:
        patches = [
            Patch(color=tuple(drawn.to_rgba(np.array(i))), label=classes[i])
            for i in present
        ]
        ax.legend(
            handles=patches,
            loc='center left',
            bbox_to_anchor=(1, 0.5),
            fontsize='x-small',
        )
