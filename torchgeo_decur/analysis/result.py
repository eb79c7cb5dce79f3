"""Result of an analysis: text, tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

type Rows = Sequence[Mapping[str, Any]]

#: Report heading of each analysis, by name.
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
    """Error for an analysis that does not apply to the task or its data."""


@dataclass(frozen=True)
class AnalysisResult:
    """Result of one analysis, with text, tables and figures.

    A notebook displays the text of a result; matplotlib displays the figures.

    Args:
        name: short name for file names, with only letters, digits and underscores.
        title: heading of the analysis in reports.
        text: explanation of the numbers. Blank lines separate paragraphs; lines that
            begin with '- ' are list items.
        tables: rows of each table, by name; all rows of a table have the same columns.
        figures: figures by name. The caller must close them.
    """

    name: str
    title: str
    text: str
    tables: Mapping[str, Rows] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def _repr_markdown_(self) -> str:
        return self.text
