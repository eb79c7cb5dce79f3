"""The files of experiments/trifeature, and the tables of them: a few steps of each."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / 'experiments'
SHORT = (
    '--trainer.accelerator=cpu',
    '--trainer.max_epochs=1',
    '--trainer.enable_progress_bar=false',
    '--trainer.log_every_n_steps=1',
    '--data.init_args.num_workers=0',
    '--data.init_args.batch_size=8',
    '--data.init_args.length=16',
)


def axes(name: str) -> dict[str, list[str]]:
    """Options of each label of a table."""
    table = yaml.safe_load((FOLDER / 'tables' / f'{name}.yaml').read_text())
    found: dict[str, list[str]] = table['axes']['label']
    return found


def test_both_tables_have_the_same_cells() -> None:
    small, paper = (
        yaml.safe_load((FOLDER / 'tables' / f'{name}.yaml').read_text())
        for name in ('trifeature', 'trifeature_paper')
    )
    assert small['axes'] == paper['axes']
    assert small['pretrain'] == paper['pretrain']
    for key, name in (('pretrain_all', 'pretrain'), ('fit', 'probe')):
        more = f'--config=../trifeature/{name}_paper.yaml'
        assert [o for o in paper[key] if o != more] == small[key]


@pytest.mark.parametrize('size', ['small', 'paper'])
def test_pretrain_and_probe(
    size: str, torchgeo: Callable[..., None], tmp_path: Path
) -> None:
    sizes = ['small'] if size == 'small' else ['small', 'paper']
    save = f'--trainer.logger.init_args.save_dir={tmp_path}'
    configs = [f'--config={FOLDER}/trifeature/pretrain_{s}.yaml' for s in sizes]
    projector = '--model.init_args.projector=[16, 16]'
    biased = '--data.init_args.pairing=biased'
    torchgeo('fit', *configs, *SHORT, save, projector, biased)
    run = tmp_path / 'pretrain' / 'version_0'
    hparams = yaml.safe_load((run / 'hparams.yaml').read_text())
    assert hparams['model'] == {'small': 'alexnet_small', 'paper': 'alexnet'}[size]
    assert hparams['size'] == {'small': 64, 'paper': 224}[size]
    encoders = {
        m: str(run / 'encoders' / f'{m}.safetensors') for m in ('first', 'second')
    }

    configs = [f'--config={FOLDER}/trifeature/probe_{s}.yaml' for s in sizes]
    options = [
        *(*configs, *SHORT, save),
        '--data.init_args.val_length=8',
        f'--model.init_args.weights={encoders}',
    ]
    labels = axes('trifeature')
    for label in labels if size == 'small' else ['synergy']:
        torchgeo('fit', *options, *labels[label])
        newest = max(
            (tmp_path / 'probe').glob('version_*/checkpoints/*.ckpt'),
            key=lambda path: path.stat().st_mtime_ns,
        )
        torchgeo('test', *options, *labels[label], f'--ckpt_path={newest}')
        found = tmp_path.glob('probe/version_*/metrics.csv')
        with max(found, key=lambda path: path.stat().st_mtime_ns).open() as file:
            row = next(csv.DictReader(file))
        assert 0 <= float(row['test_AverageAccuracy']) <= 1
