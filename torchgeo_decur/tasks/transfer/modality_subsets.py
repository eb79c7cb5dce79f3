"""Test metrics for every subset of the modalities."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import cast

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from ...losses import display_names
from ...terminal import text_table


class SubsetMetrics(nn.Module):
    """Test metrics for each proper subset of the modalities.

    Args:
        metrics: metrics to compute for each subset, by name.
        modalities: names of the modalities. Without names, there are no subsets.
        percent: whether the table shows the metrics in percent.

    Example:
        >>> list(SubsetMetrics({}, ['s1', 's2', 'dem']).names.values())
        ['s1', 's2', 'dem', 's1+s2', 's1+dem', 's2+dem', 's1+s2+dem']
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        modalities: Sequence[str],
        percent: bool = True,
    ) -> None:
        """Initialize a new SubsetMetrics instance."""
        super().__init__()
        self.columns = list(metrics)
        self.percent = percent
        self.whole = tuple(modalities)
        sizes = range(1, len(modalities))
        subsets = [names for size in sizes for names in combinations(modalities, size)]
        #: Display name of each subset.
        self.names = display_names([*subsets, self.whole], '+')
        self.subsets = subsets
        self.collections = nn.ModuleList(
            collect(metrics, 'test', f'_{self.names[subset]}') for subset in subsets
        )

    def items(self) -> Iterator[tuple[tuple[str, ...], MetricCollection]]:
        """Iterate over the subsets and their metrics."""
        for subset, metrics in zip(self.subsets, self.collections, strict=True):
            yield subset, cast(MetricCollection, metrics)

    def compute(self) -> dict[str, Tensor]:
        """Compute and reset the metrics.

        Returns:
            Values by metric name, ``test_<metric>_<subset>``, or an empty dictionary
            without subsets.
        """
        values: dict[str, Tensor] = {}
        for _, metrics in self.items():
            values |= metrics.compute()
            metrics.reset()
        return values

    def table(self, values: Mapping[str, Tensor]) -> str:
        """Format the metrics of every subset and of all modalities as a table.

        Args:
            values: result of :meth:`compute` and the values ``test_<metric>`` for all
                modalities.

        Returns:
            The table in plain text.
        """
        rows = {
            name: '' if subset == self.whole else f'_{name}'
            for subset, name in self.names.items()
        }
        lines = []
        for name, postfix in rows.items():
            found = [float(values[f'test_{c}{postfix}']) for c in self.columns]
            cells = [f'{100 * v:.1f}' if self.percent else f'{v:.4g}' for v in found]
            lines.append([name, *cells])
        unit = ', in %' if self.percent else ''
        table = text_table(['modalities', *self.columns], lines)
        return f'Test scores by available modalities{unit}\n{table}'


def collect(
    metrics: Mapping[str, Metric], stage: str, postfix: str = ''
) -> MetricCollection:
    """Copy metrics into a collection for one stage.

    Compute groups are disabled, because they give wrong results for wrapped metrics
    such as TorchGeo's.

    Args:
        metrics: metrics by name.
        stage: name of the stage, used as prefix of the metric names.
        postfix: suffix of the metric names.
    """
    copies: dict[str, Metric | MetricCollection] = {
        name: metric.clone() for name, metric in metrics.items()
    }
    return MetricCollection(
        copies, prefix=f'{stage}_', postfix=postfix, compute_groups=False
    )
