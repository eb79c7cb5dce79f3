"""Read scene labels (classes, multiple labels or numbers) from a CSV or GeoJSON table."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

Kind = Literal['class', 'multilabel', 'number']
_KINDS: tuple[Kind, ...] = ('class', 'multilabel', 'number')
_KEYS = ('path', 'key', 'label', 'kind', 'classes', 'separator', 'split')
_DELIMITERS = ',;\t|'
# File suffix. A date or a number after a dot is not a suffix.
_SUFFIX = re.compile(r'\.[A-Za-z][A-Za-z0-9]{1,5}$')
# Cell values that mean an unknown number.
_UNKNOWN = {'', 'na', 'n/a', 'nan', 'none', 'null'}
_TRUE, _FALSE = {'1', '1.0', 'true', 'yes'}, {'0', '0.0', 'false', 'no'}


@dataclass(frozen=True)
class SceneLabels:
    """Labels and splits of scenes by table key.

    Args:
        path: path of the table.
        labels: label of each key, or None if the table has only splits. A class index has
            dtype int64 and shape (). A multi-label target has dtype int64 and shape (K,).
            Numbers have dtype float32 and shape () or (K,), and are NaN where unknown.
        classes: class names by index, or column names of the numbers.
        splits: split of each key, if the table has a split column.
        keys: all keys of the table, in order, including rows without a label.
    """

    path: Path
    labels: Mapping[str, Tensor] | None
    classes: tuple[str, ...]
    splits: Mapping[str, str]
    keys: tuple[str, ...]

    @classmethod
    def read(cls, root: str | Path, entry: Mapping[str, Any]) -> 'SceneLabels':
        """Read the label table of an entry.

        Args:
            root: base folder of ``path``.
            entry: ``path``, ``key`` and ``label``, and optionally ``kind``, ``classes``,
                ``separator`` and ``split``. See
                :class:`~torchgeo_decur.datasets.PairedFolders`.

        Returns:
            The labels and splits of the table.

        Raises:
            ValueError: if the entry or a label is invalid, a column is missing, or a key
                occurs twice.
        """
        columns, several, kind = _check_entry(entry)
        path = Path(root, entry['path'])
        table, decimal_comma = read_table(path)
        split = entry.get('split')
        wanted = [str(entry['key']), *columns, *([split] if split else [])]
        if missing := [name for name in wanted if name not in table]:
            raise ValueError(
                f'{path}: expected the columns {wanted}, but {missing} are missing from '
                f'{list(table)}; correct the option key, label or split in the entry labels'
            )
        keys = [normalize_key(key) for key in table[wanted[0]]]
        for i, key in enumerate(keys):
            if not key:
                raise ValueError(
                    f'{path}: expected a key in each row, found none in row {i + 1} of '
                    f'column {wanted[0]!r}; add the key, or delete the row'
                )
        _check_once(path, table[wanted[0]], keys)
        splits = dict(zip(keys, table[split], strict=True)) if split else {}
        if not columns:
            return cls(path, None, (), splits, tuple(keys))
        rows = list(zip(*(table[c] for c in columns), strict=True))
        parser = _Parser(path, entry, columns, several, decimal_comma)
        labels, classes = getattr(parser, f'parse_{kind}')(keys, rows)
        return cls(path, labels, classes, splits, tuple(keys))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, or () if the table has numbers or no labels."""
        first = next(iter((self.labels or {}).values()), None)
        numbers = first is None or first.is_floating_point()
        return () if numbers else self.classes

    def select[S](
        self, scenes: Mapping[S, Sequence[str]], splits: Sequence[str] = ()
    ) -> 'Selection[S]':
        """Select labeled scenes, optionally by split.

        Args:
            scenes: possible keys of each scene.
            splits: splits to select, if the table has a split column.

        Returns:
            Selected scenes, their labels, and a report on omitted scenes and rows.

        Raises:
            ValueError: if no scene has a row, a split is unknown, or no selected scene
                has a label.
        """
        keys = match_names(self.keys, scenes)
        if not keys:
            names = sorted(n for some in scenes.values() for n in some[-1:])
            raise ValueError(
                f'{self.path}: expected keys that match the file names, such as '
                f'{names[:3]}, found {list(self.keys[:3])} and no match; correct the option '
                'key in the entry labels, or the pattern of the images'
            )
        chosen = list(keys)
        if self.splits:
            present = sorted(set(self.splits.values()))
            if not splits or not set(splits) <= set(present):
                raise ValueError(
                    f'{self.path}: expected splits among {present}, the values of the '
                    f'split column, found {list(splits) or "none"}; set the options train, '
                    'val and test'
                )
            chosen = [s for s in chosen if self.splits[keys[s]] in splits]
        found = self.labels
        labelled = [s for s in chosen if found is None or keys[s] in found]
        if not labelled:
            raise ValueError(
                f'{self.path}: expected scenes with a label, found none among '
                f'{len(chosen)} scenes with a row; fill in the label column or '
                'choose other splits'
            )
        without = [some[-1] for scene, some in scenes.items() if scene not in keys]
        used, kept = set(keys.values()), set(labelled)
        left = {
            'images without a row': without,
            'rows without an image': [k for k in self.keys if k not in used],
            'rows without a label': [keys[s] for s in chosen if s not in kept],
        }
        if any(len(some) > 1 for some in scenes.values()):
            # Rows without an image may belong to folders of other splits.
            left.pop('rows without an image')
        parts = [f'{len(n)} {what}, such as {n[0]!r}' for what, n in left.items() if n]
        ending = f'; omitted: {"; ".join(parts)}' if parts else ''
        labels = {} if found is None else {s: found[keys[s]] for s in labelled}
        if absent := self._absent(labels.values()):
            ending += f'; no image has the classes {absent}'
        report = f'{self.path.name}: {len(labelled)} labeled images{ending}'
        return Selection(labelled, labels, report)

    def columns[S](self, scenes: Mapping[S, Sequence[str]]) -> pd.DataFrame:
        """Return the labels of scenes as table columns.

        Args:
            scenes: possible keys of each scene.

        Returns:
            Table with one row per scene. The column ``label`` has the class name, or one
            column ``label_<name>`` exists per number or class. Unknown labels are null.
        """
        keys = match_names(self.keys, scenes)
        known = self.labels or {}
        labels = [known.get(keys.get(scene, '')) for scene in scenes]
        first = next((y for y in labels if y is not None), None)
        if first is None:
            return pd.DataFrame(index=range(len(labels)))
        if self.class_names and not first.ndim:
            names = [None if y is None else self.classes[int(y)] for y in labels]
            return pd.DataFrame({'label': pd.Series(names, dtype='string')})
        blank = [None] * len(self.classes)
        rows = [blank if y is None else y.reshape(-1).tolist() for y in labels]
        return pd.DataFrame(
            rows,
            columns=[f'label_{name}' for name in self.classes],
            dtype='Int64' if self.class_names else 'float64',
        )

    def _absent(self, labels: Iterable[Tensor]) -> list[str]:
        """Return the classes that do not occur in any label."""
        present = {
            index
            for label in labels
            for index in (
                label.nonzero()[:, 0].tolist() if label.ndim else [int(label)]
            )
        }
        return [c for i, c in enumerate(self.class_names) if i not in present]


@dataclass(frozen=True)
class Selection[S]:
    """Selected scenes of a label table.

    Args:
        kept: selected scenes, in order.
        labels: label of each scene, or an empty dictionary if the table has no labels.
        report: text with the numbers of selected scenes, omitted images and omitted rows.
    """

    kept: list[S]
    labels: dict[S, Tensor]
    report: str


def match_names[S](
    keys: Iterable[str], scenes: Mapping[S, Sequence[str]]
) -> dict[S, str]:
    """Match table keys with or without a file suffix to scenes.

    Args:
        keys: table keys.
        scenes: possible keys of each scene.

    Returns:
        Matching key of each scene. Scenes without a match are omitted.

    Example:
        >>> match_names(['a.tif', 'b'], {1: ['a'], 2: ['train/b', 'b'], 3: ['c']})
        {1: 'a.tif', 2: 'b'}
    """
    exact = set(keys)
    # Keys with the same stem, such as a.tif and a.png, are ambiguous, so neither matches.
    stems: dict[str, list[str]] = {}
    for key in sorted(exact):
        stems.setdefault(strip_suffix(key), []).append(key)
    found = {}
    for scene, names in scenes.items():
        for name in names:
            stem = stems.get(name, [])
            if name in exact or len(stem) == 1:
                found[scene] = name if name in exact else stem[0]
                break
    return found


def read_table(path: str | Path) -> tuple[dict[str, list[str]], bool]:
    """Read the columns of a CSV or GeoJSON file as text.

    The columns of a CSV file may be separated by commas, semicolons, tabs or vertical bars.
    The file may start with a byte order mark.

    Args:
        path: path of the file.

    Returns:
        Cells of each column, and True if numbers may have decimal commas.

    Raises:
        ValueError: if the file does not exist or is not a table.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f'{path}: expected a label table, found no file; correct the option path in the '
            'entry labels'
        )
    try:
        if path.suffix.lower() in ('.geojson', '.json'):
            return _read_geojson(path), False
        with path.open(encoding='utf-8-sig') as file:
            header = file.readline()
        delimiter = max(_DELIMITERS, key=header.count)
        frame = pd.read_csv(
            path,
            sep=delimiter,
            dtype=str,
            keep_default_na=False,
            encoding='utf-8-sig',
            index_col=False,
            skipinitialspace=True,
        )
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as e:
        raise ValueError(
            f'{path}: expected a UTF-8 table with the same columns in each row, found an '
            f'error: {e}; save the table as CSV again'
        ) from e
    frame.columns = frame.columns.str.strip()
    table = {str(c): [str(v).strip() for v in frame[c]] for c in frame.columns}
    return table, delimiter != ','


def read_keys(path: str | Path) -> list[str]:
    """Read a list of keys from a text file with one key per line.

    Args:
        path: path of the file. Empty lines are ignored.

    Returns:
        The keys, in order.

    Raises:
        ValueError: if the file does not exist, has no keys, or has a key twice.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f'{path}: expected a list of ids, one per line, found no file; correct the '
            'option split_files'
        )
    lines = [line.strip() for line in path.read_text('utf-8-sig').splitlines()]
    given = [line for line in lines if line]
    keys = [normalize_key(line) for line in given]
    if not keys:
        raise ValueError(
            f'{path}: expected one id per line, found an empty file; add ids'
        )
    _check_once(path, given, keys)
    return keys


def normalize_key(key: str) -> str:
    """Convert a key to a path with forward slashes and without a leading ``./``.

    Example:
        >>> normalize_key('./plots/12.tif')
        'plots/12.tif'
    """
    text = key.strip().replace('\\', '/')
    return text.removeprefix('./')


def strip_suffix(key: str) -> str:
    """Remove a file suffix from a key.

    Example:
        >>> strip_suffix('plots/12.tif'), strip_suffix('scene.2019')
        ('plots/12', 'scene.2019')
    """
    return _SUFFIX.sub('', key)


class _Parser:
    """Parser for the label columns of a table."""

    def __init__(
        self,
        path: Path,
        entry: Mapping[str, Any],
        columns: Sequence[str],
        several: bool,
        decimal_comma: bool,
    ) -> None:
        self.path, self.columns, self.several = path, columns, several
        self.given: list[str] = [str(c) for c in entry.get('classes') or []]
        self.separator = entry.get('separator')
        self.decimal_comma = decimal_comma

    def parse_class(
        self, keys: Sequence[str], rows: Sequence[tuple[str, ...]]
    ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Parse one class per row. An empty cell means no label."""
        classes = self._classes(row[0] for row in rows if row[0])
        labels = {
            key: torch.tensor(self._number_of(row[0], key, classes))
            for key, row in zip(keys, rows, strict=True)
            if row[0]
        }
        return labels, classes

    def parse_multilabel(
        self, keys: Sequence[str], rows: Sequence[tuple[str, ...]]
    ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Parse multiple labels per row, given as names in one cell or as columns."""
        if self.several:
            if self.given and self.given != list(self.columns):
                raise ValueError(
                    f'{self.path}: classes must not be set, because the columns '
                    f'{list(self.columns)} define them, got {self.given}; remove the option '
                    'classes'
                )
            found = {
                key: torch.tensor([self._flag(v, key, c) for v, c in self._cells(row)])
                for key, row in zip(keys, rows, strict=True)
            }
            return found, tuple(self.columns)
        separator = self.separator or ';'
        names = [[n.strip() for n in row[0].split(separator)] for row in rows]
        names = [[n for n in some if n] for some in names]
        classes = self._classes(n for some in names for n in some)
        labels = {}
        for key, some in zip(keys, names, strict=True):
            label = torch.zeros(len(classes), dtype=torch.long)
            label[[self._number_of(name, key, classes) for name in some]] = 1
            labels[key] = label
        return labels, classes

    def parse_number(
        self, keys: Sequence[str], rows: Sequence[tuple[str, ...]]
    ) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Parse numbers. A row whose cells are all unknown has no label."""
        labels = {}
        for key, row in zip(keys, rows, strict=True):
            values = [self._number(v, key, c) for v, c in self._cells(row)]
            if not all(map(math.isnan, values)):
                label = torch.tensor(values, dtype=torch.float32)
                labels[key] = label if self.several else label[0]
        return labels, tuple(self.columns)

    def _cells(self, row: tuple[str, ...]) -> Iterable[tuple[str, str]]:
        return zip(row, self.columns, strict=True)

    def _classes(self, found: Iterable[str]) -> tuple[str, ...]:
        if self.given:
            return tuple(self.given)
        names = set(found)
        if all(name.lstrip('-').isdigit() for name in names):
            return tuple(sorted(names, key=int))
        return tuple(sorted(names))

    def _number_of(self, name: str, key: str, classes: tuple[str, ...]) -> int:
        if name not in classes:
            raise ValueError(
                f'{self.path}: expected one of the classes {list(classes)}, found '
                f'{name!r} in row {key!r}; correct the row, or add this class to the option '
                'classes'
            )
        return classes.index(name)

    def _flag(self, text: str, key: str, column: str) -> int:
        lower = text.lower()
        if lower not in _TRUE | _FALSE:
            raise ValueError(
                f'{self.path}: expected 0 or 1 in column {column!r}, found {text!r} in '
                f'row {key!r}; correct the cell, or delete the row if the label is unknown'
            )
        return int(lower in _TRUE)

    def _number(self, text: str, key: str, column: str) -> float:
        if text.lower() in _UNKNOWN:
            return math.nan
        plain = text.replace(',', '.') if self.decimal_comma else text
        try:
            value = float(plain)
        except ValueError:
            value = math.inf
        if not math.isfinite(value):
            raise ValueError(
                f'{self.path}: expected a number in column {column!r}, found {text!r} in '
                f'row {key!r}; correct the cell, or empty it if the number is unknown'
            )
        return value


def _check_entry(entry: Mapping[str, Any]) -> tuple[list[str], bool, Kind]:
    """Check a label entry and return its columns, whether it lists them, and its kind."""
    if not isinstance(entry, Mapping) or _unknown_keys(entry):
        raise ValueError(
            f'labels must be a mapping with keys among {list(_KEYS)}, got {entry!r}'
        )
    for name in ('path', 'key'):
        if not entry.get(name):
            raise ValueError(
                f'labels must have {name} '
                f'({"the path of the table" if name == "path" else "the id column"}), got '
                f'{dict(entry)}'
            )
    kind = entry.get('kind') or 'class'
    if kind not in _KINDS:
        raise ValueError(f'kind of labels must be one of {list(_KINDS)}, got {kind!r}')
    label: Any = entry.get('label')
    several = isinstance(label, Sequence) and not isinstance(label, str)
    columns = [str(c) for c in (label if several else [label] if label else [])]
    if not columns and not entry.get('split'):
        raise ValueError(
            'labels must have label (the label column) or split (the split column), got '
            f'{dict(entry)}'
        )
    if several and kind == 'class':
        raise ValueError(
            f"label must be a single column if kind is 'class', got {columns}; set the "
            "option kind to 'multilabel' or 'number'"
        )
    if entry.get('separator') and (kind != 'multilabel' or several):
        raise ValueError(
            'separator must not be set unless kind is multilabel and label is a single '
            f'column, got {entry["separator"]!r}; remove the option separator'
        )
    if entry.get('classes') and kind == 'number':
        raise ValueError(
            f"classes must not be set if kind is 'number', got {entry['classes']}; remove "
            'the option classes'
        )
    return columns, several, kind


def _unknown_keys(entry: Mapping[str, Any]) -> list[str]:
    """Return the unknown keys of a label entry."""
    return sorted(set(entry) - set(_KEYS))


def _check_once(path: Path, given: Sequence[str], keys: Sequence[str]) -> None:
    """Check that no normalized key occurs twice."""
    first: dict[str, str] = {}
    for text, key in zip(given, keys, strict=True):
        if key in first:
            raise ValueError(
                f'{path}: expected each key only once, found {text!r} again; delete one '
                'of the rows'
            )
        first[key] = text


def _read_geojson(path: Path) -> dict[str, list[str]]:
    """Read the feature properties of a GeoJSON file as text columns."""
    try:
        features = json.loads(path.read_text('utf-8-sig'))['features']
        rows = [dict(feature.get('properties') or {}) for feature in features]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path}: expected a GeoJSON FeatureCollection, found an error: '
            f'{type(error).__name__}: {error}; export the labels as GeoJSON or CSV'
        ) from error
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [_text(row.get(name)) for row in rows] for name in columns}


def _text(value: Any) -> str:
    if value is None:
        return ''
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list):
        return ';'.join(map(str, value))
    return str(value).strip()
