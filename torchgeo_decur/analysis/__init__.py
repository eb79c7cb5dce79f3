"""What was learned: the analyses of the paper, each one call."""

from .finding import Finding
from .style import figure_style

__all__ = ('Finding', 'figure_style')
