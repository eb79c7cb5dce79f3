"""Dataset of embeddings from several frozen models for the same samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torchgeo.datasets.utils import Sample

from ...modalities import Modality, mark_available
from ..base import FileDataset, check_skip_incomplete
from ..entry_validation import check_keys
from .files import EmbeddingFile, Floats
from .pairing import DATES, columns_of_key, pair_rows

_KEYS = ('path', 'column', 'part', 'key')


@dataclass(frozen=True)
class _Table:
    """Rows of one modality: embeddings, key columns, geometry and labels."""

    features: Floats
    columns: pd.DataFrame
    key: Sequence[str]


class PairedEmbeddings(FileDataset):
    """Dataset of embeddings from several frozen models, each as one modality.

    A sample has one ``image_<m>`` per modality: its embedding as a float32 image with D
    bands and one pixel, shape (D, 1, 1). Tasks and analyses can therefore treat it like an
    image. With ``views``, the rows of one key are views of one sample, and the shape is
    (T, D, 1, 1), as for T dates. If a sample has fewer than T rows, they are repeated.

    All embeddings are kept in memory, which takes 4 bytes per number.

    Args:
        root: folder that the paths are relative to.
        embeddings: entry of each modality, by name:

            - ``path``: path of a Parquet, GeoParquet, ``.npz`` or ``.npy`` file. For
              several files, use a pattern such as ``clay/*.parquet`` or a list.
            - ``column``: column of the embeddings, by default ``embedding``, or a pattern
              that matches columns of numbers, such as ``A*``.
            - ``part``: modality in a file of ``torchgeo-decur embed``. By default, it is
              the name of the entry, or the only modality in the file.
            - ``key``: key columns of this modality, if they have other names.

        key: columns that identify a sample, by default ``sample``. ``place`` is the center
            of the geometry, ``date`` is the day in UTC, and ``row`` is the row number.
        tolerance: maximum distance in meters between the places of a sample.
        views: whether the rows of one key are views of one sample. Otherwise, repeated
            keys raise an error.
        skip_incomplete: False to raise an error if a sample lacks a modality, True to skip
            the sample, or 'keep' to use its other modalities.
        labels: label columns, from any of the files. By default, they are the columns
            ``label`` and ``label_*`` that have a value for every sample. Text labels are
            replaced with class numbers in alphabetical order.
        group: column that assigns samples to groups. A split keeps each group together.
        transforms: function that takes a sample and returns a new one.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if an entry is not valid, a file lacks a column, keys repeat, samples
            are incomplete, or an embedding contains NaN or infinity. An embedding of only
            NaN counts as absent.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, width in (('croma', 6), ('dofa', 4)):
        ...         np.save(f'{folder}/{name}.npy', np.zeros((3, width)))
        ...     entries = {m: {'path': f'{m}.npy'} for m in ('croma', 'dofa')}
        ...     dataset = PairedEmbeddings(folder, entries, key='row')
        >>> {k: tuple(x.shape) for k, x in dataset[0].items() if k.startswith('image')}
        {'image_croma': (6, 1, 1), 'image_dofa': (4, 1, 1)}
    """

    def __init__(
        self,
        root: str | Path,
        embeddings: Mapping[str, Mapping[str, Any]],
        key: str | Sequence[str] = 'sample',
        *,
        tolerance: float = 1.0,
        views: bool = False,
        skip_incomplete: Literal['keep'] | bool = False,
        labels: Sequence[str] | None = None,
        group: str | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Initialize a new PairedEmbeddings instance."""
        check_skip_incomplete(skip_incomplete)
        check_entries(embeddings)
        self.root, self.transforms = Path(root), transforms
        wanted = [*(labels or ()), *([group] if group else [])]
        tables = {
            m: self._read(m, entry, _as_list(entry.get('key', key)), wanted)
            for m, entry in embeddings.items()
        }
        lengths = {m: len(table.key) for m, table in tables.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                'key must have the same number of columns for all modalities, got '
                f'{lengths}'
            )
        self.names, rows = pair_rows(
            {m: table.columns for m, table in tables.items()},
            {m: table.key for m, table in tables.items()},
            tolerance,
        )
        self.features: dict[str, Tensor] = {}
        self.rows: dict[str, Tensor] = {}
        has: dict[str, NDArray[np.bool_]] = {}
        for m, table in tables.items():
            present = ~np.isnan(table.features).all(1)
            self._check_finite(m, table.features[present], rows[m][present])
            self.features[m] = torch.from_numpy(table.features)
            self.rows[m], has[m] = self._number(m, rows[m], present, views)
        self.modalities = {
            m: Modality(tuple(map(str, range(x.shape[1]))), 'embedding', 'native')
            for m, x in self.features.items()
        }
        self.samples = self._complete(has, skip_incomplete)
        self._labels: dict[str, Tensor] = {}
        self.label_classes: dict[str, tuple[str, ...]] = {}
        self._find_labels(tables, rows, labels)
        self._places = self._find_places(tables, rows)
        self.groups = self.names
        if group is not None:
            self.groups = [*map(str, self._column(group, tables, rows))]

    @property
    def places(self) -> Callable[[], gpd.GeoDataFrame]:
        """Function that returns the geometry of each sample, and its date if known.

        Raises:
            AttributeError: if the files lack the geometry of a sample.
        """
        if self._places is None:
            raise AttributeError('places requires a geometry of each sample')
        found = self._places.loc[list(self.samples)].reset_index(drop=True)
        return lambda: found

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the classes of ``label``, empty unless the labels are text."""
        return self.label_classes.get('label', ())

    def load(self, item: int) -> Sample:
        """Return one sample.

        Args:
            item: number of the sample.
        """
        (sample,) = self._load([item])
        return sample

    def __getitems__(self, indices: list[int]) -> list[Sample]:
        """Return the samples of a batch, with one indexing operation per modality.

        Args:
            indices: numbers of the samples.
        """
        items = [self.samples[i] for i in indices]
        samples = self._load(items)
        for sample, item in zip(samples, items, strict=True):
            if self.lacking:
                absent = self.lacking.get(item, frozenset())
                sample |= mark_available(self.modalities, absent)
        return samples if self.transforms is None else [*map(self.transforms, samples)]

    def labels(self, name: str = 'label') -> Tensor:
        """Return one label of all samples, shape (N,) or (N, K).

        Args:
            name: name of the label, see :attr:`label_names`.
        """
        return self._labels[name][list(self.samples)]

    @property
    def label_names(self) -> list[str]:
        """Names of the labels."""
        return list(self._labels)

    def vectors(self, modality: str) -> Tensor:
        """Return the embeddings of one modality in this dataset, without repetitions.

        Args:
            modality: name of the modality.

        Returns:
            Embeddings, shape (N, D).
        """
        chosen = self.rows[modality][list(self.samples)]
        return self.features[modality][chosen[chosen >= 0].unique()]

    def sample_names(self) -> list[str]:
        """Return the key of each sample, in order."""
        return [self.names[item] for item in self.samples]

    def label_columns(self) -> pd.DataFrame:
        """Return a table of the labels with one value per sample, text as in the files."""
        columns = {}
        for name in self._labels:
            values = self.labels(name)
            if values.ndim > 1:
                continue
            classes = self.label_classes.get(name)
            if classes:
                columns[name] = pd.array(
                    [classes[i] for i in values.tolist()], 'string'
                )
            else:
                dtype = 'float64' if values.is_floating_point() else 'Int64'
                columns[name] = pd.array(values.tolist(), dtype)
        return pd.DataFrame(columns, index=range(len(self.samples)))

    def origin(self, item: int, key: str) -> str:
        """Return the key of a sample for messages."""
        return self.names[item]

    def plot(
        self, sample: Sample, show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Draw the embeddings of a sample as curves.

        Args:
            sample: a sample of the dataset.
            show_titles: whether to show the name of the modality above each panel.
            suptitle: title of the figure.

        Returns:
            The figure; the caller closes it.
        """
        shown = [m for m in self.modalities if sample.get(f'available_{m}', True)]
        figure, axes = plt.subplots(len(shown), 1, squeeze=False, layout='constrained')
        for m, axis in zip(shown, axes[:, 0], strict=True):
            axis.plot(sample[f'image_{m}'].reshape(-1, self.features[m].shape[1]).T)
            if show_titles:
                axis.set_title(m)
        if suptitle is not None:
            figure.suptitle(suptitle)
        return figure

    def _load(self, items: Sequence[int]) -> list[Sample]:
        index = torch.tensor(items)
        samples: list[Sample] = [{} for _ in items]
        for m, features in self.features.items():
            rows = self.rows[m][index]
            x = features[rows.clamp(min=0)]
            x[rows < 0] = 0
            for sample, vector in zip(samples, x[..., None, None], strict=True):
                sample[f'image_{m}'] = vector[0] if len(vector) == 1 else vector
        for name, values in self._labels.items():
            for sample, value in zip(samples, values[index], strict=True):
                sample[name] = value
        return samples

    def _read(
        self, m: str, entry: Mapping[str, Any], key: list[str], wanted: Sequence[str]
    ) -> _Table:
        features, columns = [], []
        for path in self._paths(m, entry['path']):
            file = EmbeddingFile(path)
            column = str(entry.get('column', 'embedding'))
            x = file.features(column)
            features.append(_part(m, file, x, column, entry.get('part')))
            try:
                needed = [c for k in key for c in columns_of_key(k, file.names)]
            except ValueError as error:
                raise ValueError(f'{m}: {path}: {error}') from error
            if file.has_geometry and 'geometry' in file.names:
                needed.append('geometry')
            more = [n for n in file.names if n in wanted or n.split('_')[0] == 'label']
            found = file.columns(list(dict.fromkeys([*needed, *more])))
            columns.append(
                found if len(found.columns) else pd.DataFrame(index=range(len(x)))
            )
        widths = sorted({x.shape[1] for x in features})
        if len(widths) > 1:
            raise ValueError(
                f'{m}: expected embeddings of equal length in all files, found lengths '
                f'{widths}; list only files of one model'
            )
        return _Table(
            np.concatenate(features), pd.concat(columns, ignore_index=True), key
        )

    def _paths(self, m: str, value: Any) -> list[Path]:
        paths: list[Path] = []
        for path in [value] if isinstance(value, str | Path) else value:
            full = self.root / path
            found = (
                sorted(map(Path, glob(str(full)))) if has_magic(str(path)) else [full]
            )
            if not found:
                raise FileNotFoundError(
                    f'{m}: no file matches {full}; check the option path'
                )
            paths += found
        return paths

    def _check_finite(self, m: str, x: Floats, rows: NDArray[np.int64]) -> None:
        bad = np.flatnonzero(~np.isfinite(x).all(1))
        if len(bad):
            raise ValueError(
                f'{m}: expected finite numbers, or only NaN for an absent embedding, '
                f'found NaN or infinity in {len(bad)} of {len(x)} rows, such as '
                f'{self.names[rows[bad[0]]]!r}; correct the file'
            )

    def _number(
        self, m: str, rows: NDArray[np.int64], present: NDArray[np.bool_], views: bool
    ) -> tuple[Tensor, NDArray[np.bool_]]:
        """Return row numbers of each sample, (N, T), -1 if absent, and a mask, (N,)."""
        found = np.flatnonzero(present)
        order = found[np.argsort(rows[found], kind='stable')]
        counts = np.bincount(rows[order], minlength=len(self.names))
        most = int(counts.max(initial=1))
        if most > 1 and not views:
            repeated = int(counts.argmax())
            raise ValueError(
                f'{m}: expected one row for each key, found {most} rows for '
                f'{self.names[repeated]!r}; add a column such as date to the option key, '
                'or set `views: true` if the rows are views or dates of one sample'
            )
        starts = np.cumsum(counts) - counts
        place = np.arange(most) % np.maximum(counts, 1)[:, None]
        index = order[np.minimum(starts[:, None] + place, max(len(order) - 1, 0))]
        index[counts == 0] = -1
        return torch.from_numpy(index), counts > 0

    def _complete(
        self, has: Mapping[str, NDArray[np.bool_]], skip: Literal['keep'] | bool
    ) -> list[int]:
        table = np.stack(list(has.values()))
        whole, some = table.all(0), table.any(0)
        counts = {m: int(x.sum()) for m, x in has.items()}
        if not whole.any():
            first = {m: self.names[int(x.argmax())] for m, x in has.items() if x.any()}
            raise ValueError(
                f'expected samples with all modalities, found none (samples: {counts}, '
                f'first keys: {first}); correct the option key or tolerance'
            )
        if skip is False and not whole.all():
            m, missing = next(
                (m, ~x & some) for m, x in has.items() if (~x & some).any()
            )
            raise ValueError(
                f'{m}: expected an embedding for each sample, found none for '
                f'{int(missing.sum())} of {int(some.sum())} samples, such as '
                f'{self.names[int(missing.argmax())]!r}; set `skip_incomplete: true` to '
                'skip these samples, or `skip_incomplete: keep` to use their other '
                f'modalities (samples: {counts})'
            )
        self.left_out = [self.names[i] for i in np.flatnonzero(~whole)]
        if skip != 'keep':
            return [int(i) for i in np.flatnonzero(whole)]
        self.left_out = []
        self.lacking = {
            int(i): frozenset(m for m, x in has.items() if not x[i])
            for i in np.flatnonzero(some & ~whole)
        }
        return [int(i) for i in np.flatnonzero(some)]

    def _find_labels(
        self,
        tables: Mapping[str, _Table],
        rows: Mapping[str, NDArray[np.int64]],
        names: Sequence[str] | None,
    ) -> None:
        known = {
            c: None
            for t in tables.values()
            for c in t.columns
            if c == 'label' or str(c).startswith('label_')
        }
        for name in names if names is not None else known:
            values = self._column(name, tables, rows).loc[list(self.samples)]
            missing = int(values.isna().sum())
            if missing and names is None:
                continue
            if missing:
                raise ValueError(
                    f'labels: expected {name} for each sample, found none for {missing} '
                    f'of {len(values)}; complete the column, or remove it from labels'
                )
            key = name if name.split('_')[0] == 'label' else f'label_{name}'
            found, classes = _to_label(values)
            self._labels[key] = found.new_zeros(len(self.names), *found.shape[1:])
            self._labels[key][list(self.samples)] = found
            if classes:
                self.label_classes[key] = classes

    def _find_places(
        self, tables: Mapping[str, _Table], rows: Mapping[str, NDArray[np.int64]]
    ) -> gpd.GeoDataFrame | None:
        if not any('geometry' in t.columns for t in tables.values()):
            return None
        shapes = self._column('geometry', tables, rows)
        if shapes.loc[list(self.samples)].isna().any():
            return None
        place = gpd.GeoDataFrame(geometry=gpd.GeoSeries(shapes), crs='OGC:CRS84')
        names = [n for n in DATES if any(n in t.columns for t in tables.values())]
        dates = self._column(names[0], tables, rows) if names else pd.NaT
        return place.assign(date=pd.to_datetime(dates, utc=True))

    def _column(
        self,
        name: str,
        tables: Mapping[str, _Table],
        rows: Mapping[str, NDArray[np.int64]],
    ) -> 'pd.Series[Any]':
        """Return the value of a column for each sample, from the first entry with one."""
        parts = [
            pd.Series(t.columns[name].to_numpy(object), index=rows[m])
            for m, t in tables.items()
            if name in t.columns
        ]
        if not parts:
            found = {m: [*t.columns] for m, t in tables.items()}
            raise ValueError(
                f'expected column {name!r} in at least one file, found {found}; correct '
                'the option labels or group'
            )
        joined = pd.concat(parts).dropna()
        first = joined[~joined.index.duplicated()]
        return first.reindex(range(len(self.names)))


def check_entries(embeddings: Mapping[str, Mapping[str, Any]]) -> None:
    """Check the entries of the modalities before files are read.

    Args:
        embeddings: entry of each modality, by name.

    Raises:
        ValueError: if there is no entry, an entry has no ``path``, or its keys are not
            valid.
    """
    if not embeddings:
        raise ValueError('embeddings must have at least one modality, got none')
    for m, entry in embeddings.items():
        if not isinstance(entry, Mapping) or not entry.get('path'):
            raise ValueError(
                f'{m}: the entry must be a mapping with the key path, got {entry!r}'
            )
        check_keys(m, entry, _KEYS)


def _as_list(key: str | Sequence[str]) -> list[str]:
    found = [key] if isinstance(key, str) else list(key)
    if not found:
        raise ValueError('key must have at least one column, got none')
    return found


def _part(
    m: str, file: EmbeddingFile, x: Floats, column: str, part: str | None
) -> Floats:
    """Return the embeddings of one modality in a file."""
    spans = file.spans if column == 'embedding' else {}
    chosen = part or (m if m in spans else None)
    if chosen is None and len(spans) <= 1:
        return x
    if chosen not in spans:
        raise ValueError(
            f'{m}: part must be one of the modalities {list(spans)} in {file.path}, got '
            f'{part!r}'
        )
    start, stop = spans[chosen]
    return np.ascontiguousarray(x[:, start:stop])


def _to_label(values: 'pd.Series[Any]') -> tuple[Tensor, tuple[str, ...]]:
    """Convert a label column to a tensor, and return its class names if it is text."""
    if isinstance(values.iloc[0], list | np.ndarray):
        return torch.from_numpy(np.stack(values.tolist())).long(), ()
    if isinstance(values.iloc[0], str):
        classes = tuple(sorted(set(values)))
        number = {c: i for i, c in enumerate(classes)}
        return torch.tensor([number[v] for v in values]), classes
    numbers = values.to_numpy(np.float64)
    whole = torch.from_numpy(numbers)
    return (whole.long() if (numbers % 1 == 0).all() else whole.float()), ()
