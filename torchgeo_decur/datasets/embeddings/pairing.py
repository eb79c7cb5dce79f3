"""Pair the rows of several tables by name, date or place."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from sklearn.neighbors import BallTree

#: Names of key columns that are computed, not read.
PLACE, DATE, ROW = 'place', 'date', 'row'
#: Names of date columns, as in the tables of TorchGeo.
DATES = ('date', 'datetime', 'timestamp')
# Longitude and latitude in tables without geometry, as in Major TOM.
_POINTS = (('centre_lon', 'centre_lat'), ('lon', 'lat'), ('longitude', 'latitude'))
_EARTH = 6_371_000.0


def columns_of_key(key: str, names: Sequence[str]) -> list[str]:
    """Return the table columns that a key column is computed from.

    Args:
        key: name of a table column, or ``place``, ``date`` or ``row``.
        names: names of the table columns.

    Raises:
        ValueError: if the table lacks the required columns.
    """
    if key == ROW:
        return []
    options = [[key]]
    if key == PLACE:
        options = [['geometry'], *map(list, _POINTS)]
    elif key == DATE:
        options = [[name] for name in DATES]
    for option in options:
        if set(option) <= set(names):
            return option
    wanted = ' or '.join(' and '.join(option) for option in options)
    raise ValueError(
        f'expected {wanted} for the key {key!r}, found columns {list(names)}; set the '
        f'option key to some of these columns, or to {ROW} to pair rows by their number'
    )


def pair_rows(
    tables: Mapping[str, pd.DataFrame],
    keys: Mapping[str, Sequence[str]],
    tolerance: float,
) -> tuple[list[str], dict[str, NDArray[np.int64]]]:
    """Pair the rows of several tables that have the same key.

    Args:
        tables: tables by name, with the columns from :func:`columns_of_key`. Geometries
            are in longitude and latitude.
        keys: key columns by table, the same number for all tables.
        tolerance: maximum distance in meters between the places of a sample. Each row gets
            the nearest place of earlier tables within this distance.

    Returns:
        Name of each sample, and sample number of each row, by table.

    Raises:
        ValueError: if a key column is the place for only some tables.
    """
    count = len(next(iter(keys.values())))
    parts: dict[str, list[pd.Series]] = {m: [] for m in tables}
    for i in range(count):
        names = {m: keys[m][i] for m in tables}
        by_place = {name == PLACE for name in names.values()}
        if len(by_place) > 1:
            raise ValueError(
                f'key must be {PLACE} for all modalities or for none, got {names}'
            )
        found = (
            _match_places(tables, tolerance)
            if by_place.pop()
            else {m: _text(table, names[m]) for m, table in tables.items()}
        )
        for m, part in found.items():
            parts[m].append(pd.Series(part, dtype=object))
    joined = {m: p[0].str.cat(p[1:], sep=' ') for m, p in parts.items()}
    codes, unique = pd.factorize(pd.concat(list(joined.values()), ignore_index=True))
    ends = np.cumsum([len(names) for names in joined.values()])[:-1]
    rows = np.split(np.asarray(codes, np.int64), ends)
    return [str(name) for name in unique], dict(zip(joined, rows, strict=True))


def _text(table: pd.DataFrame, key: str) -> NDArray[Any]:
    """Return a key column of each row as text."""
    if key == ROW:
        return np.arange(len(table)).astype(str)
    (column,) = columns_of_key(key, list(table))
    if key != DATE:
        return np.asarray(table[column].astype(str), object)
    days = pd.to_datetime(table[column], utc=True).dt.strftime('%Y-%m-%d')
    return np.asarray(days.fillna(''), object)


def _match_places(
    tables: Mapping[str, pd.DataFrame], tolerance: float
) -> dict[str, NDArray[Any]]:
    """Name the place of each row, with one name for places within the tolerance."""
    names = np.empty(0, object)
    known = np.empty((0, 2))
    found = {}
    for m, table in tables.items():
        points = _points(table)
        number = np.full(len(points), -1)
        if len(known):
            distance, nearest = BallTree(known, metric='haversine').query(points)
            number = np.where(distance * _EARTH <= tolerance, nearest, -1)[:, 0]
        # Rows of one table with equal coordinates, such as dates, have one place.
        new, inverse = np.unique(points[number < 0], axis=0, return_inverse=True)
        number[number < 0] = len(known) + inverse.ravel()
        known = np.concatenate([known, new])
        named = [f'{lon:.6f},{lat:.6f}' for lat, lon in np.degrees(new)]
        names = np.concatenate([names, np.array(named, object)])
        found[m] = names[number]
    return found


def _points(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the latitude and longitude of each row in radians, shape (N, 2)."""
    columns = columns_of_key(PLACE, list(table))
    if len(columns) == 2:
        lon, lat = (table[c].to_numpy(np.float64) for c in columns)
    else:
        centres = shapely.centroid(table[columns[0]].to_numpy())
        lon, lat = shapely.get_x(centres), shapely.get_y(centres)
    return np.asarray(np.radians(np.stack([lat, lon], 1)))
