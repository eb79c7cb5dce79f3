"""Pair embedding files by name, date and place."""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from torchgeo.datasets import ClayEmbeddings, EarthEmbeddings

from torchgeo_decur.datasets import PairedEmbeddings

NAMES = ['a', 'b', 'c', 'd']


def vectors(width: int, offset: float = 0.0, rows: int = 4) -> np.ndarray:
    """Return embeddings whose first value is the row number plus an offset."""
    x = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    x[:, 0] = np.arange(rows) + offset
    return x


def write(path: Path, x: np.ndarray, **columns: Any) -> None:
    """Write Parquet, or GeoParquet if there is a geometry."""
    table = pd.DataFrame({**columns, 'embedding': list(x)})
    if 'geometry' in columns:
        gpd.GeoDataFrame(table, crs='EPSG:4326').to_parquet(path)
    else:
        table.to_parquet(path)


def firsts(dataset: PairedEmbeddings, modality: str) -> list[float]:
    """Return the first value of each embedding."""
    return [
        float(dataset[i][f'image_{modality}'].flatten()[0]) for i in range(len(dataset))
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with four samples in two files, in different orders."""
    write(tmp_path / 'a.parquet', vectors(6), sample=NAMES, label=['x', 'y', 'x', 'x'])
    order = [2, 0, 3, 1]
    names = np.array(NAMES)[order]
    np.savez(tmp_path / 'b.npz', vector=vectors(5, 10)[order], id=names)
    return tmp_path


ENTRIES: dict[str, dict[str, Any]] = {
    'a': {'path': 'a.parquet'},
    'b': {'path': 'b.npz', 'column': 'vector', 'key': 'id'},
}


def test_rows_are_paired_by_name(root: Path) -> None:
    dataset = PairedEmbeddings(root, ENTRIES)
    assert dataset.sample_names() == NAMES
    assert firsts(dataset, 'a') == [0, 1, 2, 3] and firsts(dataset, 'b') == [
        10,
        11,
        12,
        13,
    ]
    sample = dataset[1]
    assert (
        sample['image_b'].shape == (5, 1, 1)
        and sample['image_b'].dtype == torch.float32
    )
    assert not any(str(key).startswith('available') for key in sample)
    assert dataset.classes == ('x', 'y') and dataset.labels().tolist() == [0, 1, 0, 0]
    assert dataset.label_columns()['label'].tolist() == ['x', 'y', 'x', 'x']
    batch = dataset.subset([3, 1]).__getitems__([0, 1])
    assert [float(s['image_a'].flatten()[0]) for s in batch] == [3, 1]
    assert [int(s['label']) for s in batch] == [0, 1]
    assert len(dataset.plot(sample).axes) == 2


def test_samples_may_lack_a_modality(root: Path) -> None:
    x = vectors(6)
    x[1] = np.nan
    write(root / 'a.parquet', x[:3], sample=NAMES[:3], label=[1, 2, 3])
    with pytest.raises(
        ValueError, match=r"a: .* found none for 2 of 4 samples, such as 'b'"
    ):
        PairedEmbeddings(root, ENTRIES)
    some = PairedEmbeddings(root, ENTRIES, skip_incomplete=True)
    assert some.sample_names() == ['a', 'c'] and some.left_out == ['b', 'd']
    assert some.labels().tolist() == [1, 3] and 'available_a' not in some[0]
    kept = PairedEmbeddings(root, ENTRIES, skip_incomplete='keep')
    assert kept.availability['a'].tolist() == [True, False, True, False]
    for sample in (kept[1], kept.__getitems__([1])[0]):
        assert not sample['available_a'] and sample['available_b']
        assert sample['image_a'].shape == (6, 1, 1) and not sample['image_a'].any()
    # The fourth sample has no label.
    assert not kept.label_names
    with pytest.raises(
        ValueError, match=r'labels: expected label .* found none for 1 of 4'
    ):
        PairedEmbeddings(root, ENTRIES, skip_incomplete='keep', labels=['label'])


def test_rows_of_one_key_are_views(tmp_path: Path) -> None:
    names = ['p', 'q', 'p', 'q', 'p']
    write(
        tmp_path / 'a.parquet', vectors(3, rows=5), sample=names, tile=[1, 2, 1, 2, 1]
    )
    write(tmp_path / 'b.parquet', vectors(2, rows=2), sample=['p', 'q'])
    entries = {m: {'path': f'{m}.parquet'} for m in 'ab'}
    with pytest.raises(
        ValueError, match="a: expected one row for each key, found 3 rows for 'p'"
    ):
        PairedEmbeddings(tmp_path, entries)
    dataset = PairedEmbeddings(tmp_path, entries, views=True, group='tile')
    assert dataset[0]['image_a'][:, 0].flatten().tolist() == [0, 2, 4]
    # The second sample has two rows and repeats the first.
    assert dataset[1]['image_a'][:, 0].flatten().tolist() == [1, 3, 1]
    assert dataset[0]['image_b'].shape == (2, 1, 1)
    assert dataset.groups == ['1', '2']
    assert dataset.subset([1]).vectors('a')[:, 0].tolist() == [1, 3]


def test_rows_are_paired_by_place_and_date(tmp_path: Path) -> None:
    lon, lat = np.array([10.0, 10.01, 10.02]), np.array([50.0, 50.0, 50.0])
    days = pd.to_datetime(['2020-05-01', '2020-05-01', '2020-06-01'], utc=True)
    # Windows as from `embed` or Clay, and centers as in Major TOM, less than 1 m away.
    boxes = shapely.box(lon - 0.001, lat - 0.001, lon + 0.001, lat + 0.001)
    files = tmp_path / 'clay.parquet', tmp_path / 'tom.parquet'
    write(files[0], vectors(4, rows=3), geometry=boxes, date=days)
    later = days + pd.Timedelta(hours=3)
    table = {
        'centre_lon': lon[::-1] + 1e-6,
        'centre_lat': lat,
        'timestamp': later[::-1],
    }
    write(files[1], vectors(3, 10, rows=3), **table)
    entries = {m: {'path': f'{m}.parquet'} for m in ('clay', 'tom')}
    dataset = PairedEmbeddings(tmp_path, entries, ['place', 'date'])
    assert firsts(dataset, 'clay') == [0, 1, 2] and firsts(dataset, 'tom') == [
        12,
        11,
        10,
    ]
    assert dataset.sample_names()[0] == '10.000000,50.000000 2020-05-01'
    # TorchGeo reads the same numbers in the same files.
    clay, tom = ClayEmbeddings(files[0])[1], EarthEmbeddings(files[1])[1]
    assert torch.equal(clay['embedding'], dataset[1]['image_clay'].flatten())
    assert torch.equal(tom['embedding'], dataset[1]['image_tom'].flatten())
    places = dataset.subset([1, 2]).places()
    assert places.geometry.geom_equals(gpd.GeoSeries(boxes[1:], crs=places.crs)).all()
    assert places['date'].tolist() == days[1:].tolist()
    with pytest.raises(
        ValueError, match=r'found none .*correct the option key or tolerance'
    ):
        PairedEmbeddings(tmp_path, entries, 'place', tolerance=0.01)
    # Another day is another sample.
    table['timestamp'] = later[::-1] + pd.to_timedelta([1, 0, 0], 'D')
    write(files[1], vectors(3, 10, rows=3), **table)
    options: dict[str, Any] = {'skip_incomplete': True}
    two = PairedEmbeddings(tmp_path, entries, ['place', 'date'], **options)
    assert firsts(two, 'clay') == [0, 1]


def test_reads_several_files_and_numeric_columns(tmp_path: Path) -> None:
    x = vectors(3)
    for i, rows in enumerate((slice(0, 2), slice(2, 4))):
        columns = {f'A{j:02}': x[rows, j] for j in range(3)}
        pd.DataFrame({'id': NAMES[rows], **columns}).to_parquet(
            tmp_path / f'{i}.parquet'
        )
    np.save(tmp_path / 'b.npy', vectors(2))
    alpha = {'path': '[01].parquet', 'column': 'A*'}
    dataset = PairedEmbeddings(
        tmp_path, {'alpha': alpha, 'b': {'path': 'b.npy'}}, 'row'
    )
    np.testing.assert_array_equal(dataset[3]['image_alpha'].flatten(), x[3])
    assert dataset.modalities['alpha'].channels == 3
    assert dataset.modalities['alpha'].kind == 'embedding'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'path': 'c.parquet'}, r'embedding file .*c\.parquet does not exist'),
        ({'path': '*.csv'}, r'a: no file matches .*\*\.csv'),
        ({'column': 'z'}, r"expected column 'z', found columns .*sample"),
        ({'column': 'label'}, 'expected a column of lists of numbers, found'),
        (
            {'key': 'id'},
            r"a: .*a\.parquet: expected id for the key 'id', found columns",
        ),
        ({'key': ['sample', 'label']}, "same number of columns .*'a': 2, 'b': 1"),
        ({'key': 'place'}, 'expected geometry or centre_lon and centre_lat'),
        ({'part': 's1'}, r"a: part must be one of the modalities \[\] in .*got 's1'"),
        ({'bands': 3}, r"a: keys must be among .*got \['bands'\]"),
    ],
)
def test_errors_name_the_entry(
    root: Path, change: dict[str, Any], message: str
) -> None:
    entries = {**ENTRIES, 'a': {**ENTRIES['a'], **change}}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        PairedEmbeddings(root, entries)


def test_nan_within_a_row_is_an_error(root: Path) -> None:
    x = vectors(6)
    x[2, 3] = np.inf
    write(root / 'a.parquet', x, sample=NAMES)
    with pytest.raises(
        ValueError, match=r"a: expected finite .* in 1 of 4 rows, such as 'c'"
    ):
        PairedEmbeddings(root, ENTRIES)
