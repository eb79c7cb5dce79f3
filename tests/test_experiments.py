"""Check every YAML file under experiments/, also for two steps on small files."""

import csv
import math
import re
import shlex
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from rasterio.transform import from_origin

from tests.helpers.fake_data import fake
from torchgeo_decur.datasets import SyntheticEO
from torchgeo_decur.tasks import DeCUR

ROOT = Path(__file__).parents[1]
FILES = {path.stem: path for path in sorted((ROOT / 'experiments').glob('*.yaml'))}

# What makes each experiment small; everything else is as in the file.
SMALL = {
    'geonrw_decur_resnet50': ('--data.size=32', '--data.val_fraction=0.5'),
    'geonrw_decur_resnet50_rda': (
        '--data.size=32',
        '--data.val_fraction=0.5',
        '--model.model=resnet18_rda',
    ),
    'synthetic': ('--data.length=4', '--data.val_length=24', '--data.size=32'),
    'rasters_decur': (
        '--data.length=4',
        '--data.patch_size=32',
        '--data.val_fraction=0.3',
    ),
    'ssl4eo_s12_decur_resnet50': ('--data.val_fraction=0.5',),
    'ssl4eo_s12_decur_resnet50_rda': (
        '--data.val_fraction=0.5',
        '--model.model=resnet18_rda',
    ),
    'ssl4eo_s12_v1_1_decur_resnet50': (),
    'terramesh_decur_resnet50': (),
    'torchgeo_decur': ('--data.val_fraction=0.5',),
    'ssl4eo_s12_decur_vits16': ('--data.val_fraction=0.5', '--model.model=test_vit'),
    'sunrgbd_decur_resnet50': ('--data.val_fraction=0.4', '--data.size=[32, 40]'),
    **dict.fromkeys(
        ('sunrgbd_decur_mit_b2', 'sunrgbd_decur_mit_b5'),
        ('--data.val_fraction=0.4', '--data.size=[32, 40]', '--model.model=mit_b0'),
    ),
}
# Options of the published scripts: backbone, batch of a device, epochs, rates of weights
# and of biases, weight decay, dimensions in common.
RECIPES = {
    'geonrw_decur_resnet50': ('resnet50', 64, 100, 0.2, 0.0048, 1e-6, 6144),
    'geonrw_decur_resnet50_rda': ('resnet50_rda', 64, 100, 1e-4, 1e-4, 0.01, 6144),
    'ssl4eo_s12_decur_resnet50': ('resnet50', 64, 100, 0.05, 0.0048, 1e-6, 7168),
    'ssl4eo_s12_decur_resnet50_rda': (
        *('resnet50_rda', 128, 200),
        *(1e-4, 1e-4, 0.01, 7168),
    ),
    'ssl4eo_s12_decur_vits16': (
        *('vit_small_patch16_224', 128, 200),
        *(1e-4, 1e-4, 0.01, 7168),
    ),
    'sunrgbd_decur_mit_b2': ('mit_b2', 32, 200, 1e-4, 0.0048, 1e-4, 6144),
    'sunrgbd_decur_mit_b5': ('mit_b5', 32, 200, 1e-4, 0.0048, 1e-4, 6144),
    'sunrgbd_decur_resnet50': ('resnet50', 32, 200, 0.05, 0.0048, 1e-6, 6144),
}
ALL = (
    '--model.model=test_resnet',
    '--model.weights=null',
    '--model.projector=[16, 16]',
    '--model.size=32',
    '--data.batch_size=2',
    '--data.num_workers=0',
    '--trainer.accelerator=cpu',
    '--trainer.devices=1',
    '--trainer.max_steps=2',
    '--trainer.log_every_n_steps=1',
    '--trainer.num_sanity_val_steps=0',
    '--trainer.enable_model_summary=false',
    '--trainer.enable_progress_bar=false',
)


@pytest.fixture(scope='module')
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with fake files in place of the data of the experiments."""
    folder = tmp_path_factory.mktemp('experiments')
    data = folder / 'data'
    SyntheticEO(length=4, size=48, num_dates=4).write(
        data / 'ssl4eo_s12', 'ssl4eo_s12', progress=False
    )
    SyntheticEO(length=2, size=64).write(
        data / 'geonrw', 'geonrw', progress=False, cities=['aachen']
    )
    fake('ssl4eo_s12_v1_1').make(data / 'ssl4eo_s12_v1_1', {'train': 4, 'val': 2})
    fake('terramesh').make(data / 'terramesh', {'train': (2, 2), 'val': (2, 0)})
    fake('torchgeo_samples').make_sen12ms(data / 'sen12ms')
    # Its labels are MATLAB's, which not every installation can write.
    if find_spec('h5py'):
        fake('sunrgbd').make(data / 'sunrgbd')
    scene = SyntheticEO(length=1, size=160, modalities=('s2', 'dem'))[0]
    spectral = scene['image_s2'][[1, 2, 3, 7]].numpy().astype(np.uint16)
    write(data / 'spectral' / 'scene.tif', spectral)
    write(data / 'dem' / 'scene.tif', scene['image_dem'].numpy())
    return folder


def write(path: Path, bands: Any) -> None:
    """Write a georeferenced file of bands (C, H, W)."""
    path.parent.mkdir(parents=True)
    count, height, width = bands.shape
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        count=count,
        height=height,
        width=width,
        dtype=bands.dtype,
        crs='EPSG:32633',
        transform=from_origin(300000, 5400000, 10, 10),
    ) as file:
        file.write(bands)


@pytest.fixture
def command(
    torchgeo: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., LightningCLI]:
    """Return the command `torchgeo`, which parses and builds but does not run."""

    def build(*args: Any) -> LightningCLI:
        found: list[LightningCLI] = []

        def cli(**kwargs: Any) -> None:
            found.append(LightningCLI(**kwargs, run=False))

        monkeypatch.setattr('torchgeo.main.LightningCLI', cli)
        torchgeo(*args)
        return found[0]

    return build


@pytest.mark.parametrize('name', FILES)
def test_builds_as_it_is(
    name: str, command: Callable[..., LightningCLI], monkeypatch: pytest.MonkeyPatch
) -> None:
    # smp reads rates of stochastic depth back, which a tensor without memory has not.
    monkeypatch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))
    # Tensors without memory: the projectors of the recipes have 300 million weights.
    with torch.device('meta'):
        cli = command(
            '--config', FILES[name], '--trainer.accelerator=cpu', '--model.weights=null'
        )
    assert isinstance(cli.model, DeCUR)
    assert set(cli.model.encoders.num_features) == set(cli.datamodule.modalities)
    for m, modality in cli.datamodule.modalities.items():
        assert cli.model.hparams['modalities'][m] == modality.channels


@pytest.mark.parametrize('name', RECIPES)
def test_recipe_is_that_of_the_published_script(name: str) -> None:
    config = yaml.safe_load(FILES[name].read_text())
    model, trainer = config['model']['init_args'], config['trainer']
    found = (
        *(model['model'], config['data']['init_args']['batch_size']),
        *(trainer['max_epochs'], model['lr'], model['lr_biases']),
        *(model['weight_decay'], model['common_ratio'] * model['projector'][-1]),
    )
    assert found == RECIPES[name]
    assert trainer['devices'] == 4 and trainer['sync_batchnorm']
    assert 'warmup_epochs' not in model and model['lambda_param'] == 0.0051
    assert model['optimizer'] == ('lars' if model['model'] == 'resnet50' else 'adamw')


# tests/test_terminal.py runs the quickstart.
@pytest.mark.parametrize('name', sorted(FILES.keys() - {'quickstart'}))
def test_trains_with_options_of_the_command_line(
    name: str,
    here: Path,
    torchgeo: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(here)
    if name.startswith('sunrgbd'):
        pytest.importorskip('h5py')
    torchgeo('fit', '--config', FILES[name], *ALL, *SMALL[name])
    (folder,) = (here / 'outputs' / name).glob('version_*')
    with (folder / 'metrics.csv').open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row['train_loss']) for row in rows if row['train_loss']]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    (checkpoint,) = (folder / 'checkpoints').glob('epoch*.ckpt')
    task = DeCUR.load_from_checkpoint(checkpoint)
    exported = {path.name for path in (folder / 'encoders').iterdir()}
    assert exported == {
        f'{m}.{suffix}'
        for m in task.hparams['modalities']
        for suffix in ('pt', 'safetensors')
    }


def test_refuses_options_that_differ_from_the_checkpoint(
    tmp_path: Path, torchgeo: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ('fit', '--config', FILES['synthetic'], *ALL, *SMALL['synthetic'])
    torchgeo(*options)
    outputs = tmp_path / 'outputs' / 'synthetic'
    (checkpoint,) = (outputs / 'version_0' / 'checkpoints').glob('epoch*.ckpt')
    more = (f'--ckpt_path={checkpoint}', '--trainer.max_steps=3')
    for option, message in (
        ('model=resnet18', 'model: expected resnet18, found test_resnet'),
        ('projector=[8]', r'projector: expected \[8\], found \[16, 16\]'),
    ):
        with pytest.raises(ValueError, match=message):
            torchgeo(*options, *more, f'--model.init_args.{option}')
    with pytest.raises(ValueError, match='task: expected BarlowTwins, found DeCUR'):
        torchgeo(*options, *more, '--model.class_path=torchgeo_decur.tasks.BarlowTwins')
    torchgeo(*options, *more, '--model.init_args.lambda_param=0.5')
    newest = max(outputs.glob('version_*'), key=lambda path: path.stat().st_mtime_ns)
    (again,) = (newest / 'checkpoints').glob('epoch*.ckpt')
    assert DeCUR.load_from_checkpoint(again).hparams['lambda_param'] == 0.5


def test_tables_name_every_file() -> None:
    folder = ROOT / 'experiments'
    linked = re.findall(r'\(([\w/-]+\.yaml)\)', (folder / 'README.md').read_text())
    found = [str(path.relative_to(folder)) for path in folder.rglob('*.yaml')]
    assert sorted(linked) == sorted(found)


def commands() -> list[str]:
    """Return each documented command with a file of experiments/."""
    texts = [ROOT / 'experiments' / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
    joined = '\n'.join(path.read_text() for path in texts).replace('\\\n', ' ')
    found = r'^(?:\$ )?(torchgeo \w+ --config experiments/.*)$'
    return list(dict.fromkeys(re.findall(found, joined, re.M)))


@pytest.mark.parametrize('line', commands())
def test_documented_command_is_understood(
    line: str,
    torchgeo: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT)
    _, *args = shlex.split(line)
    with pytest.raises(SystemExit) as stopped:
        torchgeo(*args, '--print_config')
    assert stopped.value.code == 0
    assert 'class_path' in capsys.readouterr().out
