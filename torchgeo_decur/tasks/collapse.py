"""Detection of collapsing features or embeddings."""

import math
from collections.abc import Mapping
from typing import Any

# Untrained encoders start at a `std` of 0.55 (ResNet), 0.13 to 0.2 (transformers) or
# 0.07 (AlexNet), so an absolute threshold alone would be wrong.
_RATIO = 0.1
_LARGEST = {'std_': 0.02, 'rank_': 1.3}
# Value of each metric when all samples are identical.
_COLLAPSED = {'std_': 0.0, 'rank_': 1.0}
#: Minimum number of samples for valid metrics: two or three may be similar by
#: chance.
FEWEST_SAMPLES = 4


class CollapseGuard:
    """Detector of a collapse, based on the metrics ``std_<m>`` and ``rank_<m>``.

    A metric is low if it has lost nine tenths of its highest value, measured from
    its value at collapse. It must also be below a threshold: 0.02 for ``std`` and 1.3
    for ``rank``. The highest value may come from the untrained model, whose features
    can already be similar. Low values in several consecutive epochs count as a
    collapse.

    Args:
        patience: number of consecutive epochs with a low metric that count as a
            collapse.

    Example:
        >>> guard = CollapseGuard(patience=2)
        >>> for epoch, std in enumerate([0.8, 0.01, 0.01]):
        ...     guard.add({'std_s1': std}, ended=epoch > 0)
        >>> guard.collapsed
        ['std_s1']
    """

    def __init__(self, patience: float = 2) -> None:
        """Initialize a new CollapseGuard instance."""
        self.patience = patience
        #: Whether the metrics of the untrained model have been recorded.
        self.started = False
        self._warned = False
        self._last: dict[str, float] = {}
        self._highest: dict[str, float] = {}
        self._epochs: dict[str, int] = {}

    def add(self, values: Mapping[str, float], ended: bool) -> None:
        """Record the collapse metrics of a training step.

        Args:
            values: collapse metrics by name; NaN values are ignored.
            ended: whether the epoch ends with this step. Otherwise, low values do not
                count.
        """
        self.started = True
        for name, value in values.items():
            if math.isnan(value):
                continue
            kind = next(kind for kind in _LARGEST if name.startswith(kind))
            highest = max(value, self._highest.get(name, value))
            self._last[name], self._highest[name] = value, highest
            if ended:
                least = _COLLAPSED[kind]
                bound = min(least + _RATIO * (highest - least), _LARGEST[kind])
                low = value < bound
                self._epochs[name] = self._epochs.get(name, 0) + 1 if low else 0

    @property
    def collapsed(self) -> list[str]:
        """Names of the metrics that indicate a collapse."""
        return [n for n, epochs in self._epochs.items() if epochs >= self.patience]

    def warning(self, epoch: int) -> str | None:
        """Return a warning when a collapse is first detected.

        Args:
            epoch: index of the epoch, starting at 0.

        Returns:
            The message, or None without a collapse or after the first warning.
        """
        if self._warned or not self.collapsed:
            return None
        self._warned = True
        found = ', '.join(
            f'{name} is {self._last[name]:.3g} (highest so far {self._highest[name]:.3g})'
            for name in self.collapsed
        )
        return (
            f'features or embeddings collapse: at the end of epoch {epoch}, {found}; the '
            'model no longer distinguishes images, even if the loss still falls; restart '
            'with a lower lr, more warmup_epochs or a larger batch_size, and add the '
            'callback StopOnCollapse to stop such a fit'
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the metrics and counters to store in a checkpoint."""
        return {
            'started': self.started,
            'warned': self._warned,
            'last': dict(self._last),
            'highest': dict(self._highest),
            'epochs': dict(self._epochs),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the metrics and counters from a checkpoint.

        Args:
            state: result of :meth:`state_dict`.
        """
        self.started, self._warned = state['started'], state['warned']
        self._last, self._highest = dict(state['last']), dict(state['highest'])
        self._epochs = dict(state['epochs'])
