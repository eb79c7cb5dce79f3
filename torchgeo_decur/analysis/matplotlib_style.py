"""Shared style and building blocks of all figures."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_FILE = Path(__file__).with_name('figures.mplstyle')

# The colors of Okabe and Ito, https://jfly.uni-koeln.de/color/, are distinct for all
# types of color vision.
#: Colors of common, unique and all dimensions, and of features.
COLOURS = {
    'common': '#0072B2',
    'unique': '#D55E00',
    'all': '#009E73',
    'features': '#555555',
}
#: Markers of the modalities, in order.
MARKERS = 'osD^vP*X'
#: Widths of a column and of a page, in inches.
COLUMN, PAGE = 3.4, 7.0


def figure_style() -> AbstractContextManager[None]:
    """Apply the figure style of reports.

    Returns:
        A context manager, within which new figures have this style.

    Example:
        >>> with figure_style():
        ...     plt.rcParams['figure.dpi']
        150.0
    """
    return plt.rc_context(fname=_FILE)


def grid_of_panels(
    number: int, columns: int, size: tuple[float, float], sharey: bool = True
) -> tuple[Figure, list[Axes]]:
    """Create a figure with a grid of panels.

    Args:
        number: number of panels.
        columns: number of panels per row.
        size: width of the figure and height of a row, in inches.
        sharey: whether to share the vertical axis.

    Returns:
        The figure and its panels, row by row. Unused cells of the last row are blank.
    """
    rows = -(-number // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(size[0], size[1] * rows), squeeze=False, sharey=sharey
    )
    for axis in axes.flat[number:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:number])


def plot_scores(
    axis: Axes, x: Sequence[float], rows: Sequence[Mapping[str, Any]], **style: Any
) -> None:
    """Plot scores with their intervals as error bars.

    Args:
        axis: axes to draw on.
        x: position of each score.
        rows: table rows with ``score``, ``low`` and ``high``.
        style: arguments of matplotlib's ``errorbar``.
    """
    scores, low, high = (
        [float(row[name]) for row in rows] for name in ('score', 'low', 'high')
    )
    # A bootstrap interval may exclude the score itself.
    below = [max(score - end, 0) for score, end in zip(scores, low, strict=True)]
    above = [max(end - score, 0) for score, end in zip(scores, high, strict=True)]
    axis.errorbar(x, scores, (below, above), elinewidth=1, **style)


def empty_panel(ax: Axes, title: str, size: float = 7.5) -> Axes:
    """Prepare a panel for an image: set its title and remove ticks and lines.

    Args:
        ax: axes of the panel.
        title: title of the panel.
        size: font size of the title, in points.
    """
    ax.set_title(title, fontsize=size, loc='center')
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return ax


def set_title(figure: Figure, title: str) -> None:
    """Set the title of a figure with several image panels."""
    figure.suptitle(title, x=0.01, ha='left', fontsize=9)
