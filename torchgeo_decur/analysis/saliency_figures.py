"""Saliency figures: overlaps, maps next to images, and attributions of bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor
from torch.nn.functional import interpolate

from ..modalities import Modality
from .band_composites import composite_and_bands
from .classifiers import Array
from .matplotlib_style import (
    COLOURS,
    COLUMN,
    PAGE,
    empty_panel,
    figure_style,
    set_title,
)


@dataclass(frozen=True)
class Example:
    """One sample and its saliency maps.

    Args:
        images: images in [0, 1] by modality, shape (C, H, W).
        maps: GradCAM maps by modality and part, shape (h, w).
    """

    images: Mapping[str, Tensor]
    maps: Mapping[tuple[str, str], Tensor]


def draw_overlaps(overlaps: Mapping[tuple[str, str], Array]) -> Figure:
    """Plot a histogram of the overlap between the maps of two modalities.

    Args:
        overlaps: scores by pair and part, shape (4, N). The first row contains the
            overlaps, and the third the overlaps of maps from different samples.

    Returns:
        A figure with one panel per pair. The caller must close it.
    """
    pairs = list(dict.fromkeys(pair for pair, _ in overlaps))
    parts = list(dict.fromkeys(part for _, part in overlaps))
    edges = np.linspace(0, 1, 21)
    with figure_style():
        figure, axes = plt.subplots(
            len(pairs), 1, figsize=(COLUMN, 1.9 * len(pairs) + 0.6), squeeze=False
        )
        for ax, pair in zip(axes[:, 0], pairs, strict=True):
            for part, x in ((p, x) for (q, p), x in overlaps.items() if q == pair):
                good, other = (row[np.isfinite(row)] for row in (x[0], x[2]))
                if not len(good):
                    continue
                ax.hist(
                    good,
                    edges,
                    weights=np.full(len(good), 100 / len(good)),
                    histtype='stepfilled',
                    facecolor=(COLOURS[part], 0.25),
                    edgecolor=COLOURS[part],
                    linewidth=1.2,
                )
                ax.axvline(good.mean(), color=COLOURS[part])
                if len(other):
                    ax.axvline(other.mean(), color=COLOURS[part], linestyle=':')
            ax.set(xlim=(0, 1), ylabel='samples (%)')
            ax.set_title(f'Map overlap of {pair}')
        axes[-1, 0].set_xlabel('overlap of GradCAM maps (0 disjoint, 1 identical)')
        handles: list[Artist] = [_swatch(part) for part in parts]
        for style, label in (('-', 'mean'), (':', 'mean, different samples')):
            handles.append(Line2D([], [], color='black', ls=style, label=label))
        figure.legend(handles=handles, loc='outside lower center', ncols=2)
    return figure


def draw_examples(
    examples: Sequence[Example], modalities: Mapping[str, Modality]
) -> Figure:
    """Plot saliency maps next to their images.

    Args:
        examples: samples to show, one per row.
        modalities: description of each modality.

    Returns:
        A figure with the image of each modality and the absolute map of each part,
        scaled to its maximum. The caller must close it.
    """
    keys = list(examples[0].maps)
    parts = list(dict.fromkeys(part for _, part in keys))
    names = list(examples[0].images)
    columns = len(names) * (1 + len(parts))
    width, size = min(PAGE - 0.5, 1.2 * columns), 7.5 if columns < 7 else 6
    with figure_style():
        figure, axes = plt.subplots(
            len(examples),
            columns,
            figsize=(width + 0.5, width / columns * len(examples) + 0.5),
            squeeze=False,
        )
        for i, example in enumerate(examples):
            panels = iter(axes[i])
            for m in names:
                image, shown = composite_and_bands(example.images[m], modalities[m])
                title = '' if i else f'{m}\n{shown.split(",")[0]}'
                ax = empty_panel(next(panels), title, size)
                ax.imshow(image, 'gray', vmin=0, vmax=1)
                for part in parts:
                    ax = empty_panel(next(panels), '' if i else f'{m}\n{part}', size)
                    x = _upsampled(example.maps[m, part], image.shape[:2])
                    drawn = ax.imshow(x, vmin=0, vmax=1)
        set_title(figure, 'GradCAM maps for the mean of the dimensions')
        bar = figure.colorbar(drawn, ax=axes, aspect=30, fraction=0.02, shrink=0.6)
        bar.set_label('relative to its maximum')
        bar.outline.set_visible(False)
    return figure


def draw_bands(
    by_band: Mapping[tuple[str, str], Array], modalities: Mapping[str, Modality]
) -> Figure:
    """Plot the attribution of each band as a box plot.

    Args:
        by_band: fractions in [0, 1] by modality and part, shape (N, C).
        modalities: description of each modality.

    Returns:
        A figure with one panel per modality. Boxes show the quartiles and median, and
        whiskers the 5th and 95th percentiles. The caller must close it.
    """
    names = list(dict.fromkeys(m for m, _ in by_band))
    parts = list(dict.fromkeys(part for _, part in by_band))
    with figure_style():
        figure, axes = plt.subplots(
            len(names), 1, figsize=(COLUMN, 2.3 * len(names) + 0.2), squeeze=False
        )
        for ax, m in zip(axes[:, 0], names, strict=True):
            modality = modalities[m]
            places = np.arange(modality.channels)
            width = 0.8 / len(parts)
            for i, part in enumerate(parts):
                if (m, part) not in by_band:
                    continue
                ax.boxplot(
                    100 * by_band[m, part],
                    positions=places + (i - (len(parts) - 1) / 2) * width,
                    widths=0.85 * width,
                    whis=(5, 95),
                    showfliers=False,
                    patch_artist=True,
                    manage_ticks=False,
                    boxprops={
                        'facecolor': (COLOURS[part], 0.35),
                        'edgecolor': COLOURS[part],
                        'linewidth': 0.8,
                    },
                    medianprops={'color': COLOURS[part], 'linewidth': 1.6},
                    whiskerprops={'color': COLOURS[part], 'linewidth': 0.8},
                    capprops={'linewidth': 0},
                )
            labels = [_label(modality, band) for band in range(modality.channels)]
            ax.set_xticks(places, labels, rotation=90 if len(places) > 5 else 0)
            ax.set(ylim=(0, None), xlim=(-0.6, len(places) - 0.4))
            ax.grid(axis='x', visible=False)
            ax.set_ylabel('attribution (%)')
            ax.set_title(f'Bands used by {m} embeddings')
        wavelengths = any(modalities[m].wavelengths for m in names)
        axes[-1, 0].set_xlabel('band' + ', central wavelength' * wavelengths)
        handles = [_swatch(part) for part in parts]
        figure.legend(handles=handles, loc='outside lower center', ncols=len(parts))
    return figure


def _swatch(part: str) -> Patch:
    return Patch(facecolor=(COLOURS[part], 0.35), edgecolor=COLOURS[part], label=part)


def _upsampled(x: Tensor, size: tuple[int, ...]) -> Array:
    """Resize an absolute map to the size of the image and scale it to [0, 1]."""
    big = interpolate(x.abs()[None, None], size, mode='bilinear')[0, 0]
    return (big / big.max().clamp(min=1e-12)).numpy()


def _label(modality: Modality, band: int) -> str:
    if modality.wavelengths is None:
        return modality.bands[band]
    nm = modality.wavelengths[band]
    # Radar wavelengths are usually given in centimeters.
    length = f'{nm:.0f} nm' if nm < 1e5 else f'{nm / 1e7:.1f} cm'
    return f'{modality.bands[band]}, {length}'
