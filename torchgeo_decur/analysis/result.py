"""Results of analyses: text, tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

type Rows = Sequence[Mapping[str, Any]]

#: Heading of each analysis, by name.
TITLES = {
    'alignment': 'Alignment of embedding dimensions',
    'dimensions': 'Map of embedding dimensions',
    'probes': 'Probes of common and unique dimensions',
    'dropping': 'Probes without the most aligned dimensions',
    'retrieval': 'Cross-modal retrieval',
    'value': 'Value of each modality',
    'shared': 'Shared directions of modalities',
    'rank': 'Effective rank',
    'spatial_saliency': 'Image regions used by common and unique embeddings',
    'spectral_saliency': 'Bands used by common and unique embeddings',
    'feature_maps': 'Principal components of the last feature map',
    'curves': 'Training curves',
}


class NotApplicable(ValueError):
    """Error of an analysis that does not apply to the task or its data."""


@dataclass(frozen=True)
class AnalysisResult:
    """The result of one analysis.

    A notebook shows the text of a result; matplotlib shows the figures.

    Args:
        name: short name for files, of letters, digits and underscores.
        title: heading.
        text: interpretation of the numbers. Empty lines separate paragraphs; lines that
            begin with '- ' are list items.
        tables: rows by name of the table; the rows of a table share their columns.
        figures: figures by name. The caller must close them.
    """

    name: str
    title: str
    text: str
    tables: Mapping[str, Rows] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def _repr_markdown_(self) -> str:
        return self.text
