"""Check the files of experiments/transfer on small files in the true layout."""

import csv
from collections.abc import Callable
from pathlib import Path

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
def test_transfer(
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
def test_rasters(torchgeo: Callable[..., None], tmp_path: Path, modality: str) -> None:
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
def test_pothole(
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
