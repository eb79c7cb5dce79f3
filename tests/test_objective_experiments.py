"""Check every file of experiments/objectives with experiments/synthetic.yaml."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from torchgeo_decur import tasks

ROOT = Path(__file__).parents[1] / 'experiments'
FILES = {path.stem: path for path in sorted((ROOT / 'objectives').glob('*.yaml'))}
FUSED = ('comm', 'coral', 'infmasking')
SMALL = (
    '--data.length=4',
    '--data.val_length=24',
    '--data.size=32',
    '--data.batch_size=2',
    '--data.num_workers=0',
    '--model.size=32',
    '--trainer.max_epochs=1',
    '--trainer.log_every_n_steps=1',
    '--trainer.enable_progress_bar=false',
)
Torchgeo = Callable[..., None]


@pytest.mark.parametrize('name', FILES)
def test_only_the_model_differs(name: str) -> None:
    content = yaml.safe_load(FILES[name].read_text())
    assert list(content) == ['model']
    assert set(content['model']) <= {'class_path', 'init_args'}


@pytest.mark.parametrize('name', FILES)
def test_takes_two_steps(
    name: str, torchgeo: Torchgeo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = ('--config', ROOT / 'synthetic.yaml', '--config', FILES[name])
    torchgeo('fit', *files, *SMALL)
    folder = tmp_path / 'outputs' / 'synthetic' / 'version_0'
    with (folder / 'metrics.csv').open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row['train_loss']) for row in rows if row['train_loss']]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    (path,) = (folder / 'checkpoints').glob('*.ckpt')
    checkpoint = torch.load(path, weights_only=True)
    options = checkpoint['task_hyper_parameters']
    block = yaml.safe_load(FILES[name].read_text())['model']
    # What the objective says, and what it leaves as synthetic.yaml has it.
    given = block.get('init_args', {})
    assert {k: options[k] for k in given} == given
    assert options['model'] == 'test_resnet' and options['lr'] == 1e-3
    objective = getattr(tasks, block['class_path'].rpartition('.')[2])
    trained = objective.load_from_checkpoint(path)
    exported = {p.name for p in (folder / 'encoders').glob('*.safetensors')}
    expected = {f'{m}.safetensors' for m in trained.hparams['modalities']}
    if name == 'coral':
        expected |= {f'{m}_unique.safetensors' for m in trained.hparams['modalities']}
    assert exported == expected | ({'fusion.safetensors'} if name in FUSED else set())

    tail = ('--ckpt_path', path, '--trainer.max_epochs=2')
    if name in FUSED:
        torchgeo('fit', *files, *SMALL, *tail)
        (path,) = tmp_path.glob('outputs/synthetic/version_1/checkpoints/*.ckpt')
        assert torch.load(path, weights_only=True)['global_step'] == 4
        torchgeo('predict', *files, *SMALL, '--ckpt_path', path)


def test_one_line_of_yaml_changes_the_objective(
    torchgeo: Torchgeo, decur_yaml: Callable[..., Path]
) -> None:
    path = decur_yaml(
        model__class_path='torchgeo_decur.tasks.CLIP', trainer__max_epochs=1
    )
    torchgeo('fit', '--config', path)
    with (path.parent / 'run' / 'metrics.csv').open() as file:
        assert 'train_cross_s1_s2' in next(csv.reader(file))


@pytest.mark.parametrize('name', ['radar', 'optics'])
def test_evidence_runs_with_one_modality(
    name: str, torchgeo: Torchgeo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = ROOT / 'evidence'
    files = ('--config', folder / 'pretrain.yaml', '--config', folder / f'{name}.yaml')
    torchgeo('fit', *files, *SMALL, '--model.projector=[16]')
    (path,) = tmp_path.rglob('*.safetensors')
    assert path.stem == {'radar': 's1', 'optics': 's2'}[name]
