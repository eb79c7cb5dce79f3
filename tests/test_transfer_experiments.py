"""The files of experiments/transfer do what they say, on small files in the true layout."""

import csv
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTIONS = {
    'bigearthnet': ['--model.init_args.model=test_resnet', '--model.init_args.size=48'],
    'geonrw': [
        '--model.init_args.backbone=test_resnet',
        '--data.init_args.size=16',
        '--data.init_args.val_fraction=0.34',
    ],
}


@pytest.mark.filterwarnings('ignore:Average precision score for one or more classes')
@pytest.mark.filterwarnings('ignore:No positive samples found in target')
@pytest.mark.parametrize(
    ('base', 'difference', 'frozen'),
    [
        ('bigearthnet', 'linear', True),
        ('bigearthnet', 'finetune', False),
        ('geonrw', 'frozen', True),
        ('geonrw', 'finetune', False),
    ],
)
def test_transfer(
    torchgeo: Callable[..., None],
    tmp_path: Path,
    base: str,
    difference: str,
    frozen: bool,
) -> None:
    make = runpy.run_path(str(ROOT / 'tests' / 'data' / base / 'data.py'))['make']
    cities = {'cities': {'aachen': 3, 'herne': 1}} if base == 'geonrw' else {}
    root = make(tmp_path / 'data', **cities)
    folder = ROOT / 'experiments' / 'transfer'
    torchgeo(
        'fit',
        f'--config={folder / base}.yaml',
        f'--config={folder / base}_{difference}.yaml',
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
    with (run / 'metrics.csv').open() as file:
        columns = set(csv.DictReader(file).fieldnames or ())
    metric = 'mAP_micro' if base == 'bigearthnet' else 'AverageJaccardIndex'
    assert f'val_{metric}' in columns


@pytest.mark.parametrize(
    'modalities', ['{rgb: 3}', '{disparity: 1}', '{rgb: 3, disparity: 1}']
)
def test_pothole(
    torchgeo: Callable[..., None], tmp_path: Path, modalities: str
) -> None:
    fake = runpy.run_path(str(ROOT / 'tests' / 'data' / 'paired_folders' / 'data.py'))
    for split, count in (('dataset1', 5), ('dataset3', 2)):
        for number in range(count):
            rgb, depth, label = fake['frame'](number)
            for folder, bands in (
                ('rgb', rgb),
                ('disp_tg', depth),
                ('label', label // 255),
            ):
                fake['write'](
                    tmp_path / 'data' / split / folder / f'{number}.png', bands
                )
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
