"""What an analysis returns: words, numbers and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

type Rows = Sequence[Mapping[str, Any]]


class NotApplicable(ValueError):
    """There is nothing to look at: an analysis does not apply to a task or its data."""


@dataclass(frozen=True)
class AnalysisResult:
    """The outcome of one analysis.

    Args:
        name: short name, which names its files: letters, digits and underscores.
        title: what was looked at, as a heading.
        text: what the numbers say: paragraphs, with an empty line between, of which
            those whose lines begin with '- ' are lists.
        tables: numbers by name; the rows of a table share their columns.
        figures: pictures by name. They are the caller's to close.

    In a notebook a finding shows its words, and the notebook its figures.
    """

    name: str
    title: str
    text: str
    tables: Mapping[str, Rows] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def _repr_markdown_(self) -> str:
        return self.text
