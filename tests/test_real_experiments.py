"""The tables on real pixels, a cell of each, on small files in the true layout."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import definition
import numpy as np
import pytest
import table
from fake_data import fake, write_bands
from rasterio.transform import from_origin

from torchgeo_decur.cli import main
from torchgeo_decur.datasets import SyntheticEO

ROOT = Path(__file__).parents[1]
QUICK = (
    '--data.init_args.batch_size=2',
    '--trainer.enable_progress_bar=false',
    '--trainer.limit_train_batches=2',
    '--trainer.max_epochs=1',
)
FIRST = ('--model.init_args.warmup_epochs=0',)


def zion(data: Path) -> None:
    """One scene in three files, packed as the table says."""
    pytest.importorskip('litdata')
    scene = SyntheticEO(length=1, size=320, modalities=('s2', 'dem'))[0]
    files = {
        'landsat8': (scene['image_s2'][[1, 2, 3, 7]].numpy().astype(np.uint16), 65535),
        'srtm': (scene['image_dem'].numpy(), -9999),
        'nlcd': (1 + scene['mask'].numpy()[None].astype(np.uint8) % 8, 255),
    }
    corner = from_origin(300000, 4100000, 30, 30)
    for name, (bands, nodata) in files.items():
        path = data / 'zion' / f'zion_{name}.tif'
        fake('rasters').write(path, bands, corner, 'EPSG:32612', nodata=nodata)
    windows = ROOT / 'experiments' / 'real' / 'zion_windows.yaml'
    options = ['--splits=[train, val, test]', '--workers=0', '--data.length=4']
    options += ['--data.val_fraction=0.3', '--data.test_fraction=0.3']
    with pytest.warns(UserWarning, match='the 4 random windows of the first epoch'):
        main(['pack', str(windows), f'--out={data / "zion_packed"}', *options])


def bigearthnet(data: Path) -> None:
    fake('bigearthnet').make(data / 'bigearthnet')


def pothole(data: Path) -> None:
    draw = fake('paired_folders')
    for split, count in (('dataset1', 5), ('dataset3', 2)):
        for number in range(count):
            images = draw.frame(number)
            for folder, bands in zip(('rgb', 'disp_tg', 'label'), images, strict=True):
                path = data / 'stereo_pothole_datasets' / split / folder
                write_bands(
                    path / f'{number}.png', bands // (255 if folder == 'label' else 1)
                )


@pytest.mark.filterwarnings('ignore:Average precision score for one or more classes')
@pytest.mark.filterwarnings('ignore:No positive samples found in target')
@pytest.mark.parametrize(
    ('name', 'make'),
    [('zion', zion), ('bigearthnet_few', bigearthnet), ('pothole_pretrained', pothole)],
)
def test_pretrains_fits_and_tests(
    name: str,
    make: Callable[[Path], None],
    torchgeo: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the objective of another class, and at random: all columns are measured."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / 'data')

    def command(args: Sequence[str]) -> None:
        first = any('pretrain' in arg for arg in args if arg.startswith('--config='))
        torchgeo(*args, *QUICK, *(FIRST if first else ()))

    path = ROOT / 'experiments' / 'tables' / f'{name}.yaml'
    results = tmp_path / 'results.csv'
    for cell in ('Barlow Twins', 'random'):
        table.fill(path, [0], [], [cell], tmp_path / 'out', results, command)
    with results.open() as file:
        rows = list(csv.DictReader(file))
    measured = {(row['cell'], row['metric']) for row in rows}
    wanted = definition.Table.read(path).measured
    assert measured == {
        (cell, metric) for cell in ('Barlow Twins', 'random') for metric in wanted
    }
    assert all(0 <= float(row['value']) <= 1 for row in rows)
