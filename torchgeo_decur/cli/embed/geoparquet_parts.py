"""Write GeoParquet in parts so that an interrupted run can resume."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from torch import Tensor

from ...datasets.embeddings.files import KEY
from ...files import atomic_write
from ...resumable_parts import cut_into_parts, resume_run

# Types of label columns. They are fixed because a part may have no labels.
_LABELS = {'string': pa.string(), 'Int64': pa.int64(), 'float64': pa.float64()}
# Rows per part. Each part becomes a row group of the file.
ROWS = 1024


class GeoParquetParts:
    """Parts of an unfinished file, in the folder ``<file>.parts``.

    Args:
        out: path of the finished file.
        places: table with one row per embedding. It has a geometry in any CRS, or else a
            column ``sample`` with sample names, and optionally ``date`` and ``label*``.
        about: JSON values for the file metadata. Only a run with the same values can
            resume.
        rows: rows per part in a new run.

    Raises:
        ValueError: if the folder contains parts of another run.
    """

    def __init__(
        self,
        out: Path,
        places: pd.DataFrame,
        about: Mapping[str, Any],
        rows: int = ROWS,
    ) -> None:
        """Initialize a new GeoParquetParts instance."""
        self.out, self.about = out, json.loads(json.dumps(dict(about)))
        self.folder = out.with_name(f'{out.name}.parts')
        self.places = places
        if isinstance(places, gpd.GeoDataFrame):
            # TorchGeo expects the default CRS of GeoParquet.
            places = places.to_crs('OGC:CRS84')
            self.places = places.set_geometry(_cut_at_180(places.geometry))
        rows = resume_run(self.folder / 'run.json', self.about, rows, 'rows')
        self.spans = cut_into_parts(len(places), rows)

    def path(self, part: int) -> Path:
        """Return the path of a part."""
        return self.folder / f'part-{part:05d}.parquet'

    def todo(self) -> list[int]:
        """Return the numbers of the missing parts."""
        return [i for i in range(len(self.spans)) if not self.path(i).exists()]

    def write(
        self,
        part: int,
        columns: Mapping[str, Tensor],
        absent: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write a part atomically.

        Args:
            part: number of the part.
            columns: features of shape (N, D), or Booleans of shape (N,), by column name.
            absent: masks of shape (N, D) by column name. They mark features of absent
                modalities, which may be NaN.

        Raises:
            ValueError: if any other feature is NaN or infinite; the message names the
                row.
        """
        span = self.spans[part]
        for name, x in columns.items():
            wrong = ~x.isfinite()
            if absent and name in absent:
                wrong &= ~absent[name]
            bad = wrong.reshape(len(x), -1).any(1).nonzero().flatten().tolist()
            if bad:
                raise ValueError(self._not_finite(name, span[bad[0]]))
        places = self.places.iloc[span.start : span.stop]
        if isinstance(places, gpd.GeoDataFrame):
            shapes = places.geometry.to_numpy()
            arrays = {'geometry': pa.array(shapely.to_wkb(shapes))}
        else:
            arrays = {'sample': pa.array(places['sample'], pa.string())}
        if 'view' in places:
            arrays['view'] = pa.array(places['view'], pa.int64())
        if 'date' in places:
            dates = pa.timestamp('ms', tz='UTC')
            arrays['date'] = pa.Array.from_pandas(places['date'], type=dates)
        arrays |= {
            name: pa.Array.from_pandas(places[name], type=_LABELS[str(dtype)])
            for name, dtype in places.dtypes.items()
            if name.startswith('label')
        }
        arrays |= {
            name: _lists(x) if x.ndim == 2 else pa.array(x.numpy())
            for name, x in columns.items()
            # Labels of a table may be null, and those of a batch may not.
            if name not in arrays
        }
        table = pa.table(arrays)
        atomic_write(
            self.path(part), lambda file: pq.write_table(table, file, **_OPTIONS)
        )

    def finish(self) -> Path:
        """Merge the parts into the final file and delete them."""
        files = [self.path(i) for i in range(len(self.spans))]
        schema = pq.read_schema(files[0])
        text = {KEY: json.dumps(self.about)}
        if isinstance(self.places, gpd.GeoDataFrame):
            text = {b'geo': json.dumps(_metadata(self.places)), **text}
        schema = schema.with_metadata({k: v.encode() for k, v in text.items()})

        def write(path: Path) -> None:
            with pq.ParquetWriter(path, schema, **_OPTIONS) as writer:
                for file in files:
                    writer.write_table(pq.ParquetFile(file).read().cast(schema))

        atomic_write(self.out, write)
        shutil.rmtree(self.folder)
        return self.out

    def _not_finite(self, name: str, row: int) -> str:
        if isinstance(self.places, gpd.GeoDataFrame):
            west, south, east, north = self.places.geometry.iloc[row].bounds
            place = (
                f'window {row} (longitude {west:.4f} to {east:.4f}, latitude {south:.4f} '
                f'to {north:.4f})'
            )
        else:
            place = f'sample {self.places["sample"].iloc[row]}'
        return (
            f'expected finite features, found NaN or infinity in {name} of {place}; set '
            'the option nodata if the images contain such values, or use a checkpoint '
            'from before the fit diverged'
        )


def read_about(file: Path) -> bytes | None:
    """Return the metadata of a run in a Parquet file, or None if it has none."""
    return (pq.read_schema(file).metadata or {}).get(KEY)


_OPTIONS: dict[str, Any] = {'compression': 'zstd', 'use_dictionary': False}


def _metadata(places: gpd.GeoDataFrame) -> dict[str, Any]:
    """Return the GeoParquet metadata of a table."""
    column = {
        'encoding': 'WKB',
        'geometry_types': sorted(places.geom_type.unique()),
        'bbox': [float(v) for v in places.total_bounds],
    }
    return {
        'version': '1.1.0',
        'primary_column': 'geometry',
        'columns': {'geometry': column},
    }


def _cut_at_180(shapes: gpd.GeoSeries) -> gpd.GeoSeries:
    """Cut polygons at the antimeridian, as GeoParquet requires.

    Polygons wider than 180 degrees are assumed to cross the antimeridian.
    """
    bounds = shapes.bounds
    crossing = bounds['maxx'] - bounds['minx'] > 180
    if not crossing.any():
        return shapes

    def shifted(points: np.ndarray) -> np.ndarray:
        return np.column_stack([points[:, 0] % 360, points[:, 1]])

    def back(points: np.ndarray) -> np.ndarray:
        return points - (360, 0)

    whole = shapely.transform(shapes[crossing].to_numpy(), shifted)
    west = shapely.intersection(whole, shapely.box(0, -90, 180, 90))
    east = shapely.intersection(whole, shapely.box(180, -90, 360, 90))
    cut = shapes.copy()
    cut[crossing] = shapely.union(west, shapely.transform(east, back))
    return cut


def _lists(x: Tensor) -> pa.Array:
    rows, length = x.shape
    offsets = np.arange(0, (rows + 1) * length, length, dtype=np.int32)
    values = x.float().cpu().contiguous().flatten().numpy()
    return pa.ListArray.from_arrays(offsets, values)
