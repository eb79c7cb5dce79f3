"""Check the files of experiments/transfer on small files in the true layout."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.helpers.fake_data import fake, write_bands

ROOT = Path(__file__).parents[1]
RGBD = [
    '--model.init_args.backbone=test_resnet',
    '--data.init_args.size=[48, 64]',
    '--data.init_args.val_fraction=0.4',
]
CITIES = {'cities': {'aachen': 3, 'herne': 1}}
OPTIONS = {
    'bigearthnet': ['--model.init_args.model=test_resnet', '--model.init_args.size=48'],
    'geonrw': [
        '--model.init_args.backbone=test_resnet',
        '--data.init_args.size=16',
        '--data.init_args.val_fraction=0.34',
    ],
    **{name: RGBD for name in ('sunrgbd', 'nyudepthv2')},
}


@pytest.mark.filterwarnings('ignore:Average precision score for one or more classes')
@pytest.mark.filterwarnings('ignore:No positive samples found in target')
@pytest.mark.parametrize(
    ('base', 'difference', 'modality', 'frozen'),
    [
        ('bigearthnet', 'linear', '', True),
        ('bigearthnet', 'linear', 's1', True),
        ('bigearthnet', 'finetune', 's2', False),
        ('geonrw', 'frozen', 'rgb', True),
        ('geonrw', 'finetune', '', False),
        ('sunrgbd', 'cmx', '', False),
        ('sunrgbd', 'fcn', '', False),
        ('nyudepthv2', 'cmx', '', False),
        ('nyudepthv2', 'fcn', '', False),
    ],
)
def test_transfer_config_runs(
    torchgeo: Callable[..., None],
    tmp_path: Path,
    base: str,
    difference: str,
    modality: str,
    frozen: bool,
) -> None:
    if base in ('sunrgbd', 'nyudepthv2'):
        pytest.importorskip('h5py')
    root = fake(base).make(tmp_path / 'data', **(CITIES if base == 'geonrw' else {}))
    folder = ROOT / 'experiments' / 'transfer'
    names = [base, f'{base}_{difference}'] + [f'{base}_{modality}'] * bool(modality)
    torchgeo(
        'fit',
        *[f'--config={folder / name}.yaml' for name in names],
        f'--trainer.logger.init_args.save_dir={tmp_path}',
        '--trainer.accelerator=cpu',
        '--trainer.max_epochs=1',
        '--trainer.limit_train_batches=2',
        '--trainer.enable_progress_bar=false',
        '--trainer.enable_model_summary=false',
        '--trainer.log_every_n_steps=1',
        '--model.init_args.weights=null',
        f'--data.init_args.root={root}',
        '--data.init_args.batch_size=2',
        '--data.init_args.num_workers=0',
        *OPTIONS[base],
    )
    run = tmp_path / f'{base}_{difference}' / 'version_0'
    text = (run / 'hparams.yaml').read_text()
    assert f'freeze_backbone: {str(frozen).lower()}' in text
    if modality:
        assert list(yaml.safe_load(text)['modalities']) == [modality]
    with (run / 'metrics.csv').open() as file:
        columns = set(csv.DictReader(file).fieldnames or ())
    metric = 'mAP_micro' if base == 'bigearthnet' else 'AverageJaccardIndex'
    assert f'val_{metric}' in columns


@pytest.mark.parametrize('modality', ['spectral', 'dem', ''])
def test_raster_config_draws_maps_of_one_or_two_modalities(
    torchgeo: Callable[..., None], tmp_path: Path, modality: str
) -> None:
    """Check maps from one modality, or from two of which one may be missing at test."""
    root = fake('rasters').make(tmp_path / 'data')
    channels = {'spectral': 2, 'dem': 1}
    wanted = {modality: channels[modality]} if modality else channels
    spectral = {'paths': str(root / 'optical'), 'bands': ['column', 'row']}
    dem = {'paths': str(root / 'dem'), 'bands': ['elevation'], 'kind': 'elevation'}
    mask = {'paths': str(root / 'labels'), 'nodata': 255, 'num_classes': 9}
    options = [
        f'--config={ROOT / "experiments" / "transfer" / "rasters.yaml"}',
        f'--trainer.logger.init_args.save_dir={tmp_path}',
        '--trainer.accelerator=cpu',
        '--trainer.max_epochs=1',
        '--trainer.enable_progress_bar=false',
        '--trainer.enable_model_summary=false',
        '--model.init_args.weights=null',
        '--model.init_args.model=fcn',
        '--model.init_args.backbone=test_resnet',
        f'--model.init_args.modalities={wanted}',
        f'--model.init_args.modality_dropout={0 if modality else 0.2}',
        f'--data.init_args.rasters.spectral={spectral}',
        f'--data.init_args.rasters.dem={dem}',
        f'--data.init_args.mask={mask}',
        '--data.init_args.patch_size=32',
        '--data.init_args.length=4',
        '--data.init_args.batch_size=2',
        '--data.init_args.num_workers=0',
    ]
    torchgeo('fit', *options)
    (checkpoint,) = tmp_path.glob('rasters/version_0/checkpoints/*.ckpt')
    for missing in [[]] if modality else [[], ['spectral'], ['dem']]:
        gone = f'--model.init_args.missing_modalities={missing}'
        for command in ('validate', 'test', 'predict'):
            torchgeo(command, *options, gone, f'--ckpt_path={checkpoint}')
        found = tmp_path.glob('rasters/version_*/metrics.csv')
        newest = max(found, key=lambda path: path.stat().st_mtime_ns)
        with newest.open() as file:
            row = next(csv.DictReader(file))
        assert 0 <= float(row['test_AverageJaccardIndex']) <= 1


@pytest.mark.parametrize(
    'modalities', ['{rgb: 3}', '{disparity: 1}', '{rgb: 3, disparity: 1}']
)
def test_pothole_config_runs_with_each_set_of_modalities(
    torchgeo: Callable[..., None], tmp_path: Path, modalities: str
) -> None:
    frame = fake('paired_folders').frame
    for split, count in (('dataset1', 5), ('dataset3', 2)):
        for number in range(count):
            rgb, depth, label = frame(number)
            for folder, bands in (
                ('rgb', rgb),
                ('disp_tg', depth),
                ('label', label // 255),
            ):
                write_bands(tmp_path / 'data' / split / folder / f'{number}.png', bands)
    options = (
        f'--config={ROOT / "experiments" / "transfer" / "pothole.yaml"}',
        f'--trainer.logger.init_args.save_dir={tmp_path}',
        '--trainer.accelerator=cpu',
        '--trainer.max_epochs=1',
        '--trainer.enable_progress_bar=false',
        '--trainer.enable_model_summary=false',
        '--model.init_args.backbone=test_resnet',
        f'--model.init_args.modalities={modalities}',
        f'--data.init_args.root={tmp_path / "data"}',
        '--data.init_args.size=[24, 36]',
        '--data.init_args.batch_size=2',
    )
    torchgeo('fit', *options)
    run = tmp_path / 'pothole' / 'version_0'
    (checkpoint,) = (run / 'checkpoints').glob('*.ckpt')
    torchgeo('test', *options, f'--ckpt_path={checkpoint}')
    with (tmp_path / 'pothole' / 'version_1' / 'metrics.csv').open() as file:
        columns = set(csv.DictReader(file).fieldnames or ())
    assert 'test_AverageJaccardIndex' in columns
    both = 'disparity' in modalities and 'rgb' in modalities
    assert ('test_AverageJaccardIndex_rgb' in columns) == both


def test_every_command_runs_on_a_table_of_numbers(
    torchgeo: Callable[..., None], tmp_path: Path
) -> None:
    """Numbers of a table with semicolons: every command, and a fit that was stopped."""
    data = tmp_path / 'data'
    lines = ['plot;biomass;fold']
    for i in range(14):
        for folder, bands in (('s1', 2), ('s2', 4)):
            rows = np.arange(32.0)[:, None] / 4 + np.zeros((bands, 32, 32)) + i - 25
            write_bands(data / folder / f'{i:02d}.tif', rows.astype(np.float32))
        fold = 'train' if i < 8 else 'val' if i < 11 else 'test'
        lines.append(f'{i:02d}.tif;{100 + i},5;{fold}')
    (data / 'plots.csv').write_text('\n'.join(lines))
    options = [
        f'--config={ROOT / "experiments" / "transfer" / "table.yaml"}',
        f'--trainer.logger.init_args.save_dir={tmp_path}',
        '--trainer.accelerator=cpu',
        '--trainer.enable_progress_bar=false',
        '--trainer.enable_model_summary=false',
        '--model.init_args.model=test_resnet',
        '--model.init_args.size=32',
        '--model.init_args.lr_schedule=constant',
        f'--data.init_args.root={data}',
        '--data.init_args.batch_size=4',
    ]

    def metrics(version: int) -> dict[str, float]:
        path = tmp_path / 'table' / f'version_{version}' / 'metrics.csv'
        with path.open() as file:
            return {
                k: float(v) for row in csv.DictReader(file) for k, v in row.items() if v
            }

    torchgeo('fit', *options, '--trainer.max_epochs=1')
    (checkpoint,) = tmp_path.glob('table/version_0/checkpoints/*.ckpt')
    torchgeo('fit', *options, '--trainer.max_epochs=2', f'--ckpt_path={checkpoint}')
    (checkpoint,) = tmp_path.glob('table/version_1/checkpoints/*.ckpt')
    torchgeo('test', *options, f'--ckpt_path={checkpoint}')
    torchgeo('predict', *options, f'--ckpt_path={checkpoint}')
    tested = metrics(2)
    assert {'test_RMSE_s1', 'test_R2_s2'} <= set(tested)
    with (tmp_path / 'table' / 'version_3' / 'predictions.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['id'] for row in rows] == ['11', '12', '13']
    expected = [111.5, 112.5, 113.5]
    errors = [float(r['biomass']) - y for r, y in zip(rows, expected, strict=True)]
    rmse = (sum(e**2 for e in errors) / 3) ** 0.5
    assert tested['test_RMSE'] == pytest.approx(rmse, rel=1e-4)
