"""Check tables of scene labels: what users write into them, and what they get."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers.fake_data import write_bands
from torchgeo_decur.cli.embed import embed_rasters
from torchgeo_decur.datamodules import PairedFoldersDataModule
from torchgeo_decur.datasets import PairedFolders
from torchgeo_decur.datasets.scene_labels import SceneLabels, read_table
from torchgeo_decur.tasks import LateFusionRegression

IMAGES = {
    'rgb': {'pattern': 'rgb/{id}.png', 'bands': list('RGB'), 'kind': 'rgb'}
    | {'unit': 'uint8'}
}
IDS = [f'plot_{i:02d}' for i in range(8)]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write eight images, whose value is their number."""
    folder = tmp_path_factory.mktemp('labels')
    for i, name in enumerate(IDS):
        image = np.full((3, 4, 4), i, dtype=np.uint8)
        write_bands(folder / 'rgb' / f'{name}.png', image)
    return folder


def write(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ',') -> Path:
    with path.open('w', newline='') as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def folders(root: Path, table: Path, **entry: Any) -> PairedFolders:
    kind = {'path': str(table), 'key': 'plot', 'label': 'cover', **entry}
    return PairedFolders(root, IMAGES, labels=kind)


def test_classes_keep_their_names(root: Path, tmp_path: Path) -> None:
    rows = [('plot', 'cover'), *zip(IDS, ['wood', 'NA', 'field', 'wood'] * 2)]  # noqa: B905
    dataset = folders(root, write(tmp_path / 'a.csv', rows))
    assert dataset.classes == ('NA', 'field', 'wood')
    assert dataset.labels().tolist() == [2, 0, 1, 2] * 2
    sample = dataset[5]
    assert sample['label'] == 0 and sample['label'].dtype == torch.int64
    assert sample['id'] == 'plot_05' and sample['image_rgb'][0, 0, 0] == 5
    assert 'label: NA' in str(dataset.plot(sample).get_suptitle())
    ordered = folders(
        root, tmp_path / 'a.csv', classes=['wood', 'field', 'NA', 'water']
    )
    assert ordered.labels().tolist() == [0, 2, 1, 0] * 2
    assert ordered.label_report.endswith("; no image has the classes ['water']")


@pytest.mark.parametrize('several', [False, True])
def test_several_classes_are_names_in_a_cell_or_columns(
    root: Path, tmp_path: Path, several: bool
) -> None:
    if several:
        rows: list[Any] = [('plot', 'wood', 'wet')]
        rows += [(n, i % 2, 'true' if i == 3 else 'false') for i, n in enumerate(IDS)]
        entry: dict[str, Any] = {'label': ['wood', 'wet']}
    else:
        cells = ['', 'wood', '', 'wood | wet', '', 'wood', '', 'wood']
        rows = [('plot', 'cover'), *zip(IDS, cells, strict=True)]
        entry = {'separator': '|', 'classes': ['wood', 'wet']}
    dataset = folders(root, write(tmp_path / 'a.csv', rows), kind='multilabel', **entry)
    expected = [[i % 2, int(i == 3)] for i in range(8)]
    assert dataset.labels().tolist() == expected
    assert dataset.classes == ('wood', 'wet')


@pytest.mark.parametrize('mark', ['', '\ufeff'])
@pytest.mark.parametrize('delimiter', [',', ';', '\t'])
def test_reads_numbers_in_any_dialect_of_csv(
    root: Path, tmp_path: Path, mark: str, delimiter: str
) -> None:
    values = ['1.5', '2', '', '4', 'NaN', '6', '7e1', '8']
    if delimiter == ';':
        values = [v.replace('.', ',') for v in values]
    lines = [f'plot{delimiter} cover', *map(delimiter.join, zip(IDS, values))]  # noqa: B905
    table = tmp_path / 'a.csv'
    table.write_text(mark + '\r\n'.join(lines), encoding='utf-8')
    dataset = folders(root, table, kind='number')
    assert dataset.labels().tolist() == [1.5, 2, 4, 6, 70, 8]
    assert dataset[0]['label'].dtype == torch.float32
    assert "2 rows without a label, such as 'plot_02'" in dataset.label_report
    both = folders(root, table, kind='number', label=['cover', 'cover'])
    assert both[0]['label'].tolist() == [1.5, 1.5] and len(both) == 6
    assert both.classes == ()


def test_reads_geojson(root: Path, tmp_path: Path) -> None:
    features = [
        {'type': 'Feature', 'properties': {'plot': n, 'cover': i / 2}, 'geometry': None}
        for i, n in enumerate(IDS)
    ]
    table = tmp_path / 'a.geojson'
    table.write_text(json.dumps({'type': 'FeatureCollection', 'features': features}))
    dataset = folders(root, table, kind='number')
    assert dataset.labels().tolist() == [i / 2 for i in range(8)]
    table.write_text('{}')
    with pytest.raises(ValueError, match='expected a GeoJSON FeatureCollection'):
        read_table(table)


def test_rows_and_images_without_partner_are_counted(
    root: Path, tmp_path: Path
) -> None:
    rows = [('plot', 'cover'), *((f'./{n}.tif', 'a') for n in IDS[2:]), ('z', 'b')]
    dataset = folders(root, write(tmp_path / 'a.csv', rows))
    assert [frame.id for frame in dataset.samples] == IDS[2:]
    assert dataset.label_report == (
        'a.csv: 6 labeled images; omitted: 2 images without a row, such as '
        "'plot_00'; 1 rows without an image, such as 'z'; no image has the classes ['b']"
    )


def datamodule(root: Path, **options: Any) -> PairedFoldersDataModule:
    return PairedFoldersDataModule(str(root), IMAGES, batch_size=2, **options)


def names(dataset: Any) -> list[str]:
    return [frame.id for frame in dataset.samples]


def test_a_column_has_the_splits(root: Path, tmp_path: Path) -> None:
    folds = ['a', 'a', 'b', 'b', 'a', 'c', 'c', 'd']
    rows = [('plot', 'cover', 'fold'), *zip(IDS, 'xyxyxyxy', folds)]  # noqa: B905
    table = write(tmp_path / 'a.csv', rows)
    entry = {'path': str(table), 'key': 'plot', 'label': 'cover', 'split': 'fold'}
    data = datamodule(root, labels=entry, train=['a'], val=['b'], test=['c'])
    for stage in ('fit', 'test', 'predict'):
        data.setup(stage)
    assert names(data.train_dataset) == [IDS[0], IDS[1], IDS[4]]
    assert names(data.val_dataset) == IDS[2:4]
    assert names(data.test_dataset) == names(data.predict_dataset) == IDS[5:7]
    assert 'label' not in data.predict_dataset[0]
    with pytest.raises(ValueError, match=r"splits among \['a', .* found \['e'\]"):
        datamodule(root, labels=entry, train=['e']).setup('fit')
    with pytest.raises(
        ValueError, match='found none; set the options train, val and test'
    ):
        datamodule(root, labels=entry).setup('fit')


def test_lists_have_the_splits(root: Path, tmp_path: Path) -> None:
    rows = [('plot', 'cover'), *zip(IDS, range(8), strict=True)]
    table = write(tmp_path / 'a.csv', rows)
    lists = {'train': IDS[:4], 'val': [f'{n}.png' for n in IDS[4:6]], 'test': IDS[6:]}
    files = {}
    for name, ids in lists.items():
        files[name] = str(tmp_path / f'{name}.txt')
        Path(files[name]).write_text('\n'.join([*ids, '']))
    entry = {'path': str(table), 'key': 'plot', 'label': 'cover', 'kind': 'number'}
    data = datamodule(root, labels=entry, split_files=files)
    for stage in ('fit', 'test', 'predict'):
        data.setup(stage)
    assert names(data.train_dataset) == IDS[:4] and names(data.val_dataset) == IDS[4:6]
    assert names(data.test_dataset) == names(data.predict_dataset) == IDS[6:]
    Path(files['test']).write_text(IDS[0])
    with pytest.raises(ValueError, match="got 'plot_00' in train and test"):
        datamodule(root, labels=entry, split_files=files).setup('fit')
    Path(files['train']).write_text('elsewhere')
    with pytest.raises(ValueError, match=r"found \['elsewhere'\] and no match"):
        datamodule(root, labels=entry, split_files=files).setup('fit')
    with pytest.raises(
        ValueError, match=r"split_files must have .* got \['training'\]"
    ):
        datamodule(root, split_files={'training': 'x.txt'})
    with pytest.raises(ValueError, match='expected a list of ids'):
        datamodule(root, split_files={'train': 'x.txt'}).setup('fit')


def test_a_budget_of_labels_has_every_class(root: Path, tmp_path: Path) -> None:
    rows = [('plot', 'cover'), *zip(IDS, 'aaaaaabb', strict=True)]
    table = write(tmp_path / 'a.csv', rows)
    entry = {'path': str(table), 'key': 'plot', 'label': 'cover'}
    data = datamodule(root, labels=entry, label_fraction=0.34, val_fraction=0.0)
    data.setup('fit')
    assert set(data.train_dataset.labels().tolist()) == {0, 1}


@pytest.mark.parametrize('split', ['train', 'test'])
def test_keys_may_name_the_folder_of_their_split(tmp_path: Path, split: str) -> None:
    images = {'rgb': {**IMAGES['rgb'], 'pattern': '{split}/{id}.png'}}
    for i, folder in enumerate(('train', 'test')):
        image = np.full((3, 4, 4), i, dtype=np.uint8)
        write_bands(tmp_path / folder / '1.png', image)
    rows = [('plot', 'cover'), ('train/1.png', 5), ('test/1.png', 6)]
    write(tmp_path / 'a.csv', rows)
    entry = {'path': 'a.csv', 'key': 'plot', 'label': 'cover', 'kind': 'number'}
    dataset = PairedFolders(tmp_path, images, splits=[split], labels=entry)
    assert dataset.labels().tolist() == [5 if split == 'train' else 6]


@pytest.mark.parametrize(
    ('rows', 'entry', 'message'),
    [
        ([('id', 'cover'), ('plot_00', 'a')], {}, r"\['plot'\] are missing from \['id', 'cover'\]"),
        ([('plot', 'cover'), ('plot_00', 'c')], {'classes': ['a']}, "found 'c' in row 'plot_00'"),
        ([('plot', 'cover'), ('plot_00', 'x')], {'kind': 'number'}, "found 'x' in row 'plot_00'"),
        ([('plot', 'cover'), ('plot_00', 'inf')], {'kind': 'number'}, 'expected a number'),
        ([('plot', 'cover'), ('plot_00', '')], {}, 'found none among 1 scenes with a row'),
        ([('plot', 'cover'), ('', 'a')], {}, 'found none in row 1 of column'),
        ([('plot', 'cover'), ('0', 'a')], {}, r"such as \['plot_00', .* found \['0'\]"),
        ([('plot', 'cover'), ('plot_00', 'a'), ('./plot_00', 'b')], {}, "found './plot_00' again"),
        (
            [('plot', 'a', 'b'), ('plot_00', '1', '')],
            {'kind': 'multilabel', 'label': ['a', 'b']},
            "expected 0 or 1 in column 'b', found ''",
        ),
        ([('plot', 'cover')], {}, r'and no match'),
    ],
)  # fmt: skip
def test_mistakes_in_a_table_name_the_row(
    root: Path, tmp_path: Path, rows: list[Any], entry: dict[str, Any], message: str
) -> None:
    table = write(tmp_path / 'a.csv', rows)
    with pytest.raises(ValueError, match=message):
        folders(root, table, **entry)


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ({'kind': 'classes'}, r"kind of labels must be one of .* got 'classes'"),
        ({'columns': 'x'}, r'labels must be a mapping with keys among'),
        ({'key': None}, r'labels must have key .the id column.'),
        ({'label': None}, r'labels must have label'),
        ({'label': ['a', 'b']}, r'label must be a single column if kind is .class.'),
        ({'separator': '|'}, r'separator must not be set'),
        (
            {'kind': 'number', 'classes': ['a']},
            r'classes must not be set if kind is .number.',
        ),
        ({'path': 'none.csv'}, r'none.csv: expected a label table, found no file'),
    ],
)
def test_names_the_mistake_in_an_entry(
    tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    write(tmp_path / 'a.csv', [('plot', 'a', 'b')])
    given = {'path': 'a.csv', 'key': 'plot', 'label': 'a', **entry}
    with pytest.raises(ValueError, match=message):
        SceneLabels.read(tmp_path, given)


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    table = tmp_path / 'a.csv'
    table.write_bytes(b'plot,cover\nm\xfcll,1\n')
    with pytest.raises(ValueError, match='expected a UTF-8 table'):
        read_table(table)
    table.write_text('')
    with pytest.raises(ValueError, match='expected a UTF-8 table'):
        read_table(table)


def test_a_mask_may_have_numbers(root: Path, tmp_path: Path) -> None:
    for i, name in enumerate(IDS[:2]):
        height = np.array([[[100 * i, -9999], [250, 3]]], dtype=np.int16)
        write_bands(tmp_path / 'h' / f'{name}.tif', height)
        write_bands(tmp_path / 'rgb' / f'{name}.png', np.zeros((3, 2, 2), np.uint8))
    mask = {'pattern': 'h/{id}.tif', 'numbers': True, 'nodata': -9999, 'scale': 0.01}
    dataset = PairedFolders(tmp_path, IMAGES, mask)
    found = dataset[1]['mask']
    assert found.dtype == torch.float32 and found.shape == (2, 2)
    torch.testing.assert_close(
        found, torch.tensor([[1.0, math.nan], [2.5, 0.03]]), equal_nan=True
    )
    with pytest.raises(ValueError, match=r"got \['num_classes'\]"):
        PairedFolders(tmp_path, IMAGES, {**mask, 'num_classes': 3})
    with pytest.raises(ValueError, match='must have a label table'):
        dataset.labels()


def test_packed_samples_keep_labels_and_ids(root: Path, tmp_path: Path) -> None:
    pytest.importorskip('litdata')
    from torchgeo_decur.packed import PackedDataset, pack_datamodule

    rows = [('plot', 'cover'), *zip(IDS, np.arange(8) / 2, strict=True)]
    table = write(tmp_path / 'a.csv', rows)
    entry = {'path': str(table), 'key': 'plot', 'label': 'cover', 'kind': 'number'}
    data = datamodule(root, labels=entry, val_fraction=0.0)
    options: dict[str, Any] = {'workers': 0, 'progress': False, 'splits': ['train']}
    pack_datamodule(data, tmp_path / 'packed', **options)
    packed = PackedDataset(tmp_path / 'packed')
    found = {sample['id']: float(sample['label']) for sample in packed}  # type: ignore[attr-defined]
    assert found == {name: i / 2 for i, name in enumerate(IDS)}


@pytest.mark.parametrize('kind', ['class', 'multilabel', 'number'])
def test_embeddings_have_columns_of_labels(
    root: Path, tmp_path: Path, kind: str
) -> None:
    rows = [('plot', 'cover'), *zip(IDS[2:], '040055', strict=True)]
    table = write(tmp_path / 'a.csv', rows)
    entry = {'path': str(table), 'key': 'plot', 'label': 'cover', 'kind': kind}
    data = datamodule(root, labels=entry)
    task = LateFusionRegression({'rgb': 3}, 'test_resnet')
    out = embed_rasters(task, data, tmp_path / 'a.parquet', rows=2, progress=False)
    frame = pd.read_parquet(out)
    assert frame['sample'].tolist() == IDS and len(frame['embedding'][0])
    if kind == 'class':
        expected: Any = [None, None, *'040055']
        assert [None if pd.isna(v) else v for v in frame['label']] == expected
    elif kind == 'multilabel':
        assert frame['label_5'].tolist()[2:] == [0, 0, 0, 0, 1, 1]
        assert frame[['label_0', 'label_4']].isna().sum().tolist() == [2, 2]
    else:
        assert frame['label_cover'].tolist()[2:] == [0, 4, 0, 0, 5, 5]
        assert frame['label_cover'].isna().tolist() == [True] * 2 + [False] * 6
