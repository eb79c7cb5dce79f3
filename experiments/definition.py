"""Definition of the cells and columns of an experiment table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import yaml

_STARTS = ('pretrain', 'pretrain_all', 'pretrain_axes')
# Required and optional keys of tables with fits and of tables with probes.
_KEYS = (
    ({'fit', 'metrics'}, {'axes', 'against', 'summary', *_STARTS}),
    ({'probe', 'metrics', 'pretrain'}, {'parts', 'choose', 'against', *_STARTS}),
)


@dataclass(frozen=True)
class Cell:
    """One experiment in a table.

    Args:
        name: name of the value on each axis.
        pretrains: options of each pretraining run for its encoders.
        fit: options of the fit; empty without a fit.
        probes: options of each probe run.
    """

    name: tuple[str, ...]
    pretrains: tuple[tuple[str, ...], ...]
    fit: tuple[str, ...]
    probes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table of experiments.

    Args:
        name: name of the YAML file, without suffix.
        axes: names of the axes.
        cells: experiments of the table.
        metrics: names of the metrics of each column, by section and header; a column shows their
            mean.
        parts: names of the cells for which a table of all probes is shown.
        choose: name of the last axis, if its best value is marked.
        against: value of the first axis with which the others are compared.
        summary: names of the metrics to average, by header and value of an axis.
    """

    name: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    metrics: Mapping[str, Mapping[str, tuple[str, ...]]]
    parts: tuple[str, ...]
    choose: str | None
    against: str | None
    summary: Mapping[str, Mapping[str, tuple[str, ...]]]

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of all metrics in the columns."""
        columns = [names for found in self.metrics.values() for names in found.values()]
        return tuple(dict.fromkeys(chain.from_iterable(columns)))

    @classmethod
    def read(cls, path: Path) -> 'Table':
        """Read a table definition.

        Args:
            path: YAML file of the table.

        Returns:
            The table definition.

        Raises:
            ValueError: if the keys or values of the file are not valid.
        """
        content = yaml.safe_load(path.read_text())
        keys = set(content)
        if not any(must <= keys <= must | may for must, may in _KEYS):
            said = '; or '.join(
                f'{sorted(must)}, and may have {sorted(may - must)}'
                for must, may in _KEYS
            )
            raise ValueError(f'{path} must have the keys {said}; got {sorted(content)}')
        every: list[str] = content.get('pretrain_all', [])
        starts: dict[str, Any] = content.get('pretrain', {})
        ways: dict[str, dict[str, list[str]]] = content.get('pretrain_axes', {})
        axes: dict[str, dict[str, list[str]]] = content.get('axes', {})
        if starts:
            more = axes.pop('encoders', {})
            if unknown := sorted(set(more) - set(starts)):
                raise ValueError(
                    f'{path}: encoders must be among {list(starts)}, the names in '
                    f'pretrain, got {unknown}'
                )
            encoders = {name: more.get(name, []) for name in starts}
            axes = {'encoders': encoders, **{axis: {} for axis in ways}, **axes}
        cells = []
        for names in product(*(ways.get(axis) or axes[axis] for axis in axes)):
            chosen = dict(zip(axes, names, strict=True))
            begin = [o for axis in ways for o in ways[axis][chosen[axis]]]
            options = [o for axis in axes for o in axes[axis].get(chosen[axis], [])]
            cells.append(
                Cell(
                    tuple(map(str, names)),
                    tuple(
                        _resolve([*every, *start, *begin], path.parent)
                        for start in _several(starts.get(names[0]))
                    ),
                    _resolve([*content.get('fit', []), *options], path.parent),
                    tuple(_resolve(p, path.parent) for p in content.get('probe', [])),
                )
            )
        metrics: Any = content['metrics']
        if not isinstance(metrics, dict):
            metrics = {m.removeprefix('test_'): m for m in metrics}
        if not isinstance(next(iter(metrics.values())), dict):
            metrics = {'': metrics}
        shown = {
            section: {
                header: (name,) if isinstance(name, str) else tuple(name)
                for header, name in columns.items()
            }
            for section, columns in metrics.items()
        }
        if content.get('probe') and any(len(cell.pretrains) != 1 for cell in cells):
            raise ValueError(
                f'{path}: each cell must have exactly one pretraining for its probes, got '
                f'{sorted({len(cell.pretrains) for cell in cells})}'
            )
        parts = tuple(content.get('parts', ()))
        choose: str | None = content.get('choose')
        if choose not in (None, [*axes][-1]):
            raise ValueError(
                f'{path}: choose must be the last axis, {[*axes][-1]!r}, got {choose!r}'
            )
        against: str | None = content.get('against')
        values = list(dict.fromkeys(cell.name[0] for cell in cells if cell.name))
        if against not in (None, *values):
            raise ValueError(
                f'{path}: against must be one of {values}, got {against!r}'
            )
        summary: dict[str, dict[str, list[str]]] = content.get('summary', {})
        known = {name for cell in cells for name in cell.name[1:]}
        if wrong := {n for found in summary.values() for n in found} - known:
            raise ValueError(
                f'{path}: summary must name values of the axes, {sorted(known)}, got '
                f'{sorted(wrong)}'
            )
        return cls(
            path.stem,
            tuple(axes),
            tuple(cells),
            shown,
            parts,
            choose,
            against,
            {h: {n: tuple(m) for n, m in f.items()} for h, f in summary.items()},
        )


def _several(start: Any) -> list[list[str]]:
    """Return the options of each pretraining run, from one list or from several by name."""
    if start is None:
        return []
    return [*start.values()] if isinstance(start, dict) else [start]


def _resolve(options: Sequence[str], folder: Path) -> tuple[str, ...]:
    starts = ('--config=', '--data=')
    if wrong := [o for o in options if not isinstance(o, str)]:
        raise ValueError(f'options must be text, got {wrong[0]!r}; put it in quotes')
    parts = [option.partition('=') for option in options]
    return tuple(
        f'{key}={(folder / value).resolve()}' if key + equals in starts else option
        for option, (key, equals, value) in zip(options, parts, strict=True)
    )
