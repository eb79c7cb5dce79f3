"""The look of every figure: one style file, one colour for each meaning."""

from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib.pyplot as plt

_FILE = Path(__file__).with_name('figures.mplstyle')

# Okabe and Ito, https://jfly.uni-koeln.de/color/: told apart by all kinds of colour vision.
#: Colour of common, of unique and of all dimensions, and of features.
COLOURS = {
    'common': '#0072B2',
    'unique': '#D55E00',
    'all': '#009E73',
    'features': '#555555',
}
#: Markers of modalities, in their order.
MARKERS = 'osD^vP*X'
#: Width of a column and of a page, in inches.
COLUMN, PAGE = 3.4, 7.0


def figure_style() -> AbstractContextManager[None]:
    """Draw in the style of the reports.

    Returns:
        A context in which figures have that style.

    Example:
        >>> with figure_style():
        ...     plt.rcParams['figure.dpi']
        150.0
    """
    return plt.rc_context(fname=_FILE)
