"""One figure for the modalities, dates and masks of a sample."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from torch import Tensor

from ..modalities import Modality

# Bands of a colour picture, in the order red, green, blue.
_COMPOSITES = (('B4', 'B3', 'B2'), ('R', 'G', 'B'))


def plot_images(
    images: Mapping[str, Tensor],
    modalities: Mapping[str, Modality],
    masks: Mapping[str, Tensor] | None = None,
    classes: Sequence[str] = (),
    cmap: Colormap | str = 'tab20',
    show_titles: bool = True,
    suptitle: str | None = None,
) -> Figure:
    """Draw the modalities of one sample side by side, one row for each date.

    Radar is drawn in grey (VV where there is one), optics as a colour picture, both
    stretched from the 2nd to the 98th percentile; elevation and depth of one band in
    false colour. Bytes keep their range.

    Args:
        images: image of each modality, shape (C, H, W) or (T, C, H, W).
        modalities: what each modality is.
        masks: maps of classes by title, shape (H, W), drawn behind the images.
        classes: name of each class, for the legend.
        cmap: colours of the classes.
        show_titles: whether each panel has a title, and masks a legend.
        suptitle: title of the figure.

    Returns:
        The figure. It is the caller's to close.

    Raises:
        ValueError: if there is nothing to draw, or an image has not the bands of its
            modality.
    """
    masks = masks or {}
    if not images and not masks:
        raise ValueError('images must hold at least one modality, got none')
    stacks = {m: x.detach().cpu().float() for m, x in images.items()}
    stacks = {m: x if x.ndim == 4 else x[None] for m, x in stacks.items()}
    for m, x in stacks.items():
        if x.size(1) != modalities[m].channels:
            raise ValueError(
                f'{m}: expected {modalities[m].channels} bands '
                f'{list(modalities[m].bands)}, got {x.size(1)}'
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
    for column, (title, mask) in enumerate(masks.items(), start=len(stacks)):
        ax = axes[0, column]
        values = mask.detach().cpu().squeeze()
        last = max(len(classes) - 1, 1) if classes else None
        drawn = ax.imshow(values.numpy(), cmap, vmin=0, vmax=last, interpolation='none')
        if show_titles:
            ax.set_title(title)
            _legend(ax, drawn, values, classes)
    if suptitle is not None:
        figure.suptitle(suptitle)
    return figure


def stretch(image: Tensor, low: float = 0.02, high: float = 0.98) -> Tensor:
    """Map each band's range between two quantiles to [0, 1].

    Args:
        image: shape (C, H, W); pixels that are not finite count in no quantile.
        low: lower quantile.
        high: upper quantile.

    Returns:
        The stretched image, same shape, 0 where it is not finite.
    """
    bands = []
    for band in image:
        finite = band[band.isfinite()]
        if not len(finite):
            bands.append(torch.zeros_like(band))
            continue
        limits = torch.tensor([low, high], dtype=band.dtype)
        a, b = torch.quantile(finite, limits)
        bands.append(((band - a) / (b - a).clamp(min=1e-12)).clamp(0, 1).nan_to_num(0))
    return torch.stack(bands)


def _draw(ax: Axes, image: Tensor, modality: Modality) -> str:
    """Draw one image; returns what is shown."""
    bands = modality.bands
    if modality.kind == 'sar':
        band = 'VV' if 'VV' in bands else bands[0]
        grey = stretch(image[[bands.index(band)]])[0]
        ax.imshow(grey.numpy(), 'gray', vmin=0, vmax=1)
        return f'{band}, {modality.unit}'
    if len(bands) < 3:
        plain = modality.kind not in ('elevation', 'depth')
        ax.imshow(image[0].numpy(), 'gray' if plain else 'terrain')
        return f'{bands[0]}, {modality.unit}'
    chosen = next((c for c in _COMPOSITES if set(c) <= set(bands)), bands[:3])
    image = image[[bands.index(b) for b in chosen]]
    if modality.unit == 'uint8':
        # A batch that the datamodule scaled is in [0, 1] already.
        image = (image / (255 if image.max() > 1 else 1)).clamp(0, 1)
    else:
        image = stretch(image)
    ax.imshow(image.permute(1, 2, 0).numpy())
    return ' '.join(chosen)


def _legend(ax: Axes, drawn: AxesImage, mask: Tensor, classes: Sequence[str]) -> None:
    """Name the classes that the mask holds."""
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
