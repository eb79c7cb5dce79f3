"""Run one cell of each table on real pixels, on small files in the true layout."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rasterio.transform import from_origin

from experiments import constant, definition, table
from tests.helpers.fake_data import fake, write_bands
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
    """Check one scene in three files, packed as in the table."""
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
            rgb, disparity, label = draw.frame(number)
            # Real disparities have no second value for missing pixels.
            disparity[disparity == 65535] = 0
            images = rgb, disparity, label
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
    """Check all columns of tables with another objective, and of random encoders."""
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


def test_constant_task_predicts_class_frequencies() -> None:
    task = constant.Segmentation(
        {'s1': 2}, 'fcn', 'test_resnet', num_classes=3, ignore_index=255
    )
    for labels in ([0, 0, 255, 255, 255], [2, 2, 2, 1, 0]):
        batch = {'mask': torch.tensor(labels).view(1, 1, -1)}
        task.on_train_batch_end(None, batch, 0)
    assert task.counts.tolist() == [3, 1, 3]
    task.on_train_batch_end(None, {'mask': torch.tensor([[[2]]])}, 0)
    logits = task.eval()({'s1': torch.rand(2, 2, 32, 32)})
    expected = (task.counts / 8).expand(2, 32, 32, 3).movedim(-1, 1)
    torch.testing.assert_close(logits.softmax(dim=1), expected)


def test_constant_task_predicts_the_share_of_each_label() -> None:
    task = constant.Classification(
        {'s1': 2}, 'test_resnet', task='multilabel', num_labels=3, loss='soft_margin'
    )
    task.on_train_batch_end(None, {'label': torch.tensor([[1, 0, 1], [1, 0, 0]])}, 0)
    logits = task.eval()({'s1': torch.rand(2, 2, 32, 32)})
    assert torch.equal(logits[0], logits[1])
    assert logits[0].argsort(descending=True).tolist() == [0, 2, 1]


@pytest.mark.filterwarnings('ignore:Average precision score for one or more classes')
@pytest.mark.filterwarnings('ignore:No positive samples found in target')
@pytest.mark.filterwarnings('ignore:`LightningModule.configure_optimizers` returned')
def test_constant_answers(
    torchgeo: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that the accuracy is the share of one class."""
    monkeypatch.chdir(tmp_path)
    for make in (zion, pothole, bigearthnet):
        make(tmp_path / 'data')
    small = ('--data.init_args.batch_size=2', '--trainer.enable_progress_bar=false')
    results = tmp_path / 'results.csv'

    def run(args: Sequence[str]) -> None:
        torchgeo(*args)

    for name in ('constant_pixels', 'constant_labels'):
        path = ROOT / 'experiments' / 'tables' / f'{name}.yaml'
        table.fill(path, [0], small, [], tmp_path / 'out', results, run)
    with results.open() as file:
        found = {
            (r['cell'], r['metric']): float(r['value']) for r in csv.DictReader(file)
        }
    assert len(found) == 5 and all(0 <= value <= 1 for value in found.values())
    assert found['share of each label', 'test_mAP_micro'] > 0
    labels = (tmp_path / 'data/stereo_pothole_datasets/dataset3/label').glob('*.png')
    share = np.mean([np.asarray(Image.open(path)) for path in labels])
    right = found['street scenes / most frequent class', 'test_OverallAccuracy']
    assert right == pytest.approx(max(share, 1 - share), abs=0.02)
